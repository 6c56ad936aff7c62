#!/usr/bin/env bash
# prepare.sh [--files=N] [--repository=NAME]: OpenWebText as GPT-2 tokens: train.bin and val.bin in data/openwebtext, in
# nanoGPT's format, which the configs train on.
#
#   --files=N            only the first N of the 80 files, for a smaller set
#   --repository=Skylion007/openwebtext   the data set on Hugging Face, with files plain_text/train-*.parquet
#   PYTHON=python3       a Python that has pyarrow
#   BIN=.                where prepare_data is
#   HF_ENDPOINT=https://huggingface.co    another host of the same data set
#
# Downloads 24 GB and writes 18 GB of tokens next to them; says the exact sizes before it does. Started again, the
# download goes on where it was; files that are here are left alone. The tokens are made anew each time, and replace
# older ones when all are complete.
#
# Of all files, the 4007 documents that nanoGPT validates on become val.bin, out of nanogpt_validation.list, and its
# published numbers of tokens are printed next to ours. nanoGPT also shuffles the documents, and here they stay in the
# order of the data set. Of fewer files, prepare_data draws the same share of the documents.
set -euo pipefail
export LC_ALL=C

# shellcheck source=data/prepare/dataset.sh
source "$(dirname "$0")/../prepare/dataset.sh"

files='' repository=Skylion007/openwebtext
for argument in "$@"; do
    case $argument in
        --files=*) files=${argument#*=} ;;
        --repository=?*) repository=${argument#*=} ;;
        -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; exit 0 ;;
        *) fetch_fail "unknown argument $argument; expected --files=N or --repository=NAME; see --help" 2 ;;
    esac
done
[[ $files =~ ^([1-9][0-9]{0,3})?$ ]] ||
    fetch_fail "--files=$files: expected a number of files from 1 to 9999; see --help" 2
# From here the working directory is the repository's root; paths that were given are the caller's.
python=$(type -P "${PYTHON:-python3}") || fetch_fail "PYTHON=${PYTHON:-python3} is no program"
python=$(realpath -s "$python")
enter_repository

folder=data/openwebtext
"$python" -c 'import pyarrow.parquet' 2>/dev/null || fetch_fail "$python has no pyarrow, which reads the data set's files. To have it:
  python3 -m venv $folder/venv && $folder/venv/bin/pip install pyarrow
  PYTHON=$folder/venv/bin/python $0${*:+ $*}"
bash data/gpt2/download.sh
check_folder $folder

fetch_into $folder/parquet
fetch_hub "$repository" plain_text
fetch_add_hub "train-*.parquet" "$files"
bytes=0
for size in "${fetch_sizes[@]}"; do bytes=$((bytes + size)); done
fetch_all "OpenWebText ($repository)" $((bytes * 3 / 4))
parquet=("${fetch_names[@]/#/$fetch_folder/}")

new=$folder/unfinished
rm -rf $new
mkdir $new
prepare() {
    "$BIN/prepare_data" --tokenizer=gpt2 --vocab=data/gpt2 --format=nanogpt --field=text --document_token=end "$@"
}
convert() { "$python" $folder/parquet_to_jsonl.py "$@"; }
if [ -z "$files" ]; then
    convert --hold_out=$folder/nanogpt_validation.list --held_out=$new/val.jsonl "${parquet[@]}" |
        prepare --val_fraction=0 --out=$new/train -
    prepare --val_fraction=0 --out=$new/val $new/val.jsonl
else
    convert "${parquet[@]}" | prepare --val_from=documents --val_fraction=0.0005 --split_seed=2357 --out=$new/train -
fi
publish $folder "$repository"

# commas NUMBER: as in 9,035,582,198.
commas() { sed ':a;s/\B[0-9]\{3\}\>/,&/;ta' <<<"$1"; }
count() {
    printf '%-27s %14s tokens; nanoGPT%s: %14s\n' "$1" "$(commas $(($(fetch_size "$1") / 2)))" \
        "${files:+, of all files}" "$2"
}
count $folder/train.bin 9,035,582,198
count $folder/val.bin 4,434,897
echo "to train on them: ./train_gpt2 config/small_mars.json; $folder/parquet is no longer needed ($(fetch_human $bytes))"
