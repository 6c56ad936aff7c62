#!/usr/bin/env bash
# GPT-2 XL with Moonlight: config/xl_moonlight.json; --help says what run.sh can do.
exec bash "$(dirname "$0")/run.sh" xl_moonlight "$@"
