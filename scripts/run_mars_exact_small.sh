#!/usr/bin/env bash
# GPT-2 small with MARS-AdamW (exact): config/small_mars_exact.json; --help says what run.sh can do.
exec bash "$(dirname "$0")/run.sh" small_mars_exact "$@"
