#!/usr/bin/env bash
# reproduce_table.sh [--out=PATH] [RUN_DIR...]: our validation losses next to the published ones, as Markdown tables,
# and the validation curves of each model size. See --help; reproduce_table.py does all of it.
set -euo pipefail

if ! command -v python3 >/dev/null; then
    echo "reproduce_table.sh: python3 is missing: install it, or run bash scripts/install_deps.sh" >&2
    exit 1
fi
exec python3 "$(dirname "$0")/reproduce_table.py" "$@"
