#!/usr/bin/env bash
# GPT-2 small with MARS-AdamW: config/small_mars.json; --help says what run.sh can do.
exec bash "$(dirname "$0")/run.sh" small_mars "$@"
