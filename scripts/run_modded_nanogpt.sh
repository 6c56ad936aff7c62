#!/usr/bin/env bash
# modded-nanogpt's GPT-2 with Muon, 5,100 steps: config/modded_nanogpt.json; --help says what run.sh can do.
exec bash "$(dirname "$0")/run.sh" modded_nanogpt "$@"
