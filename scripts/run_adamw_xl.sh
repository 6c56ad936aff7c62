#!/usr/bin/env bash
# GPT-2 XL with AdamW: config/xl_adamw.json; --help says what run.sh can do.
exec bash "$(dirname "$0")/run.sh" xl_adamw "$@"
