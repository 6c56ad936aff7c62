#!/usr/bin/env bash
# GPT-2 small with AdamW on FineWeb-Edu: config/small_adamw_fw.json; --help says what run.sh can do.
exec bash "$(dirname "$0")/run.sh" small_adamw_fw "$@"
