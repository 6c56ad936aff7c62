#!/usr/bin/env bash
# GPT-2 medium with Moonlight: config/medium_moonlight.json; --help says what run.sh can do.
exec bash "$(dirname "$0")/run.sh" medium_moonlight "$@"
