#!/usr/bin/env bash
# GPT-2 XL with Moonlight on FineWeb-Edu: config/xl_moonlight_fw.json; --help says what run.sh can do.
exec bash "$(dirname "$0")/run.sh" xl_moonlight_fw "$@"
