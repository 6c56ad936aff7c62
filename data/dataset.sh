# shellcheck shell=bash
# dataset.sh: what the scripts share that make tokens of a data set with prepare_data. Sourced, not run; downloads are
# fetch.sh's, which it sources.
#
#   enter_repository         goes to the repository's root, and sets BIN, where prepare_data is: what the caller's BIN names,
#                            or else the root
#   publish FOLDER SOURCE    FOLDER/unfinished/train holds the output of prepare_data. Where the data set comes divided into
#                            training and validation, that is its training half, made with --val_fraction=0, and
#                            FOLDER/unfinished/val holds the other half, made in the same way. Both go to FOLDER in place of
#                            what was there, with a tokens.json that names SOURCE.
#
# Until then nothing of the new tokens is in FOLDER: a converter that fails looks to prepare_data like an end of its input.

# shellcheck source=data/fetch.sh
source "$(dirname "${BASH_SOURCE[0]}")/fetch.sh"

enter_repository() {
    BIN=$(realpath "${BIN:-$(dirname "$0")/../..}")
    cd "$(dirname "$0")/../.." || exit
    [ -x "$BIN/prepare_data" ] || fetch_fail "$BIN/prepare_data is not built; run make"
}

publish() {
    local folder=$1 source=$2 train=$1/unfinished/train val=$1/unfinished/val file
    if [ -d "$val" ]; then
        for file in "$val"/train*.bin; do mv "$file" "$train/val${file#"$val"/train}"; done
    fi
    python3 -S -c '
import json, os, sys
train, val, source = sys.argv[1:]
with open(f"{train}/tokens.json") as file:
    tokens = json.load(file)
tokens["source"] = [source]
if os.path.isdir(val):
    with open(f"{val}/tokens.json") as file:
        half = json.load(file)
    tokens["val_from"] = "source"
    tokens["val_tokens"] = half["train_tokens"]
    tokens["documents"] += half["documents"]
with open(f"{train}/tokens.json", "w") as file:
    json.dump(tokens, file, indent="\t")' "$train" "$val" "$source"
    # Token files beside a tokens.json belong to it, so it goes first and comes last.
    rm -f "$folder"/tokens.json "$folder"/train*.bin "$folder"/val*.bin
    mv "$train"/*.bin "$train"/encoder.json "$train"/vocab.bpe "$folder"
    mv "$train"/tokens.json "$folder"
    rm -rf "$folder/unfinished"
}
