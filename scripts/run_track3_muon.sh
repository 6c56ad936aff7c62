#!/usr/bin/env bash
# Track 3 of modded-nanogpt with Muon, 3,250 steps: config/track3_muon.json; --help says what run.sh can do.
exec bash "$(dirname "$0")/run.sh" track3_muon "$@"
