#!/usr/bin/env bash
# GPT-2 XL with AdamW on FineWeb-Edu: config/xl_adamw_fw.json; --help says what run.sh can do.
exec bash "$(dirname "$0")/run.sh" xl_adamw_fw "$@"
