#!/usr/bin/env bash
# GPT-2 small with SGD-SaI: config/small_sgd_sai.json; --help says what run.sh can do.
exec bash "$(dirname "$0")/run.sh" small_sgd_sai "$@"
