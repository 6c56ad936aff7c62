#!/usr/bin/env bash
# prepare.sh [--tokenizer=gpt2 | bytes]: a million characters of Shakespeare as tokens: train_000000.bin and
# val_000000.bin in data/tinyshakespeare, the last tenth for validation, as nanoGPT splits it.
#
#   BIN=.                                           where prepare_data is
#   GITHUB_RAW=https://raw.githubusercontent.com    another host of the same file
#
# Downloads 1.1 MB, and the vocabulary for GPT-2's tokens; what is here is left alone. The tokens are made anew each
# time. Of GPT-2's there are 338,025, which is checked.
set -euo pipefail
export LC_ALL=C

# shellcheck source=data/prepare/dataset.sh
source "$(dirname "$0")/../prepare/dataset.sh"

tokenizer=gpt2
for argument in "$@"; do
    case $argument in
        --tokenizer=gpt2 | --tokenizer=bytes) tokenizer=${argument#*=} ;;
        -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; exit 0 ;;
        *) fetch_fail "unknown argument $argument; expected --tokenizer=gpt2 or --tokenizer=bytes; see --help" 2 ;;
    esac
done
enter_repository

folder=data/tinyshakespeare text_bytes=1115394
fetch_into $folder
fetch_add "$GITHUB_RAW/karpathy/char-rnn/master/data/tinyshakespeare/input.txt" $text_bytes \
    86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed input.txt
fetch_all "tinyshakespeare (karpathy/char-rnn)" $((2 * text_bytes))

options=("--tokenizer=$tokenizer" --val_fraction=0.1 --out="$folder")
expected=$text_bytes vocabulary=256
if [ "$tokenizer" = gpt2 ]; then
    bash data/gpt2/download.sh
    options+=(--vocab=data/gpt2 --document_token=none)
    expected=338025 vocabulary=50257
fi
"$BIN/prepare_data" "${options[@]}" $folder/input.txt

# An llm.c shard is 1024 bytes of header and 2 for each token.
tokens=$((($(fetch_size $folder/train_000000.bin) + $(fetch_size $folder/val_000000.bin)) / 2 - 1024))
[ $tokens -eq $expected ] || fetch_fail "the text gave $tokens tokens and should give $expected: a fault of prepare_data"
echo "$tokens tokens, as there should be"
echo "to train on them: --data.train=$folder/train_000000.bin --data.val=$folder/val_000000.bin (vocab_size $vocabulary or more)"
