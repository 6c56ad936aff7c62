#!/usr/bin/env bash
# GPT-2 small with MARS-M: config/small_mars_m.json; --help says what run.sh can do.
exec bash "$(dirname "$0")/run.sh" small_mars_m "$@"
