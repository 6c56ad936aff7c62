#!/usr/bin/env bash
# GPT-2 large with AdamW: config/large_adamw.json; --help says what run.sh can do.
exec bash "$(dirname "$0")/run.sh" large_adamw "$@"
