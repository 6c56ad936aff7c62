#!/usr/bin/env bash
# GPT-2 XL with MARS-M: config/xl_mars_m.json; --help says what run.sh can do.
exec bash "$(dirname "$0")/run.sh" xl_mars_m "$@"
