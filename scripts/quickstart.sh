#!/usr/bin/env bash
# quickstart.sh [--text-only] [TEXT_FILE]: from a fresh clone to a trained model in a few minutes.
#
# It installs what is missing, builds, gets a real English text, and trains a small GPT-2 on its bytes twice: with the
# optimizer of config/quickstart.json, and with AdamW (config/quickstart_adamw.json). Then it draws both loss curves,
# shows a text that the first model writes, and makes a report page for the browser. The text is TEXT_FILE. Without a
# TEXT_FILE it is Shakespeare, which curl downloads, or the King James Bible from a Debian package, which is unpacked
# here and not installed.
#
#   --text-only              gets the text (data/quickstart/text.txt), and nothing else
#   QUICKSTART_SECONDS=80    how long to train, both runs together
#
# Both runs have the same number of steps: as many as the first one, whose steps take longer, makes in half of the time.
# If the script is run again, it starts anew. Ctrl-C during a run ends that run early, and leaves AdamW's run out if it
# has not begun; then the results of the training so far follow.
set -euo pipefail
export LC_ALL=C # numbers have a decimal point

shakespeare=https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt
smallest_text=20000    # bytes; the last tenth, for validation, must hold some sequences
smallest_download=100000

text_only=no
case ${1:-} in
    -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
    --text-only)
        text_only=yes
        shift
        ;;
esac

heading() { printf '\n== %s\n' "$1"; }
fail() {
    echo "quickstart.sh: $1" >&2
    exit 1
}

[ $# -le 1 ] || fail "$# arguments; expected at most one text file; join the files first, as in: cat $* >all.txt"
given_text=
if [ $# -eq 1 ]; then
    if [ ! -r "$1" ] || [ ! -f "$1" ]; then fail "cannot read $1; expected a text file; correct the path"; fi
    given_text=$(realpath "$1")
fi
seconds=${QUICKSTART_SECONDS:-80}
[[ $seconds =~ ^[1-9][0-9]{0,5}$ ]] ||
    fail "QUICKSTART_SECONDS=$seconds: expected a whole number of seconds from 1 to 999999; unset it for 80"

cd "$(dirname "$0")/.."
BUILD=${BUILD:-build}
BIN=${BIN:-.}
configs=(quickstart quickstart_adamw) # the run of config/NAME.json is runs/NAME
run=runs/quickstart
data=data/quickstart
mkdir -p "$BUILD/quickstart" "$data"
work=$(realpath "$BUILD/quickstart")

# quietly NAME COMMAND...: runs the command with its output in a log, and shows the log's end if the command fails.
quietly() {
    local log=$work/$1.log
    shift
    "$@" >"$log" 2>&1 || { tail -n 30 "$log" >&2; fail "this failed: $* (all of its output: $log)"; }
}

# ---- the text ----

bytes_of() { wc -c <"$1" | tr -d ' '; }

download_shakespeare() {
    command -v curl >/dev/null || return 1
    curl -fsSL --connect-timeout 10 --max-time 20 --retry 1 -o "$1" "$shakespeare" 2>/dev/null &&
        [ "$(bytes_of "$1")" -gt $smallest_download ]
}

# unpack FOLDER PACKAGE...: downloads Debian packages and unpacks them there, which needs no root and installs nothing.
unpack() (
    rm -rf "$1" && mkdir -p "$1" && cd "$1" || exit 1
    shift
    apt-get -qq -o APT::Sandbox::User=root download "$@" || exit 1
    for package in *.deb; do dpkg -x "$package" . || exit 1; done
) 2>/dev/null

# print_bible FOLDER LIBRARIES: prints the text. The package holds it compressed, with a program that prints it and
# looks for it in the current folder. "Ge1:1 In the beginning" becomes "In the beginning".
print_bible() (
    cd "$(dirname "$(find "$1" -name bible.data)")" || exit 1
    LD_LIBRARY_PATH=$2 "$1/usr/bin/bible" -f gen1:1-rev22:21 </dev/null | sed 's/^[0-9A-Za-z]*:[0-9]* //'
)

unpack_bible() {
    local folder=$work/bible readline=$work/readline
    command -v apt-get >/dev/null && command -v dpkg >/dev/null || return 1
    unpack "$folder" bible-kjv bible-kjv-text || return 1
    if ldd "$folder/usr/bin/bible" | grep -q 'readline.*not found'; then
        unpack "$readline" libreadline8t64 || unpack "$readline" libreadline8 || return 1
    fi
    print_bible "$folder" "$(find "$work" -name 'libreadline.so.*' -printf '%h:')" >"$1" || return 1
    rm -rf "$folder" "$readline"
    [ "$(bytes_of "$1")" -gt $smallest_download ]
}

# Sets $text, and says which text it is. Uses a text again that was fetched once.
get_text() {
    local fetched=$data/text.txt
    text=
    if [ -n "$given_text" ]; then
        text=$given_text
    elif [ -s "$fetched" ]; then
        text=$fetched
    elif download_shakespeare "$work/text.txt"; then
        echo "downloaded Shakespeare"
    elif unpack_bible "$work/text.txt"; then
        echo "Shakespeare could not be downloaded; took the King James Bible from Debian's package bible-kjv-text"
    else
        fail "no text: neither $shakespeare nor a Debian package can be reached; give a file: quickstart.sh TEXT_FILE"
    fi
    if [ -z "$text" ]; then
        mv "$work/text.txt" "$fetched"
        text=$fetched
    fi
    [ "$(bytes_of "$text")" -ge $smallest_text ] ||
        fail "$text has $(bytes_of "$text") bytes; training needs at least $smallest_text; give a longer text"
    echo "$text: $(bytes_of "$text") bytes"
}

# ---- the runs ----

# values EVENT FIELD RUN: prints a field of every event of this name in the run's metrics.
values() { python3 scripts/metrics.py values "$1" "$2" "$3"; }

# setting KEY: a whole number of the config.
setting() { "$BIN/train_gpt2" config/quickstart.json --print_config | sed -n "s/^ *\"$1\": \([0-9]*\),*$/\1/p"; }

# Milliseconds of a step on this machine: the median of a few steps after the first, which sets everything up.
measure_step() {
    quietly measure "$BIN/train_gpt2" config/quickstart.json --max_iters=8 --warmup_iters=0 --log_interval=1 \
        --eval_interval=0 --eval_sequences=1 --out_dir="$work/measure" --overwrite=true
    values train ms "$work/measure" | tail -n 7 | sort -g | sed -n 4p
    rm -rf "$work/measure"
}

# Sets $iters to the steps of one run that fit into half of the time. Sets $evaluation to an option if a short text has
# fewer sequences to validate on than the config asks for.
plan() {
    local ms sequences asked block
    ms=$(measure_step)
    [ -n "$ms" ] || fail "stopped before the training"
    iters=$(awk -v ms="$ms" -v s="$seconds" 'BEGIN { printf "%d", 0.9 * s / 2 * 1000 / ms }') # the rest is for validation
    iters=$((iters < 50 ? 50 : iters > 5000 ? 5000 : iters))
    asked=$(setting eval_sequences) block=$(setting block_size)
    sequences=$((($(bytes_of "$text") / 10 - 2) / block))
    evaluation=()
    if [ "$sequences" -lt "$asked" ]; then evaluation=(--eval_sequences="$sequences"); fi
    printf 'a step takes %.0f ms here: %d steps in each run\n' "$ms" "$iters"
}

# train NAME: trains the run of config/NAME.json.
train() {
    echo "config/$1.json (Ctrl-C ends it early and still shows the results)"
    # If the machine becomes slow, USR1 asks for a stop and a save after three times the planned time. timeout passes
    # Ctrl-C on. With setsid the trainer gets it only once: a second one would end it without a save.
    timeout --foreground --preserve-status -s USR1 $((3 * seconds / 2 + 30)) setsid \
        "$BIN/train_gpt2" "config/$1.json" --overwrite=true --max_iters="$iters" --warmup_iters=$((iters / 10)) \
        --eval_interval=$(((iters + 9) / 10)) --log_interval=$(((iters + 49) / 50)) "${evaluation[@]}" ||
        fail "the training failed"
}

# Sets $runs to the folders of the runs that were trained, up to the first one that was stopped.
train_all() {
    local name
    runs=()
    for name in "${configs[@]}"; do
        if [ ${#runs[@]} -gt 0 ] && [ "$(values end step "${runs[-1]}")" -lt "$iters" ]; then
            echo "config/$name.json is left out, as the run before it was stopped"
            break
        fi
        train "$name"
        runs+=("runs/$name")
    done
}

show_plot() {
    local folder title speed losses step labels=()
    for folder in "${runs[@]}"; do
        IFS=$'\t' read -r title speed < <(python3 scripts/metrics.py summary \
            --fields=optimizer_title,tokens_per_second "$folder")
        labels+=(--label="$title")
        mapfile -t losses < <(values val step,loss "$folder") # the first one is of step 0
        step=${losses[-1]% *}
        printf '%s: validation loss %.3f before training, %.3f after %d steps; %.0f seconds of training (%d tokens/s)\n' \
            "$title" "${losses[0]#* }" "${losses[-1]#* }" "$step" "$(values end train_seconds "$folder")" "$speed"
    done
    if command -v gnuplot >/dev/null; then
        bash scripts/plot.sh "${labels[@]}" "${runs[@]}"
    else
        echo "no gnuplot, no plot; the numbers are in $run/metrics.jsonl"
    fi
}

# Lets the model write. The prompt is the beginning of the text: the first words of its first line.
show_sample() {
    local prompt
    prompt=$(grep -a -m 1 '[[:alnum:]]' "$text" | cut -c 1-200 | awk '{ print $1, $2, $3, $4 }' | sed 's/ *$//')
    "$BIN/sample_gpt2" "$run/checkpoints/latest" --prompt="$prompt" --max_new_tokens=400
}

# Makes the page of the runs and says where it is, or why there is none.
show_report() {
    local page=$run/report.html log=$work/report.log
    if bash scripts/report.sh --out="$page" "${runs[@]}" >"$log" 2>&1; then
        echo "report page     $(realpath "$page")"
    else
        rm -f "$page" # the page of an earlier start
        echo "no report page: $(tail -n 1 "$log")"
    fi
}

if [ $text_only = yes ]; then
    get_text
    exit 0
fi
heading "1/6 what is needed"
bash scripts/install_deps.sh
command -v python3 >/dev/null || fail "python3 is missing: install it, or run bash scripts/install_deps.sh"
heading "2/6 building"
make found
quietly build make -j"$(nproc)" BUILD="$BUILD" BIN="$BIN" programs
echo "built train_gpt2, prepare_data, sample_gpt2 and export_hf"
heading "3/6 text"
get_text
quietly prepare "$BIN/prepare_data" --tokenizer=bytes --out="$data" "$text"
heading "4/6 training twice, for about $seconds seconds together"
plan
train_all
heading "5/6 loss"
show_plot
heading "6/6 what the first model writes"
show_sample
heading "what next"
longer="--init_from=resume --max_iters=$((2 * iters))${evaluation[0]:+ ${evaluation[0]}}"
cat <<END
loss curves     $run/loss.png
numbers         $run/metrics.jsonl
model           $run/checkpoints/latest
                (a GPT-2 that opens in Hugging Face transformers, too)
write more      $BIN/sample_gpt2 $run/checkpoints/latest --prompt="And then" --seed=2
train longer    $BIN/train_gpt2 config/quickstart.json $longer
other text      bash scripts/quickstart.sh TEXT_FILE
everything      $BIN/train_gpt2 --help
END
show_report
