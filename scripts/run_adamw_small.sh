#!/usr/bin/env bash
# GPT-2 small with AdamW: config/small_adamw.json; --help says what run.sh can do.
exec bash "$(dirname "$0")/run.sh" small_adamw "$@"
