#!/usr/bin/env bash
# GPT-2 medium with AdamW: config/medium_adamw.json; --help says what run.sh can do.
exec bash "$(dirname "$0")/run.sh" medium_adamw "$@"
