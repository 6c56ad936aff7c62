#!/usr/bin/env bash
# GPT-2 large with MARS-M at gamma 0.01: config/large_mars_m_gamma001.json; --help says what run.sh can do.
exec bash "$(dirname "$0")/run.sh" large_mars_m_gamma001 "$@"
