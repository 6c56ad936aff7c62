#!/usr/bin/env bash
# download.sh [N] [--edu | --edu100]: FineWeb as GPT-2 tokens, ready to train on: N training shards, or all of them, and
# the validation shard, each of 100 million tokens and 200 MB.
#
#   (no option)    10 billion tokens of FineWeb: 103 training shards, of huggingface.co/datasets/kjj0/fineweb10B-gpt2,
#                  into data/fineweb/10B
#   --edu          10 billion tokens of FineWeb-Edu: 99 training shards, of kjj0/finewebedu10B-gpt2, into
#                  data/fineweb/edu10B
#   --edu100       100 billion tokens of FineWeb-Edu: 1001 training shards, of
#                  karpathy/fineweb-edu-100B-gpt2-token-shards, into data/fineweb/edu100B; config/*_fw.json train on it
#   HF_ENDPOINT=https://huggingface.co    another host of the same data sets
#
# Says what it downloads and how large that is before it does. Started again, it goes on where it was; shards that are
# here are left alone. Every shard's size, checksum and header are checked.
set -euo pipefail
export LC_ALL=C # numbers without separators of thousands where they are read

# shellcheck source=data/prepare/fetch.sh
source "$(dirname "$0")/../prepare/fetch.sh"
cd "$(dirname "$0")/../.."

shards='' part=10B
for argument in "$@"; do
    case $argument in
        --edu) part=edu10B ;;
        --edu100) part=edu100B ;;
        -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; exit 0 ;;
        *)
            if [[ ! $argument =~ ^[1-9][0-9]{0,5}$ ]] || [ -n "$shards" ]; then
                fetch_fail \
                    "unexpected argument $argument; expected one number of shards, --edu or --edu100; see --help" 2
            fi
            shards=$argument
            ;;
    esac
done
case $part in
    10B) repository=kjj0/fineweb10B-gpt2 name=fineweb ;;
    edu10B) repository=kjj0/finewebedu10B-gpt2 name=finewebedu ;;
    edu100B) repository=karpathy/fineweb-edu-100B-gpt2-token-shards name=edu_fineweb ;;
esac
folder=data/fineweb/$part

# shard_tokens FILE: how many tokens its header says it has; nothing where that is no header of llm.c, version 1.
shard_tokens() {
    local magic version tokens
    read -r magic version tokens < <(od -A n -t d4 -N 12 "$1")
    if [ "$magic $version" = "20240520 1" ]; then echo "$tokens"; fi
}

shard_problem() {
    local tokens bytes
    tokens=$(shard_tokens "$1") bytes=$(fetch_size "$1")
    if [ -z "$tokens" ]; then
        echo "it does not begin with the header of a token shard"
    elif [ "$bytes" -ne $((1024 + 2 * tokens)) ]; then
        echo "its header promises $tokens tokens, which is $((1024 + 2 * tokens)) bytes, and it has $bytes"
    fi
}

# tokens_of FILE...: the sum, after a check of each.
tokens_of() {
    local file problem sum=0
    for file in "$@"; do
        problem=$(shard_problem "$file")
        [ -z "$problem" ] || fetch_fail "$file: $problem; remove it and start this again"
        sum=$((sum + $(shard_tokens "$file")))
    done
    echo $sum
}

fetch_into $folder
fetch_hub "$repository"
fetch_add_hub "${name}_val_*.bin"
fetch_add_hub "${name}_train_*.bin" "$shards"
# shellcheck disable=SC2034 # fetch.sh calls it
fetch_check=shard_problem
fetch_all "FineWeb $part ($repository)"

# What the trainer passes on to sample_gpt2 with a checkpoint.
printf '{"tokenizer": "gpt2", "vocab_size": 50257, "source": ["%s"]}\n' "$repository" >"$folder/tokens.json"
train=("$folder/${name}"_train_*.bin) val=("$folder/${name}"_val_*.bin)
echo "training: $(tokens_of "${train[@]}") tokens in ${#train[@]} files; validation: $(tokens_of "${val[@]}") tokens"
echo "to train on them: --data.train='$folder/${name}_train_*.bin' --data.val='$folder/${name}_val_*.bin'"
