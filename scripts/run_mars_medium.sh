#!/usr/bin/env bash
# GPT-2 medium with MARS-AdamW: config/medium_mars.json; --help says what run.sh can do.
exec bash "$(dirname "$0")/run.sh" medium_mars "$@"
