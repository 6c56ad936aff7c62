#!/usr/bin/env bash
# GPT-2 medium with MARS-M at gamma 0.01: config/medium_mars_m_gamma001.json; --help says what run.sh can do.
exec bash "$(dirname "$0")/run.sh" medium_mars_m_gamma001 "$@"
