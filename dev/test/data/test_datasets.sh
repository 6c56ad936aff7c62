#!/usr/bin/env bash
# test_datasets.sh: tests of the scripts that download and prepare data sets. Prints "N passed, N failed" at its end.
#
# They run in copies of the scripts' folders, against a web server of this machine (file_server.py) that has small data
# sets of the same layout and breaks transfers when told to. MARS_BIN says where prepare_data is.
# shellcheck source=dev/test/script_fixture.sh
source "$(dirname "$0")/../script_fixture.sh"

root=$PWD
coproc SERVER { exec python3 -S dev/test/data/file_server.py "$scratch"; }
trap 'kill $SERVER_PID; rm -rf "$scratch"' EXIT
read -r port <&"${SERVER[0]}"
export FETCH_PAUSE=0 FETCH_TRIES=3 no_proxy=127.0.0.1

# serve: makes $here/web a site of the server, and copies the scripts to $here/repo.
serve() {
    mkdir -p "$here/web/faults" "$here/repo"
    ln -s "$here/web" "$scratch/web_${here##*/}"
    export HF_ENDPOINT=http://127.0.0.1:$port/web_${here##*/}
    cp --parents data/*/*.sh data/*/*.py data/*/*.list "$here/repo"
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
    sed -nE "/ 302$/d;s|^/([^ ]*/)?$1 (.*)|\\2|p" "$here/web/requests" | paste -sd ' '
}

# shards FOLDER NAME=TOKENS...: token shards of llm.c's format, with tokens that differ.
shards() {
    mkdir -p "$1"
    python3 -S -c '
import struct, sys
for name, tokens in (word.split("=") for word in sys.argv[2:]):
    with open(f"{sys.argv[1]}/{name}.bin", "wb") as file:
        file.write(struct.pack("<256i", 20240520, 1, int(tokens), *[0] * 253))
        file.write(struct.pack(f"<{tokens}H", *[i * 7 % 50257 for i in range(int(tokens))]))' "$@"
}

# A small FineWeb: a validation shard and three to train on.
fineweb() {
    serve
    hub=$here/web/kjj0/fineweb10B-gpt2 folder=data/fineweb/10B
    shards "$hub" fineweb_val_000000=300 fineweb_train_00000{1=1000,2=900,3=800}
    echo "about it" >"$hub/README.md"
}

is_whole() {
    local name
    for name in "$@"; do cmp "$hub/$name" "$folder/$name"; done
    [ -z "$(find data -name '*.part')" ]
}

# ---- fetch.sh ----

# site NAME...: files of 3000 bytes that differ, and a script data/get.sh NAME... that downloads them into got.
site() {
    local name
    serve
    export WEB=$here/web
    for name in "$@"; do
        head -c 3000 /dev/urandom >"$WEB/$name"
    done
    cat >data/get.sh <<'END'
set -euo pipefail
source data/prepare/fetch.sh
fetch_into got
for name; do
    sum=$(sha256sum <"$WEB/$name")
    fetch_add "$HF_ENDPOINT/$name" "$(fetch_size "$WEB/$name")" "${sum%% *}" "$name"
done
fetch_all Files "${MORE:-0}"
END
}
get() { bash data/get.sh "$@"; }

came() {
    local name
    for name in "$@"; do cmp "$WEB/$name" "got/$name"; done
    [ -z "$(find got -name '*.part')" ]
}

test_downloads_survive_what_passes() {
    site broken busy other whole killed full mine
    faults broken "break 100" "status 503" "break 500" "break 0" fine
    faults busy "status 429 1" "status 500" fine
    faults other "other 3000" fine
    faults whole "break 1000" whole whole
    mkdir got
    head -c 1500 "$WEB/killed" >got/killed.part # of a run that was killed
    cp "$WEB/full" got/full.part
    echo "no download" >got/mine
    SECONDS=0
    run 0 get broken busy other whole killed full mine
    [ $SECONDS -ge 1 ] # as the host asked
    came broken busy other whole killed full mine
    [ "$(requests broken)" = "0 200 100 503 100 206 600 206 600 206" ]
    [ "$(requests busy)" = "0 429 0 500 0 200" ]
    [ "$(requests other)" = "0 200 0 200" ]
    has "$here/output" "should be $(sha256sum <"$WEB/other" | cut -c 1-64): once more from its beginning"
    [ "$(requests whole)" = "0 200 1000 200 0 200" ]
    [ "$(requests killed)" = "1500 206" ]
    [ "$(requests full)" = "" ]
    # Now there is nothing to do.
    rm "$WEB/requests"
    run 0 get broken busy other whole killed full mine
    has "$here/output" "Files: 7 files, 21.0 kB, in got"
    has "$here/output" "all are here"
    [ ! -e "$WEB/requests" ]
}

test_downloads_say_what_they_will_do() {
    site a b c d e
    run 0 get a
    run 0 get a b c d e
    cat >"$here/expected" <<EOF
Files: 5 files, 15.0 kB, in got
  $HF_ENDPOINT/b  3.0 kB
  $HF_ENDPOINT/c  3.0 kB
  $HF_ENDPOINT/d  3.0 kB
  $HF_ENDPOINT/e  3.0 kB
  to download: 4 files, 12.0 kB; free on that disk: 
[1/4] b  3.0 kB
[2/4] c  3.0 kB
[3/4] d  3.0 kB
[4/4] e  3.0 kB
EOF
    sed 's/disk: .*/disk: /' "$here/output" | diff "$here/expected" -
}

test_downloads_that_stay_broken_go_on_later() {
    site a b
    faults a "break 700" "break 0" "break 0" "break 0" fine
    run 1 get a b
    has "$here/output" "data/get.sh: cannot download got/a"
    has "$here/output" "from $HF_ENDPOINT/a"
    has "$here/output" "The transfer broke."
    has "$here/output" "Start the same command again to go on"
    [ "$(find got -type f)" = got/a.part ]
    run 0 get a b
    has "$here/output" "to download: 2 files, 5.3 kB"
    [ "$(requests a)" = "0 200 700 206 700 206 700 206 700 206" ]
    came a b
}

test_downloads_stop_when_told() {
    site a
    faults a "hold 700" fine
    bash data/get.sh a &
    until [ -s "$WEB/requests" ]; do sleep 0.01; done
    kill $!
    wait $! && return 1
    [ ! -e got/a ]
    run 0 get a # nothing is at work in the folder any more
    came a
}

# refused FAULT... TEXT: what comes with this fault in every request ends the program with the text, and gets no name.
refused() {
    local text=${*: -1}
    faults a "${@:1:$#-1}"
    : >"$WEB/requests"
    run 1 get a
    has "$here/output" "cannot download got/a"
    has "$here/output" "from $HF_ENDPOINT/a"
    has "$here/output" "$text"
    [ ! -e got/a ]
}

test_downloads_refuse_what_is_not_the_file() {
    site a
    refused "other 3000" "other 3000" "What the host sends is not the file: its SHA-256 is"
    refused "other 90" "other 90" "other 90" "other 90" "What the host sends is not the file: it has 90 bytes and should have 3000"
    refused "other 9000" "other 9000" "What the host sends is not the file: it has 9000 bytes and should have 3000"
    [ -z "$(ls got)" ]
    refused "status 404" "The host answers with HTTP status 404."
    [ "$(requests a)" = "0 404" ] # asking again would not help
    refused "status 500" "status 500" "status 500" "The host answers with HTTP status 500."
    HF_ENDPOINT=http://127.0.0.1:1 refused fine "No connection to the host."
    # To newer versions of curl, the answer that there is nothing after what is here is a success.
    mkdir "$here/bin"
    curl=$(command -v curl)
    command_file "$here/bin/curl" <<END
status=0
$curl "\$@" >"$here/written" || status=\$?
cat "$here/written"
if [ \$status = 22 ] && grep -q '416$' "$here/written"; then exit 0; fi
exit \$status
END
    PATH=$here/bin:$PATH refused "other 90" "other 90" "other 90" "other 90" "What the host sends is not the file: it has 90 bytes and should have 3000"
    # A beginning of something else is no obstacle.
    head -c 1500 /dev/zero >got/a.part
    rm "$WEB/faults/a"
    run 0 get a
    came a
}

test_downloads_need_room_and_the_folder_for_themselves() {
    site a b
    mkdir "$here/bin" got
    printf 'echo file system; echo disk 100 93 7 93%% /\n' | command_file "$here/bin/df"
    PATH=$here/bin:$PATH MORE=1500 run 1 get a b
    has "$here/output" "got needs 7.5 kB and its disk has 7.2 kB"
    has "$here/output" "1.5 kB of it are for what is made of the files"
    PATH=$here/bin:$PATH MORE=1000 run 0 get a b
    run 1 flock got bash data/get.sh a b
    has "$here/output" "another program downloads into got"
    FETCH_TRIES=none run 2 get a
    FETCH_PAUSE=-1 run 2 get a
}

# ---- FineWeb ----

test_fineweb_shards() {
    fineweb
    faults tree "status 502" fine
    run 0 bash data/fineweb/download.sh 2
    is_whole fineweb_val_000000.bin fineweb_train_000001.bin fineweb_train_000002.bin
    has $folder/tokens.json '"tokenizer": "gpt2"'
    [ "$(find $folder -type f | wc -l)" -eq 4 ]
    has "$here/output" "FineWeb 10B (kjj0/fineweb10B-gpt2): 3 files, 7.5 kB, in data/fineweb/10B"
    has "$here/output" "$HF_ENDPOINT/datasets/kjj0/fineweb10B-gpt2/resolve/main/fineweb_train_000002.bin  2.8 kB"
    has "$here/output" "training: 1900 tokens in 2 files; validation: 300 tokens"
    has "$here/output" "--data.train='data/fineweb/10B/fineweb_train_*.bin' --data.val='data/fineweb/10B/fineweb_val_*.bin'"
    run 0 bash data/fineweb/download.sh
    is_whole fineweb_val_000000.bin fineweb_train_00000{1,2,3}.bin
    [ "$(requests fineweb_train_000001.bin)" = "0 200" ]
    has "$here/output" "to download: 1 files, 2.6 kB"
    has "$here/output" "training: 2700 tokens in 3 files"
    run 2 bash data/fineweb/download.sh 4
    has "$here/output" "has only 3 files fineweb_train_*.bin, not 4"
}

test_fineweb_edu() {
    serve
    shards "$here/web/kjj0/finewebedu10B-gpt2" finewebedu_val_000000=10 finewebedu_train_000001=20
    shards "$here/web/karpathy/fineweb-edu-100B-gpt2-token-shards" edu_fineweb_val_000000=30 edu_fineweb_train_000001=40
    run 0 bash data/fineweb/download.sh --edu 1
    has "$here/output" "--data.train='data/fineweb/edu10B/finewebedu_train_*.bin'"
    run 0 bash data/fineweb/download.sh --edu100
    has "$here/output" "training: 40 tokens in 1 files; validation: 30 tokens"
    # The folder is that of the published configs.
    has "$root/config/small_adamw_fw.json" '"data/fineweb/edu100B/edu_fineweb_train_*.bin"'
    [ -f data/fineweb/edu100B/edu_fineweb_train_000001.bin ]
}

test_fineweb_headers() {
    fineweb
    printf 'two' >>"$hub/fineweb_train_000001.bin"
    run 1 bash data/fineweb/download.sh 1
    has "$here/output" "its header promises 1000 tokens, which is 3024 bytes, and it has 3027"
    head -c 3000 /dev/zero >"$hub/fineweb_train_000001.bin"
    run 1 bash data/fineweb/download.sh 1
    has "$here/output" "it does not begin with the header of a token shard"
    [ "$(ls $folder)" = fineweb_val_000000.bin ]
}

test_fineweb_wrong_arguments() {
    serve
    run 2 bash data/fineweb/download.sh 0
    run 2 bash data/fineweb/download.sh 1 2
    run 2 bash data/fineweb/download.sh --edu1000
    has "$here/output" "unexpected argument --edu1000"
    run 0 bash data/fineweb/download.sh --help
    has "$here/output" "download.sh [N] [--edu | --edu100]"
    [ ! -e data/fineweb/10B ]
    # No such data set there.
    run 1 bash data/fineweb/download.sh --edu
    has "$here/output" "cannot download the list of files"
    has "$here/output" "from $HF_ENDPOINT/api/datasets/kjj0/finewebedu10B-gpt2/tree/main"
    has "$here/output" "HTTP status 404"
}

# ---- what makes tokens ----

# A site for texts, with a vocabulary of GPT-2's form and size: its merges are the first 50000 pairs of bytes, so that
# each token is one byte or two.
texts() {
    serve
    export BIN GITHUB_RAW=$HF_ENDPOINT
    mkdir -p "$scratch/gpt2"
    echo '[ -f data/gpt2/encoder.json ]' >data/gpt2/download.sh
    [ -f "$scratch/gpt2/vocab.bpe" ] || python3 -S -c "$letters"'
pairs = [left + " " + right for left in letters for right in letters][:50000]
tokens = letters + [pair.replace(" ", "") for pair in pairs] + ["<|endoftext|>"]
with open(sys.argv[1] + "/encoder.json", "w") as file:
    json.dump({token: number for number, token in enumerate(tokens)}, file)
with open(sys.argv[1] + "/vocab.bpe", "w", encoding="utf-8") as file:
    file.write("\n".join(["#version: 0.2", *pairs, ""]))' "$scratch/gpt2"
    cp "$scratch"/gpt2/* data/gpt2
}
letters='
import json, struct, sys
printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
others = [byte for byte in range(256) if byte not in printable]
letters = [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]
'

# text_of FILE: the text of a file of tokens, in either format.
text_of() {
    python3 -S -c "$letters"'
with open("data/gpt2/encoder.json") as file:
    names = list(json.load(file))
byte_of = dict(zip(letters, printable + others))
with open(sys.argv[1], "rb") as file:
    data = file.read()
if data[:4] == struct.pack("<i", 20240520):
    data = data[1024:]
for (token,) in struct.iter_unpack("<H", data):
    sys.stdout.buffer.write(bytes(byte_of[letter] for letter in names[token]))' "$1"
}

# ---- OpenWebText ----

# parquet FILE TEXT...: a parquet file with these texts. Where Python has no pyarrow, it is a stand-in that a stand-in of
# pyarrow reads: JSON, from which errors come as from the real one.
parquet() {
    local file=$1
    shift
    mkdir -p "${file%/*}"
    if python3 -c 'import pyarrow' 2>/dev/null && [ ! -d "$here/python" ]; then
        python3 -c '
import sys, pyarrow, pyarrow.parquet
pyarrow.parquet.write_table(pyarrow.table({"text": sys.argv[2:]}), sys.argv[1], row_group_size=2)' "$file" "$@"
        return
    fi
    mkdir -p "$here/python/pyarrow"
    export PYTHONPATH=$here/python
    cat >"$here/python/pyarrow/__init__.py" <<'END'
class ArrowException(Exception):
    pass
END
    cat >"$here/python/pyarrow/parquet.py" <<'END'
import json
import types

import pyarrow


class ParquetFile:
    def __init__(self, path):
        with open(path) as file:
            try:
                self.rows = json.load(file)
            except ValueError as error:
                raise pyarrow.ArrowException("this is not a parquet file") from error
        self.schema_arrow = types.SimpleNamespace(names=["text"])
        self.metadata = types.SimpleNamespace(num_rows=len(self.rows))

    def iter_batches(self, batch_size, columns):
        assert columns == ["text"]
        for i in range(0, len(self.rows), 2):
            column = types.SimpleNamespace(to_pylist=lambda: self.rows[i : i + 2])
            yield types.SimpleNamespace(column=lambda number: column)
END
    python3 -S -c 'import json, sys; print(json.dumps(sys.argv[1:]))' "$@" >"$file"
}

convert() { python3 data/openwebtext/parquet_to_jsonl.py "$@"; }

test_parquet_becomes_json_lines() {
    serve
    parquet "$here/1.parquet" one $'two "quoted" \\ lines\n\tand a tab' "three: caf$(printf '\303\251')"
    parquet "$here/2.parquet" '' five
    convert "$here/1.parquet" "$here/2.parquet" >"$here/lines"
    printf '%s\n' '{"text": "one"}' '{"text": "two \"quoted\" \\ lines\n\tand a tab"}' '{"text": "three: café"}' \
        '{"text": ""}' '{"text": "five"}' | diff - "$here/lines"
    printf '%s\n' '# of 5 documents' 0 3 >"$here/list"
    convert --hold_out="$here/list" --held_out="$here/held_out" "$here/1.parquet" "$here/2.parquet" | diff - <(sed -n '2p;3p;5p' "$here/lines")
    diff "$here/held_out" <(sed -n '1p;4p' "$here/lines")
}

test_parquet_errors() {
    serve
    parquet "$here/1.parquet" one two three
    echo "no parquet" >"$here/2.parquet"
    run 1 convert "$here/1.parquet" "$here/2.parquet"
    has "$here/output" "cannot read $here/2.parquet: "
    run 1 convert "$here/3.parquet"
    has "$here/output" "cannot read $here/3.parquet: "
    run 1 convert --column=story "$here/1.parquet"
    has "$here/output" "has no column story; it has text"
    run 2 convert --hold_out="$here/list" "$here/1.parquet"
    printf '%s\n' '# of 4 documents' 0 >"$here/list"
    run 1 convert --hold_out="$here/list" --held_out="$here/held_out" "$here/1.parquet"
    has "$here/output" "$here/list is about 4 documents, and these files have 3"
    printf '%s\n' '# of 3 documents' zero >"$here/list"
    run 1 convert --hold_out="$here/list" --held_out="$here/held_out" "$here/1.parquet"
    has "$here/output" "$here/list, line 2: there should be the number of a document"
    run 1 bash -c "python3 data/openwebtext/parquet_to_jsonl.py '$here/1.parquet' >/dev/full"
    has "$here/output" "cannot write: "
    PYTHONPATH='' run 1 python3 -S -I data/openwebtext/parquet_to_jsonl.py "$here/1.parquet"
    has "$here/output" "-m pip install pyarrow"
}

test_documents_of_nanogpt() {
    # 4007 of 8013769, in order, none twice.
    grep -v '^#' data/openwebtext/nanogpt_validation.list >"$here/numbers"
    has data/openwebtext/nanogpt_validation.list '# of 8013769 documents'
    sort -nuc "$here/numbers"
    [ "$(wc -l <"$here/numbers")" -eq 4007 ]
    [ "$(tail -n 1 "$here/numbers")" -lt 8013769 ]
    # As numpy 1.23, 1.24 and 2.4 draw them.
    [ "$(head -c -1 "$here/numbers" | sha256sum | cut -c 1-16)" = c9b5c7746e00f1a0 ]
}

# described FOLDER TEXT...: its tokens.json holds these, and right numbers of tokens; the vocabulary lies next to it.
described() {
    local folder=$1 text half header
    shift
    tr -d '\n\t' <"$folder/tokens.json" >"$here/tokens.json"
    header=$(if [ -f "$folder/train.bin" ]; then echo 0; else echo 1024; fi)
    for half in train val; do
        text="\"${half}_tokens\": $((($(cat "$folder/$half"*.bin | wc -c) - header) / 2)),"
        has "$here/tokens.json" "$text"
    done
    for text; do has "$here/tokens.json" "$text"; done
    cmp data/gpt2/encoder.json "$folder/encoder.json"
    cmp data/gpt2/vocab.bpe "$folder/vocab.bpe"
}

# A small OpenWebText, of two files with three documents each.
openwebtext() {
    texts
    hub=$here/web/Skylion007/openwebtext/plain_text
    parquet "$hub/train-00000-of-00002.parquet" zero one "two, the third"
    parquet "$hub/train-00001-of-00002.parquet" "three" "four: caf$(printf '\303\251')" five
    printf '%s\n' '# of 6 documents' 1 4 >data/openwebtext/nanogpt_validation.list
}

test_openwebtext() {
    openwebtext
    run 0 bash data/openwebtext/prepare.sh
    has "$here/output" "OpenWebText (Skylion007/openwebtext): 2 files, "
    has "$here/output" "resolve/main/plain_text/train-00001-of-00002.parquet"
    [ "$(text_of data/openwebtext/train.bin)" = 'zero<|endoftext|>two, the third<|endoftext|>three<|endoftext|>five<|endoftext|>' ]
    [ "$(text_of data/openwebtext/val.bin)" = 'one<|endoftext|>four: café<|endoftext|>' ]
    has "$here/output" "$(printf 'val.bin %17s tokens; nanoGPT:      4,434,897' "$(($(stat -c %s data/openwebtext/val.bin) / 2))")"
    has "$here/output" "tokens; nanoGPT:  9,035,582,198"
    [ ! -e data/openwebtext/unfinished ]
    described data/openwebtext '"val_from": "source"' '"documents": 6' '"source": ["Skylion007/openwebtext"]'
    # A file that does not hold what it should: the tokens that are there stay, and nothing new looks like tokens.
    echo "no parquet" >"$hub/train-00001-of-00002.parquet"
    cp data/openwebtext/train.bin "$here"
    run 1 bash data/openwebtext/prepare.sh
    has "$here/output" "cannot read data/openwebtext/parquet/train-00001-of-00002.parquet"
    cmp data/openwebtext/train.bin "$here/train.bin"
    # A part of the files: prepare_data divides the documents.
    run 1 bash data/openwebtext/prepare.sh --files=1
    has "$here/output" "OpenWebText (Skylion007/openwebtext): 1 files, "
    has "$here/output" "none of the 3 documents was drawn for validation"
    cmp data/openwebtext/train.bin "$here/train.bin"
}

# Token files that prepare_data did not make stay, and the script ends before it downloads anything.
test_files_of_others() {
    openwebtext
    local folder=data/openwebtext
    echo mine >$folder/train.bin
    run 1 bash $folder/prepare.sh
    has "$here/output" "$folder/train.bin is in the way: no tokens.json there lists it as made by prepare_data; move it away"
    [ "$(cat $folder/train.bin)" = mine ]
    [ ! -e $folder/parquet ]
    mv $folder/train.bin $folder/train_12.bin
    run 1 bash $folder/prepare.sh
    mv $folder/train_12.bin $folder/trained.bin
    run 0 bash $folder/prepare.sh
    # A second time it replaces its own; also without a list, as version 0.1.0 left them, and after a stop in the middle.
    cp $folder/train.bin $folder/val.bin "$here"
    run 0 bash $folder/prepare.sh
    tr -d '\n' <$folder/tokens.json >"$here/tokens.json"
    sed 's/,[^,]*"files": {[^}]*}//' "$here/tokens.json" >$folder/tokens.json
    lacks $folder/tokens.json files
    run 0 bash $folder/prepare.sh
    has $folder/tokens.json files
    mv $folder/tokens.json $folder/.tokens.json.old
    rm $folder/val.bin
    run 0 bash $folder/prepare.sh
    cmp $folder/train.bin "$here/train.bin"
    cmp $folder/val.bin "$here/val.bin"
    [ ! -e $folder/.tokens.json.old ]
    # prepare_data agrees about whose they are.
    echo text >"$here/text"
    run 0 "$BIN/prepare_data" --tokenizer=bytes --val_fraction=0 --out=$folder "$here/text"
    [ ! -e $folder/train.bin ]
    [ "$(cat $folder/trained.bin)" = mine ]
    # Without a list, and other numbers of tokens than are recorded.
    tr -d '\n' <$folder/tokens.json | sed 's/,[^,]*"files":\s*{[^}]*}//; s/"train_tokens":\s*[0-9]*/"train_tokens": 7/' \
        >"$here/tokens.json"
    cp "$here/tokens.json" $folder/tokens.json
    run 1 bash $folder/prepare.sh
    has "$here/output" "$folder/train_000000.bin is in the way"
}

test_openwebtext_needs_things() {
    openwebtext
    run 2 bash data/openwebtext/prepare.sh --files=all
    run 2 bash data/openwebtext/prepare.sh --file=1
    run 0 bash data/openwebtext/prepare.sh --help
    has "$here/output" "prepare.sh [--files=N] [--repository=NAME]"
    PYTHON=nopython run 1 bash data/openwebtext/prepare.sh
    has "$here/output" "PYTHON=nopython is no program"
    BIN=data run 1 bash data/openwebtext/prepare.sh
    has "$here/output" "prepare_data is not built; run make"
    command_file "$here/plain_python" <<<'exec python3 -S -I "$@"'
    PYTHON=$here/plain_python run 1 bash data/openwebtext/prepare.sh --files=1
    has "$here/output" "data/openwebtext/venv/bin/pip install pyarrow"
    has "$here/output" "PYTHON=data/openwebtext/venv/bin/python data/openwebtext/prepare.sh --files=1"
    run 2 bash data/openwebtext/prepare.sh --files=3
    has "$here/output" "has only 2 files train-*.parquet, not 3"
    run 1 bash data/openwebtext/prepare.sh --repository=mine/openwebtext
    has "$here/output" "api/datasets/mine/openwebtext/tree/main/plain_text"
    [ -z "$(find data/openwebtext -name '*.bin')" ]
}

# ---- the smaller texts ----

test_tinystories() {
    texts
    hub=$here/web/roneneldan/TinyStories
    mkdir -p "$hub"
    printf 'Once there was\na cat.\n<|endoftext|>\nThe end.\n' >"$hub/TinyStoriesV2-GPT4-train.txt"
    printf 'A dog.\n<|endoftext|>\n' >"$hub/TinyStoriesV2-GPT4-valid.txt"
    echo other >"$hub/TinyStories-train.txt"
    run 0 bash data/tinystories/prepare.sh
    has "$here/output" "TinyStories (roneneldan/TinyStories): 2 files, 66 bytes, in data/tinystories"
    [ "$(text_of data/tinystories/train_000000.bin)" = $'<|endoftext|>Once there was\na cat.<|endoftext|>The end.' ]
    [ "$(text_of data/tinystories/val_000000.bin)" = '<|endoftext|>A dog.' ]
    described data/tinystories '"val_from": "source"' '"documents": 3' '"source": ["roneneldan/TinyStories"]'
    [ "$(find data/tinystories -name '*.bin' | wc -l)" -eq 2 ]
    run 2 bash data/tinystories/prepare.sh 1
}

test_tinyshakespeare() {
    texts
    hub=$here/web/karpathy/char-rnn/master/data/tinyshakespeare
    mkdir -p "$hub"
    echo "Speak, speak." >"$hub/input.txt"
    run 1 bash data/tinyshakespeare/prepare.sh
    has "$here/output" "What the host sends is not the file: it has 14 bytes and should have 1115394"
    [ -z "$(find data/tinyshakespeare -name 'input*')" ]
    run 2 bash data/tinyshakespeare/prepare.sh --tokenizer=words
}

test_hellaswag() {
    texts
    hub=$here/web/rowanz/hellaswag/master/data
    mkdir -p "$hub"
    run 1 bash data/hellaswag/prepare.sh
    has "$here/output" "The host answers with HTTP status 404."
    echo '{"ctx": "A man", "endings": ["sits", "runs", "is", "was"], "label": 1}' >"$hub/hellaswag_val.jsonl"
    faults hellaswag_val.jsonl "break 20"
    run 0 bash data/hellaswag/prepare.sh
    has "$here/output" "HellaSwag, validation (rowanz/hellaswag): 1 files, 71 bytes, in data/hellaswag"
    has "$here/output" "1 examples in data/hellaswag/hellaswag.bin"
    [ "$(requests hellaswag_val.jsonl)" = "0 200 20 206" ]
    [ "$(($(wc -c <data/hellaswag/hellaswag.bin) % 2))" -eq 0 ]
    run 2 bash data/hellaswag/prepare.sh 1
}

run_script_tests "$@"
