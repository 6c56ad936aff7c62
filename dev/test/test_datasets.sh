#!/usr/bin/env bash
# test_datasets.sh: tests of the scripts that download and prepare data sets. Prints "N passed, N failed" at its end.
#
# They run in copies of the scripts' folders, against a web server of this machine (file_server.py) that has small data
# sets of the same layout and breaks transfers when told to. MARS_BIN says where prepare_data is.
# shellcheck source=dev/test/script_fixture.sh
source "$(dirname "$0")/script_fixture.sh"

coproc SERVER { exec python3 -S dev/test/file_server.py "$scratch"; }
trap 'kill $SERVER_PID; rm -rf "$scratch"' EXIT
read -r port <&"${SERVER[0]}"
export FETCH_PAUSE=0 FETCH_TRIES=3 no_proxy=127.0.0.1

# serve: makes $here/web a site of the server, and copies the scripts to $here/repo.
serve() {
    mkdir -p "$here/web/faults" "$here/repo"
    ln -s "$here/web" "$scratch/web_${here##*/}"
    export HF_ENDPOINT=http://127.0.0.1:$port/web_${here##*/}
    (cd data && find . -name '*.sh' -o -name '*.py' -o -name '*.list') | while read -r file; do
        mkdir -p "$here/repo/data/${file%/*}"
        cp "data/$file" "$here/repo/data/$file"
    done
    cd "$here/repo"
}

# faults NAME LINE...: what the server does with the next requests of this file.
faults() {
    local name=$1
    shift
    printf '%s\n' "$@" >"$here/web/faults/$name"
}

# requests NAME: the requests of a file: where each began, and the status.
requests() {
    sed -n "/ 302$/d;s|^/[^ ]*/$1 \(.*\)|\1|p" "$here/web/requests" | paste -sd ' '
}

# shard FILE TOKENS: a token shard of llm.c's format, with tokens that differ.
shard() {
    mkdir -p "${1%/*}"
    python3 -c '
import struct, sys
tokens = int(sys.argv[2])
with open(sys.argv[1], "wb") as file:
    file.write(struct.pack("<256i", 20240520, 1, tokens, *[0] * 253))
    file.write(struct.pack(f"<{tokens}H", *[i * 7 % 50257 for i in range(tokens)]))' "$1" "$2"
}

# A small FineWeb: a validation shard and three to train on.
fineweb() {
    serve
    hub=$here/web/kjj0/fineweb10B-gpt2 shards=data/fineweb/10B
    shard "$hub/fineweb_val_000000.bin" 300
    shard "$hub/fineweb_train_000001.bin" 1000
    shard "$hub/fineweb_train_000002.bin" 900
    shard "$hub/fineweb_train_000003.bin" 800
    echo "about it" >"$hub/README.md"
}

is_whole() {
    local name
    for name in "$@"; do cmp "$hub/$name" "$shards/$name"; done
    if [ -n "$(find data -name '*.part')" ]; then ls -R data; return 1; fi
}

# ---- downloads ----

test_shards_are_downloaded_and_described() {
    fineweb
    run 0 bash data/fineweb/download.sh 2
    is_whole fineweb_val_000000.bin fineweb_train_000001.bin fineweb_train_000002.bin
    [ "$(find $shards -type f | wc -l)" -eq 3 ]
    has "$here/output" "3 files, 7.5 kB, in data/fineweb/10B"
    has "$here/output" "$HF_ENDPOINT/datasets/kjj0/fineweb10B-gpt2/resolve/main/fineweb_train_000002.bin  2.8 kB"
    has "$here/output" "to download: 3 files, 7.5 kB"
    has "$here/output" "training: 1900 tokens in 2 files; validation: 300 tokens"
    has "$here/output" "--data.train='data/fineweb/10B/fineweb_train_*.bin' --data.val='data/fineweb/10B/fineweb_val_*.bin'"
    # What is here is left alone, and what is missing comes.
    touch -d '2001-01-01' $shards/*
    run 0 bash data/fineweb/download.sh
    is_whole fineweb_val_000000.bin fineweb_train_00000{1,2,3}.bin
    [ "$(requests fineweb_train_000001.bin)" = "0 200" ]
    [ "$(find $shards -type f -newermt 2002-01-01 | wc -l)" -eq 1 ]
    has "$here/output" "to download: 1 files, 2.6 kB"
    rm "$here/web/requests"
    run 0 bash data/fineweb/download.sh 3
    has "$here/output" "all are here"
    if grep resolve "$here/web/requests"; then return 1; fi
}

test_other_fineweb_sets_have_their_folders() {
    serve
    shard "$here/web/kjj0/finewebedu10B-gpt2/finewebedu_val_000000.bin" 10
    shard "$here/web/kjj0/finewebedu10B-gpt2/finewebedu_train_000001.bin" 20
    shard "$here/web/karpathy/fineweb-edu-100B-gpt2-token-shards/edu_fineweb_val_000000.bin" 30
    shard "$here/web/karpathy/fineweb-edu-100B-gpt2-token-shards/edu_fineweb_train_000001.bin" 40
    run 0 bash data/fineweb/download.sh --edu 1
    has "$here/output" "--data.train='data/fineweb/edu10B/finewebedu_train_*.bin'"
    run 0 bash data/fineweb/download.sh --edu100
    has "$here/output" "training: 40 tokens in 1 files; validation: 30 tokens"
    # The folders are those of the published configs.
    has "$OLDPWD/config/small_mars_fw.json" '"data/fineweb/edu100B/edu_fineweb_train_*.bin"'
    [ -f data/fineweb/edu100B/edu_fineweb_train_000001.bin ]
}

test_a_broken_transfer_goes_on_where_it_stopped() {
    fineweb
    faults fineweb_train_000001.bin "break 100" "status 503" "break 500" "break 0" fine
    run 0 bash data/fineweb/download.sh 1
    is_whole fineweb_val_000000.bin fineweb_train_000001.bin
    [ "$(requests fineweb_train_000001.bin)" = "0 200 100 503 100 206 600 206 600 206" ]
}

test_a_file_that_stays_broken_ends_it_and_the_next_run_goes_on() {
    fineweb
    faults fineweb_train_000001.bin "break 700" "break 0" "break 0" "break 0" fine
    run 1 bash data/fineweb/download.sh 1
    has "$here/output" "cannot download data/fineweb/10B/fineweb_train_000001.bin"
    has "$here/output" "from $HF_ENDPOINT/datasets/kjj0/fineweb10B-gpt2/resolve/main/fineweb_train_000001.bin"
    has "$here/output" "The transfer broke."
    has "$here/output" "Start the same command again to go on"
    [ ! -e $shards/fineweb_train_000001.bin ]
    [ "$(wc -c <$shards/fineweb_train_000001.bin.part)" -eq 700 ]
    run 0 bash data/fineweb/download.sh 1
    has "$here/output" "to download: 1 files, 2.3 kB"
    [ "$(requests fineweb_train_000001.bin)" = "0 200 700 206 700 206 700 206 700 206" ]
    is_whole fineweb_val_000000.bin fineweb_train_000001.bin
}

test_a_killed_download_goes_on() {
    fineweb
    mkdir -p $shards
    head -c 1500 "$hub/fineweb_train_000001.bin" >$shards/fineweb_train_000001.bin.part
    cp "$hub/fineweb_train_000002.bin" $shards/fineweb_train_000002.bin.part
    run 0 bash data/fineweb/download.sh
    is_whole fineweb_train_00000{1,2,3}.bin
    [ "$(requests fineweb_train_000001.bin)" = "1500 206" ]
    [ -z "$(requests fineweb_train_000002.bin)" ]
}

test_errors_of_the_host_pass_or_last() {
    fineweb
    faults fineweb_val_000000.bin "status 429 1" "status 500" fine
    faults tree "status 502" fine
    SECONDS=0
    run 0 bash data/fineweb/download.sh 1
    [ $SECONDS -ge 1 ] # as the host asked
    [ "$(requests fineweb_val_000000.bin)" = "0 429 0 500 0 200" ]
    faults fineweb_train_000002.bin "status 404"
    run 1 bash data/fineweb/download.sh 2
    [ "$(requests fineweb_train_000002.bin)" = "0 404" ] # asking again would not help
    has "$here/output" "The host answers with HTTP status 404."
    [ "$(find $shards -name '*_000002*' | wc -l)" -eq 0 ]
    faults fineweb_train_000002.bin "status 500" "status 500" "status 500"
    run 1 bash data/fineweb/download.sh 2
    has "$here/output" "The host answers with HTTP status 500."
    has "$here/output" "resolve/main/fineweb_train_000002.bin"
    faults tree "status 401"
    run 1 bash data/fineweb/download.sh 2
    has "$here/output" "cannot download the list of files"
    has "$here/output" "from $HF_ENDPOINT/api/datasets/kjj0/fineweb10B-gpt2/tree/main"
    HF_ENDPOINT=http://127.0.0.1:1 run 1 bash data/fineweb/download.sh 2
    has "$here/output" "No connection to the host."
}

test_what_is_not_the_file_gets_no_name() {
    fineweb
    # As long, but other bytes; the second time right.
    faults fineweb_val_000000.bin "other 1624" fine
    run 0 bash data/fineweb/download.sh 1
    has "$here/output" "should be $(sha256sum <"$hub/fineweb_val_000000.bin" | cut -c 1-64): once more from its beginning"
    is_whole fineweb_val_000000.bin
    # Wrong each time; too short; too long.
    for fault in "other 2824" "other 90" "other 9000"; do
        faults fineweb_train_000002.bin "$fault" "$fault" "$fault" "$fault"
        run 1 bash data/fineweb/download.sh 2
        has "$here/output" "What the host sends is not the file: it"
        [ "$(find $shards -name '*_000002*' | wc -l)" -eq 0 ]
    done
    rm "$here/web/faults/fineweb_train_000002.bin"
    # A beginning of another version of the file.
    head -c 1500 /dev/zero >$shards/fineweb_train_000002.bin.part
    run 0 bash data/fineweb/download.sh 2
    is_whole fineweb_train_000002.bin
    # A server that sends files only whole.
    faults fineweb_train_000003.bin "break 1000" whole whole
    run 0 bash data/fineweb/download.sh 3
    is_whole fineweb_train_000003.bin
    # What is here in another size is not the shard.
    echo mine >$shards/fineweb_train_000003.bin
    run 0 bash data/fineweb/download.sh
    is_whole fineweb_train_000003.bin
}

test_a_shard_has_a_true_header() {
    fineweb
    printf 'two' >>"$hub/fineweb_train_000001.bin"
    head -c 3000 /dev/zero >"$hub/fineweb_train_000002.bin"
    run 1 bash data/fineweb/download.sh 1
    has "$here/output" "its header promises 1000 tokens, which is 3024 bytes, and it has 3027"
    shard "$hub/fineweb_train_000001.bin" 1000
    run 1 bash data/fineweb/download.sh 2
    has "$here/output" "it does not begin with the header of a token shard"
    [ -f $shards/fineweb_train_000001.bin ]
    [ ! -e $shards/fineweb_train_000002.bin ]
}

test_downloads_refuse_what_they_cannot_do() {
    fineweb
    run 2 bash data/fineweb/download.sh 0
    run 2 bash data/fineweb/download.sh 1 2
    run 2 bash data/fineweb/download.sh --edu1000
    has "$here/output" "unexpected argument --edu1000"
    run 2 bash data/fineweb/download.sh 4
    has "$here/output" "has only 3 files fineweb_train_*.bin, not 4"
    run 1 bash data/fineweb/download.sh --edu
    has "$here/output" "HTTP status 404"
    FETCH_TRIES=none run 2 bash data/fineweb/download.sh 1
    FETCH_PAUSE=-1 run 2 bash data/fineweb/download.sh 1
    run 0 bash data/fineweb/download.sh --help
    has "$here/output" "download.sh [N] [--edu | --edu100]"
    # No room: nothing is begun.
    mkdir "$here/bin"
    printf 'echo file system; echo disk 100 93 7 93%% /\n' | command_file "$here/bin/df"
    PATH=$here/bin:$PATH run 1 bash data/fineweb/download.sh
    has "$here/output" "data/fineweb/10B needs 10.1 kB and its disk has 7.2 kB"
    [ -z "$(ls $shards)" ]
    # Another one at work in the same folder.
    run 1 flock $shards bash data/fineweb/download.sh
    has "$here/output" "another program downloads into data/fineweb/10B"
}

run_script_tests "$@"
