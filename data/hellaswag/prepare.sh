#!/usr/bin/env bash
# prepare.sh: HellaSwag's validation set (10,042 examples; Zellers et al. 2019) as tokens, data/hellaswag/hellaswag.bin,
# for --data.hellaswag: the trainer then prints the share of sentences that the model finishes rightly.
#
#   BIN=.                                            where prepare_data is
#   GITHUB_RAW=https://raw.githubusercontent.com     where the file comes from
set -euo pipefail
export LC_ALL=C
# shellcheck source=data/prepare/dataset.sh
source "$(dirname "$0")/../prepare/dataset.sh"

case ${1-} in
    -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; exit 0 ;;
esac
[ $# -eq 0 ] || fetch_fail "unexpected argument $1; there are no options; leave it out" 2
enter_repository

folder=data/hellaswag url=$GITHUB_RAW/rowanz/hellaswag/master/data/hellaswag_val.jsonl
bash data/gpt2/download.sh
fetch_into $folder
fetch_add_sized "$url" hellaswag_val.jsonl
fetch_all "HellaSwag, validation (rowanz/hellaswag)" "${fetch_sizes[0]}"

"$BIN/prepare_data" --hellaswag --tokenizer=gpt2 --vocab=data/gpt2 --out=$folder $folder/hellaswag_val.jsonl
echo "(the published set has 10042); to evaluate on them: --data.hellaswag=$folder/hellaswag.bin"
