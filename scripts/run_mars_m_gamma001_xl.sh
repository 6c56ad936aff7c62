#!/usr/bin/env bash
# GPT-2 XL with MARS-M at gamma 0.01: config/xl_mars_m_gamma001.json; --help says what run.sh can do.
exec bash "$(dirname "$0")/run.sh" xl_mars_m_gamma001 "$@"
