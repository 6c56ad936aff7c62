#!/usr/bin/env bash
# GPT-2 medium with MARS-AdamW (exact): config/medium_mars_exact.json; --help says what run.sh can do.
exec bash "$(dirname "$0")/run.sh" medium_mars_exact "$@"
