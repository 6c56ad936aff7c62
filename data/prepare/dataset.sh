# shellcheck shell=bash
# dataset.sh: what the scripts share that make tokens of a data set with prepare_data. Sourced, not run; downloads are
# fetch.sh's, which it sources.
#
#   enter_repository         goes to the repository's root, and sets BIN, where prepare_data is: what the caller's BIN names,
#                            or else the root
#   check_folder FOLDER      ends the script if files in FOLDER are in the way of the new tokens, before anything is downloaded
#   publish FOLDER SOURCE    FOLDER/unfinished/train holds the output of prepare_data, and unfinished/val that of a half for
#                            validation, if there is one: they go to FOLDER in place of what prepare_data made there before,
#                            with a tokens.json that names SOURCE. What is replaced: see token_folder.py.
#
# Until then nothing of the new tokens is in FOLDER: a converter that fails looks to prepare_data like an end of its input.

# shellcheck source=data/prepare/fetch.sh
source "$(dirname "${BASH_SOURCE[0]}")/fetch.sh"

enter_repository() {
    BIN=$(realpath "${BIN:-$(dirname "$0")/../..}")
    cd "$(dirname "$0")/../.." || exit
    [ -x "$BIN/prepare_data" ] || fetch_fail "$BIN/prepare_data is not built; run make"
}

check_folder() { python3 -S data/prepare/token_folder.py check "$1"; }

publish() { python3 -S data/prepare/token_folder.py publish "$1" "$2"; }
