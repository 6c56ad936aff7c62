#!/usr/bin/env bash
# GPT-2 large with MARS-AdamW (exact): config/large_mars_exact.json; --help says what run.sh can do.
exec bash "$(dirname "$0")/run.sh" large_mars_exact "$@"
