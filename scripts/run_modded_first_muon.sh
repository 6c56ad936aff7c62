#!/usr/bin/env bash
# modded-nanogpt's first run with Muon, 7,000 steps: config/modded_first_muon.json; --help says what run.sh can do.
exec bash "$(dirname "$0")/run.sh" modded_first_muon "$@"
