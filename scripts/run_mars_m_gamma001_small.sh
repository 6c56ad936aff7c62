#!/usr/bin/env bash
# GPT-2 small with MARS-M at gamma 0.01: config/small_mars_m_gamma001.json; --help says what run.sh can do.
exec bash "$(dirname "$0")/run.sh" small_mars_m_gamma001 "$@"
