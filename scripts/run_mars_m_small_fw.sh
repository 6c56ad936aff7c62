#!/usr/bin/env bash
# GPT-2 small with MARS-M on FineWeb-Edu: config/small_mars_m_fw.json; --help says what run.sh can do.
exec bash "$(dirname "$0")/run.sh" small_mars_m_fw "$@"
