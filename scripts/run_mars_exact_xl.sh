#!/usr/bin/env bash
# GPT-2 XL with MARS-AdamW (exact): config/xl_mars_exact.json; --help says what run.sh can do.
exec bash "$(dirname "$0")/run.sh" xl_mars_exact "$@"
