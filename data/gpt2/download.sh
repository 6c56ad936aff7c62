#!/usr/bin/env bash
# download.sh: GPT-2's vocabulary, encoder.json and vocab.bpe, as OpenAI published it, into data/gpt2, where the gpt2
# tokenizer looks for it.
#
#   GPT2_URL=https://openaipublic.blob.core.windows.net/gpt-2/models/124M    another host of the two files
#
# Downloads 1.5 MB. Each file's size and SHA-256 are checked, also of those that are here: right ones are left alone,
# others are downloaded again. Started again, it goes on where it was.
set -euo pipefail
export LC_ALL=C

# shellcheck source=data/prepare/fetch.sh
source "$(dirname "$0")/../prepare/fetch.sh"
cd "$(dirname "$0")/../.."

case ${1-} in
    '') ;;
    -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) fetch_fail "unknown argument $1; there is only --help; leave it out" 2 ;;
esac

url=${GPT2_URL:-https://openaipublic.blob.core.windows.net/gpt-2/models/124M}

# vocabulary_file NAME BYTES SHA256
vocabulary_file() {
    local problem file=data/gpt2/$1
    if [ -e "$file" ]; then
        problem=$(fetch_problem "$file" "$2" "$3")
        if [ -n "$problem" ]; then
            echo "$file is not the published one: $problem"
            rm "$file"
        fi
    fi
    fetch_add "$url/$1" "$2" "$3" "$1"
}

fetch_into data/gpt2
vocabulary_file encoder.json 1042301 196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783
vocabulary_file vocab.bpe 456318 1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5
fetch_all "GPT-2's vocabulary"
