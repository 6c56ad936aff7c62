#!/usr/bin/env bash
# GPT-2 medium with Muon: config/medium_muon.json; --help says what run.sh can do.
exec bash "$(dirname "$0")/run.sh" medium_muon "$@"
