#!/usr/bin/env bash
# GPT-2 XL with MARS-AdamW: config/xl_mars.json; --help says what run.sh can do.
exec bash "$(dirname "$0")/run.sh" xl_mars "$@"
