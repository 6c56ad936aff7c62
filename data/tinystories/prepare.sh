#!/usr/bin/env bash
# prepare.sh: TinyStories as GPT-2 tokens: train_*.bin and val_000000.bin in data/tinystories. These are the stories by
# GPT-4 (TinyStoriesV2-GPT4), with the division into training and validation that they were published with.
#
#   BIN=.                                 where prepare_data is
#   HF_ENDPOINT=https://huggingface.co    another host of the same data set (roneneldan/TinyStories)
#
# Downloads 2.3 GB, and the vocabulary; says the exact sizes before it does. Started again, the download goes on where it
# was; files that are here are left alone. The tokens are made anew each time, and replace older ones when all are
# complete.
set -euo pipefail
export LC_ALL=C

# shellcheck source=data/prepare/dataset.sh
source "$(dirname "$0")/../prepare/dataset.sh"

case ${1-} in
    -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; exit 0 ;;
esac
[ $# -eq 0 ] || fetch_fail "unexpected argument $1; there are no options; leave it out" 2
enter_repository

folder=data/tinystories repository=roneneldan/TinyStories
bash data/gpt2/download.sh
check_folder $folder
fetch_into $folder
fetch_hub $repository
fetch_add_hub TinyStoriesV2-GPT4-valid.txt
fetch_add_hub TinyStoriesV2-GPT4-train.txt
fetch_all "TinyStories ($repository)" $((fetch_sizes[0] + fetch_sizes[1]))

new=$folder/unfinished
rm -rf $new
prepare() {
    "$BIN/prepare_data" --tokenizer=gpt2 --vocab=data/gpt2 --separator='<|endoftext|>' --val_fraction=0 "$@"
}
prepare --out=$new/val $folder/TinyStoriesV2-GPT4-valid.txt
prepare --out=$new/train $folder/TinyStoriesV2-GPT4-train.txt
publish $folder $repository
echo "to train on them: --data.train='$folder/train_*.bin' --data.val=$folder/val_000000.bin"
