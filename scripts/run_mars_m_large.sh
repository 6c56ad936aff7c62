#!/usr/bin/env bash
# GPT-2 large with MARS-M: config/large_mars_m.json; --help says what run.sh can do.
exec bash "$(dirname "$0")/run.sh" large_mars_m "$@"
