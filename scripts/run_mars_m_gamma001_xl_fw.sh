#!/usr/bin/env bash
# GPT-2 XL, MARS-M at gamma 0.01, FineWeb-Edu: config/xl_mars_m_gamma001_fw.json; --help says what run.sh can do.
exec bash "$(dirname "$0")/run.sh" xl_mars_m_gamma001_fw "$@"
