#!/usr/bin/env bash
# GPT-2 small with Moonlight on FineWeb-Edu: config/small_moonlight_fw.json; --help says what run.sh can do.
exec bash "$(dirname "$0")/run.sh" small_moonlight_fw "$@"
