#!/usr/bin/env bash
# GPT-2 XL with MARS-M on FineWeb-Edu: config/xl_mars_m_fw.json; --help says what run.sh can do.
exec bash "$(dirname "$0")/run.sh" xl_mars_m_fw "$@"
