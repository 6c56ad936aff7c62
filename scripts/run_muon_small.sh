#!/usr/bin/env bash
# GPT-2 small with Muon: config/small_muon.json; --help says what run.sh can do.
exec bash "$(dirname "$0")/run.sh" small_muon "$@"
