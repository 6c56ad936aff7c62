#!/usr/bin/env bash
# compare_optimizers.sh [OPTION...]: optimizers on the same model, tuned with equal effort, over several seeds. See
# --help; compare_optimizers.py does all of it.
set -euo pipefail

if ! command -v python3 >/dev/null; then
    echo "compare_optimizers.sh: python3 is missing: install it, or run bash scripts/install_deps.sh" >&2
    exit 1
fi
exec python3 "$(dirname "$0")/compare_optimizers.py" "$@"
