#!/usr/bin/env bash
# report.sh [OPTION...] [RUN_DIR...]: one page with the curves and numbers of runs. `report.sh --help` says more.
#
# The work is done by report.py.
set -euo pipefail

command -v python3 >/dev/null || {
    echo "report.sh: python3 is missing: install python3, or run bash scripts/install_deps.sh" >&2
    exit 1
}
exec python3 "$(dirname "$0")/report.py" "$@"
