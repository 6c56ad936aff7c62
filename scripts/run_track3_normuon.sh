#!/usr/bin/env bash
# Track 3 of modded-nanogpt with NorMuon, 3,250 steps: config/track3_normuon.json; --help says what run.sh can do.
exec bash "$(dirname "$0")/run.sh" track3_normuon "$@"
