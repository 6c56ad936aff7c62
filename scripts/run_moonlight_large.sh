#!/usr/bin/env bash
# GPT-2 large with Moonlight: config/large_moonlight.json; --help says what run.sh can do.
exec bash "$(dirname "$0")/run.sh" large_moonlight "$@"
