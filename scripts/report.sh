#!/usr/bin/env bash
# report.sh [OPTION...] [RUN_DIR...]: one page with the curves and numbers of runs, to open in a browser. See --help;
# report.py does all of it.
set -euo pipefail

if ! command -v python3 >/dev/null; then
    echo "report.sh: python3 is missing: install it, or run bash scripts/install_deps.sh" >&2
    exit 1
fi
exec python3 "$(dirname "$0")/report.py" "$@"
