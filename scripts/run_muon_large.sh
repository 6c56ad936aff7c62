#!/usr/bin/env bash
# GPT-2 large with Muon: config/large_muon.json; --help says what run.sh can do.
exec bash "$(dirname "$0")/run.sh" large_muon "$@"
