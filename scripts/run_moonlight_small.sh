#!/usr/bin/env bash
# GPT-2 small with Moonlight: config/small_moonlight.json; --help says what run.sh can do.
exec bash "$(dirname "$0")/run.sh" small_moonlight "$@"
