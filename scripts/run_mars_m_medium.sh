#!/usr/bin/env bash
# GPT-2 medium with MARS-M: config/medium_mars_m.json; --help says what run.sh can do.
exec bash "$(dirname "$0")/run.sh" medium_mars_m "$@"
