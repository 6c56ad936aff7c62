#!/usr/bin/env bash
# test_gpt2_download.sh: tests of data/gpt2/download.sh. Prints "N passed, N failed" at its end.
#
# It runs in a copy of its folder, against a web server of this machine (file_server.py) that has the published files
# and breaks transfers when told to.
# shellcheck source=dev/test/script_fixture.sh
source "$(dirname "$0")/../script_fixture.sh"

coproc SERVER { exec python3 -S dev/test/data/file_server.py "$scratch"; }
trap 'kill $SERVER_PID; rm -rf "$scratch"' EXIT
read -r port <&"${SERVER[0]}"
export FETCH_PAUSE=0 FETCH_TRIES=3 no_proxy=127.0.0.1
vocabulary=$scratch/vocabulary
mkdir "$vocabulary"
cp dev/golden/gpt2/vocab.bpe "$vocabulary"

# encoder.json follows from the other file: bytes in the order of the characters they are written as, merges, the end.
python3 -S -c '
import json, sys
with open(sys.argv[1], encoding="utf-8") as file:
    merges = [line.replace(" ", "") for line in file.read().splitlines()[1:]]
printable = [c for c in range(33, 256) if not 127 <= c <= 160 and c != 173]
tokens = [chr(c) for c in [*printable, *range(256, 324)]] + merges + ["<|endoftext|>"]
with open(sys.argv[2], "w") as file:
    json.dump({token: number for number, token in enumerate(tokens)}, file)' "$vocabulary"/{vocab.bpe,encoder.json}

# serve: a site of the server with both files, and the scripts in $here/repo.
serve() {
    mkdir -p "$here/web/faults" "$here/repo"
    ln -s "$vocabulary"/* "$here/web"
    ln -s "$here/web" "$scratch/web_${here##*/}"
    export GPT2_URL=http://127.0.0.1:$port/web_${here##*/}
    cp --parents data/prepare/fetch.sh data/gpt2/download.sh "$here/repo"
    cd "$here/repo"
}

faults() {
    local name=$1
    shift
    printf '%s\n' "$@" >"$here/web/faults/$name"
}

# requests NAME: where each request of the file began, and its status.
requests() { sed -n "s|^/$1 ||p" "$here/web/requests" | paste -sd ' '; }

files_are_whole() {
    cmp "$vocabulary/encoder.json" data/gpt2/encoder.json
    cmp "$vocabulary/vocab.bpe" data/gpt2/vocab.bpe
    [ "$(ls data/gpt2)" = "$(printf '%s\n' download.sh encoder.json vocab.bpe)" ]
}

test_downloads_both_files_and_leaves_them_alone() {
    serve
    run 0 bash data/gpt2/download.sh
    has "$here/output" "GPT-2's vocabulary: 2 files, 1.5 MB, in data/gpt2"
    has "$here/output" "$GPT2_URL/encoder.json  1.0 MB"
    has "$here/output" "$GPT2_URL/vocab.bpe  456.3 kB"
    files_are_whole
    rm "$here/web/requests"
    cd /
    run 0 bash "$here/repo/data/gpt2/download.sh"
    has "$here/output" "all are here"
    [ ! -e "$here/web/requests" ]
}

test_goes_on_after_broken_transfers() {
    serve
    faults encoder.json "break 400000" "status 503" "break 400000" fine
    head -c 100000 "$vocabulary/vocab.bpe" >data/gpt2/vocab.bpe.part # of a run that was killed
    run 0 bash data/gpt2/download.sh
    files_are_whole
    [ "$(requests encoder.json)" = "0 200 400000 503 400000 206 800000 206" ]
    [ "$(requests vocab.bpe)" = "100000 206" ]
}

test_refuses_another_file() {
    serve
    faults encoder.json "other 1042301" "other 1042301"
    run 1 bash data/gpt2/download.sh
    has "$here/output" "should be 196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"
    [ ! -e data/gpt2/encoder.json ]
    run 0 bash data/gpt2/download.sh
    files_are_whole
}

test_replaces_damaged_files() {
    serve
    tr a b <"$vocabulary/encoder.json" >data/gpt2/encoder.json
    head -c 1000 "$vocabulary/vocab.bpe" >data/gpt2/vocab.bpe
    run 0 bash data/gpt2/download.sh
    has "$here/output" "data/gpt2/encoder.json is not the published one: its SHA-256 is"
    has "$here/output" "data/gpt2/vocab.bpe is not the published one: it has 1000 bytes and should have 456318"
    files_are_whole
}

test_says_what_is_wrong() {
    serve
    run 2 bash data/gpt2/download.sh here
    has "$here/output" "gpt2/download.sh: unknown argument here; there is only --help"
    run 0 bash data/gpt2/download.sh --help
    has "$here/output" "GPT2_URL=https://openaipublic.blob.core.windows.net/gpt-2/models/124M"
    GPT2_URL=$GPT2_URL/nowhere run 1 bash data/gpt2/download.sh
    has "$here/output" "cannot download data/gpt2/encoder.json"
    has "$here/output" "HTTP status 404"
    [ "$(ls data/gpt2)" = download.sh ]
}

run_script_tests "$@"
