#!/usr/bin/env bash
# GPT-2 small, MARS-M at gamma 0.01, FineWeb-Edu: config/small_mars_m_gamma001_fw.json; --help says what run.sh can do.
exec bash "$(dirname "$0")/run.sh" small_mars_m_gamma001_fw "$@"
