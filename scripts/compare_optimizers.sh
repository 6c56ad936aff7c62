#!/usr/bin/env bash
# compare_optimizers.sh [OPTION...]: every optimizer on the same small problem, each at the best of a few learning
# rates, as a Markdown table and as curves. The comparison of the papers, in minutes.
#
#   --size=tiny           the model and the batch: tiny (1M parameters without embeddings, sequences of 64; for a CPU),
#                         mini (5M, 128) or small (GPT-2 small, 1024; for a GPU)
#   --minutes=30          how long all of it may take: every optimizer is timed first, and the number of steps follows
#   --steps=N             or the number of steps of the full-length runs, instead
#   --optimizers=LIST     names of train_gpt2 --list_optimizers, with commas between; -exact after a name is the exact
#                         form of one that has is_approx (default: all, mars-adamw-exact and mars-m-exact)
#   --rates=3             learning rates to try for each, around a usual one
#   --train=, --val=      tokens, files or globs (default: the bytes of the quickstart's text)
#   --out=runs/compare    where runs and results go
#   --device=, --precision=    as train_gpt2 has them
#   TRAIN_GPT2=PROGRAM    the trainer, if not ./train_gpt2
#
# Each rate is tried in a run of a third of the steps, with a schedule of its own (cosine to a tenth after 5 % of
# warm-up), and the best one gets a full-length run, from which the table is. Initial weights and the order of the data
# are the same in all. The results are compare.md, compare.tsv, compare.png and compare.svg in the folder; each run is
# in a folder with its config (run.json). Interrupted, it goes on when started again in the same way: a run that is
# finished and would have the same config is not repeated. To start anew, remove the folder.
set -euo pipefail
export LC_ALL=C # numbers with a point, characters as bytes

fail() {
    echo "compare_optimizers.sh: $1" >&2
    exit "${2:-1}"
}

size=tiny minutes=30 steps='' list='' rates=3 train='' val='' out='' device=auto precision=auto
# From here the working directory is the repository's root; paths that were given are the caller's.
absolute() { case $1 in /*) echo "$1" ;; *) echo "$PWD/$1" ;; esac }
for argument in "$@"; do
    value=${argument#*=}
    case $argument in
        --size=*) size=$value ;;
        --minutes=*) minutes=$value ;;
        --steps=*) steps=$value ;;
        --optimizers=) fail "--optimizers= is empty; give names of train_gpt2 --list_optimizers" 2 ;;
        --optimizers=*) list=$value ;;
        --rates=*) rates=$value ;;
        --train=?*) train=$(absolute "$value") ;;
        --val=?*) val=$(absolute "$value") ;;
        --out=?*) out=$(absolute "$value") ;;
        --device=?*) device=$value ;;
        --precision=?*) precision=$value ;;
        -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
        *) fail "unknown option $argument; see --help" 2 ;;
    esac
done
command -v python3 >/dev/null || fail "python3 is missing: install it, or run bash scripts/install_deps.sh"
train_gpt2=${TRAIN_GPT2:+$(absolute "$TRAIN_GPT2")}
cd "$(dirname "$0")/.."
BIN=${BIN:-.}
train_gpt2=${train_gpt2:-$BIN/train_gpt2}
out=${out:-runs/compare}

# ---- what is compared ----

case $size in
    tiny) layers=4 heads=4 width=128 block=64 batch=16 sequences=16 ;;
    mini) layers=6 heads=4 width=256 block=128 batch=16 sequences=16 ;;
    small) layers=12 heads=12 width=768 block=1024 batch=8 sequences=32 ;;
    *) fail "--size=$size: give tiny, mini or small" 2 ;;
esac
[[ $minutes =~ ^[1-9][0-9]{0,5}$ ]] || fail "--minutes=$minutes: give a whole number of minutes" 2
[[ $steps =~ ^([1-9][0-9]{0,8})?$ ]] || fail "--steps=$steps: give a number of steps" 2
[[ $rates =~ ^[1-9]$ ]] || fail "--rates=$rates: give a number from 1 to 9" 2
[ -z "$train$val" ] || { [ -n "$train" ] && [ -n "$val" ]; } || fail "give both --train and --val, or neither" 2

# The table of optimizers: for each, whether it has an exact form, and whether its matrices go through Newton-Schulz.
[ -x "$train_gpt2" ] ||
    fail "there is no $train_gpt2; build it with make (bash scripts/install_deps.sh installs what that needs)"
declare -A has_exact orthogonalizes name_of # name_of[ALIAS]
names=()
while IFS=$'\t' read -r name exact orthogonalized alias; do
    names+=("$name")
    has_exact[$name]=$exact
    orthogonalizes[$name]=$orthogonalized
    if [ -n "$alias" ]; then name_of[$alias]=$name; fi
done < <("$train_gpt2" --list_optimizers | awk -F '"' '
    /^\t\t"name"/ { name = $4; exact = 0; matrix = alias = "" }
    /^\t\t"alias"/ { alias = $4 }
    /"orthogonalized"/ && matrix == "" { matrix = /true/ ? 1 : 0 }
    /"is_approx"/ { exact = 1 }
    /^\t}/ { print name "\t" exact "\t" matrix "\t" alias }')
[ ${#names[@]} -gt 0 ] || fail "$train_gpt2 --list_optimizers failed; build it anew with make"
all=()
for name in "${names[@]}"; do
    all+=("$name")
    case $name in mars-adamw | mars-m) all+=("$name-exact") ;; esac
done
optimizers=("${all[@]}")
if [ -n "$list" ]; then
    IFS=, read -ra optimizers <<<"$list"
    for i in "${!optimizers[@]}"; do
        [ -z "${optimizers[i]}" ] || optimizers[i]=${name_of[${optimizers[i]}]:-${optimizers[i]}}
    done
fi

# middle_rate OPTIMIZER: a rate that suits it; the sweep is around it. Most are above the published ones, which are for far
# larger models and longer runs: these small ones train better with more. Fails where there is no such optimizer.
middle_rate() {
    local name=${1%-exact}
    [ -n "$name" ] && [ -n "${has_exact[$name]:-}" ] || return 1
    [ "$name" = "$1" ] || [ "${has_exact[$name]}" = 1 ] || return 1
    case $1 in
        mars-lion | mars-lion-exact) echo 3e-4 ;;
        mars-adamw | mars-adamw-exact) echo 6e-3 ;;
        moonlight | mars-m | mars-m-exact | mars-m-efficient) echo 1.8e-2 ;;
        muon | normuon | mars-shampoo | mars-shampoo-exact) echo 6e-2 ;;
        *) if [ "${orthogonalizes[$name]}" = 1 ]; then echo 1.8e-2; else echo 3e-3; fi ;;
    esac
}
for id in "${optimizers[@]}"; do
    middle_rate "$id" >/dev/null || fail "--optimizers: there is no $id; give some of ${all[*]}" 2
done

# times RATE FACTOR...: the product with each factor, one a line, with two digits, as in 1.5e-2.
times() {
    awk 'BEGIN {
        for (i = 2; i < ARGC; i++) {
            x = ARGV[1] * ARGV[i]
            e = int(log(x) / log(10) - (x < 1)) # rounds down
            if (sprintf("%.1f", x / 10 ^ e) + 0 >= 10) e++
            printf "%se%d\n", sprintf("%.1f", x / 10 ^ e) + 0, e
        }
    }' "$@"
}

# The rates to try, a factor of 3 apart.
grid() {
    # shellcheck disable=SC2046 # one argument a factor
    times "$(middle_rate "$1")" \
        $(awk -v n="$rates" 'BEGIN { for (i = 0; i < n; i++) print 3 ^ (i - int((n - 1) / 2)) }')
}

# optimizer_keys OPTIMIZER RATE: its settings in the config, of the papers where they give them.
optimizer_keys() {
    local id=$1 rate=$2 name=${1%-exact} approximate=true
    if [ "$name" != "$id" ]; then approximate=false; fi
    printf '"name": "%s", ' "$name"
    case $name in
        adamw) echo "\"learning_rate\": $rate, \"weight_decay\": 0.1, \"beta1\": 0.9, \"beta2\": 0.95" ;;
        mars-adamw | mars-lion | mars-shampoo)
            # Of the vectors, which AdamW trains. The sign of Lion makes long steps: its own rate is far smaller.
            printf '"learning_rate": %s, "lr_1d": %s, ' "$rate" \
                "$(times "$rate" "$([ "$name" = mars-lion ] && echo 10 || echo 0.5)")"
            printf '"weight_decay": 0.01, "beta1": 0.95, '
            if [ "$name" = mars-adamw ]; then printf '"beta2": 0.99, '; fi
            echo "\"gamma\": 0.025, \"is_approx\": $approximate"
            ;;
        muon | normuon)
            printf '"muon_learning_rate": %s, "muon_weight_decay": 0, ' "$rate"
            echo "\"learning_rate\": $(times "$rate" 0.15), \"weight_decay\": 0.1"
            ;;
        mars-m | mars-normuon)
            echo "\"learning_rate\": $rate, \"weight_decay\": 0.01, \"beta1\": 0.95, \"gamma\": 0.025," \
                "\"is_approx\": $approximate"
            ;;
        mars-m-efficient)
            echo "\"learning_rate\": $rate, \"weight_decay\": 0.01, \"beta1\": 0.95, \"gamma\": 0.025"
            ;;
        *) echo "\"learning_rate\": $rate, \"weight_decay\": 0.1" ;;
    esac
}

# config OPTIMIZER RATE STEPS EVALUATIONS FOLDER: the whole config of a run.
config() {
    local id=$1 rate=$2 iters=$3 evaluations=$4 folder=$5 least=$2
    # The least rate has to be below both of Muon's and NorMuon's.
    if [ "$id" = muon ] || [ "$id" = normuon ]; then least=$(times "$rate" 0.15); fi
    cat <<END_OF_CONFIG
// $id in the comparison of $out; the tokens: $fingerprint
{
    "model": {"n_layer": $layers, "n_head": $heads, "n_embd": $width, "block_size": $block, "vocab_size": $vocabulary},
    "data": {"train": "$train", "val": "$val"},
    "optimizer": {$(optimizer_keys "$id" "$rate")},
    "schedule": {"name": "cosine", "warmup_iters": $((iters / 20)), "min_lr": $(times "$least" 0.1)},
    "train": {
        "max_iters": $iters, "total_batch_size": $sequences, "batch_size": $batch,
        "eval_interval": $(((iters + evaluations - 1) / evaluations)), "eval_sequences": $eval_sequences,
        "log_interval": $(((iters + 49) / 50)), "checkpoint_interval": 0,
        "out_dir": "$folder", "device": "$device", "precision": "$precision"
    }
}
END_OF_CONFIG
}

# ---- the tokens ----

# files GLOB: what it stands for, one a line.
files() { compgen -G "$1" | sort; }

prepare_text() {
    local folder=data/compare text log
    train="$folder/train_*.bin" val="$folder/val_*.bin"
    if [ -s $folder/tokens.json ]; then return; fi
    bash scripts/quickstart.sh --text-only
    text=data/quickstart/text.txt
    mkdir -p $folder
    log=$("$BIN/prepare_data" --tokenizer=bytes --out=$folder $text 2>&1) || fail "prepare_data failed: $log"
}

if [ -z "$train" ]; then prepare_text; fi
for pattern in "$train" "$val"; do
    [ -n "$(files "$pattern")" ] || fail "there is no file $pattern; prepare_data makes such files"
done

folder=$(mktemp -d)
child=
trap 'rm -rf "$folder"' EXIT
stop() {
    trap '' INT TERM
    if [ -n "$child" ]; then
        kill -TERM "$child" 2>/dev/null || true
        wait "$child" || true
    fi
    echo "compare_optimizers.sh: interrupted; start it again in the same way to go on" >&2
    exit 130
}
trap stop INT TERM

# What tells other tokens under the same names: the length of all files and a checksum of their beginning.
files "$train" >"$folder/files"
files "$val" >"$folder/val_files"
fingerprint=$(
    cat "$folder/files" "$folder/val_files" | tr '\n' '\0' | wc -c --files0-from=- | tail -n 1 | awk '{ print $1 }'
)-$(head -c 1000000 "$(head -n 1 "$folder/files")" | cksum | cut -d ' ' -f 1)
tokens_json=$(dirname "$(head -n 1 "$folder/files")")/tokens.json
vocabulary=
if [ -r "$tokens_json" ]; then vocabulary=$(sed -n 's/.*"vocab_size":[[:space:]]*\([0-9]*\).*/\1/p' "$tokens_json"); fi
vocabulary=${vocabulary:-50304}
# Validation on 16,384 tokens, or all there are. A file may begin with a header of 1024 bytes.
val_bytes=$(tr '\n' '\0' <"$folder/val_files" | wc -c --files0-from=- | tail -n 1 | awk '{ print $1 }')
eval_sequences=$((((val_bytes - 1024 * $(wc -l <"$folder/val_files")) / 2 - 1) / block))
[ "$eval_sequences" -ge 1 ] || fail "$val has less than one sequence of $block tokens; give more, or a smaller --size"
if [ $eval_sequences -gt $((16384 / block)) ]; then eval_sequences=$((16384 / block)); fi

# ---- runs ----

full_evaluations=20 sweep_evaluations=5

# read_summary RUN: sets $status and $loss to the status of the run and its best validation loss ("-" without one).
# Fails unless the run is done or has diverged.
read_summary() {
    [ -s "$1/metrics.jsonl" ] || return 1
    local summary
    summary=$(python3 scripts/metrics.py summary --fields=status,best_loss "$1")
    read -r status loss <<<"$summary"
    [ "$status" = "done" ] || [ "$status" = diverged ]
}

# start RUN: trains as RUN/run.json says, and sets the variables of read_summary. A run that was stopped by gradients
# that are not finite is a result, too; any other failure ends the comparison.
start() {
    local run=$1 exit_status=0
    "$train_gpt2" "$run/run.json" --overwrite=true >"$run/log.txt" 2>&1 </dev/null &
    child=$!
    wait $child || exit_status=$?
    child=
    # The weights are not needed any more, and those of all runs would fill a disk.
    rm -rf "$run/checkpoints"
    read_summary "$run" && return
    tail -n 20 "$run/log.txt" >&2
    if [ $exit_status -eq 0 ]; then fail "a run was stopped from outside; start again in the same way to go on"; fi
    fail "train_gpt2 $run/run.json failed with status $exit_status"
}

# run_once OPTIMIZER RATE STEPS EVALUATIONS RUN: trains, unless that has been done, and sets the variables of
# read_summary.
run_once() {
    local run=$5 begun=$SECONDS
    run_number=$((run_number + 1))
    config "$@" >"$folder/run.json"
    if cmp -s "$folder/run.json" "$run/run.json" && read_summary "$run"; then return; fi
    mkdir -p "$run"
    rm -f "$run/metrics.jsonl"
    cp "$folder/run.json" "$run/run.json"
    start "$run"
    printf '[%*d/%d] %-16s rate %-7s %6d steps: ' ${#runs_planned} $run_number "$runs_planned" "$1" "$2" "$3"
    if [ "$status" = diverged ]; then
        echo "diverged ($((SECONDS - begun)) s)"
    else
        printf '%s (%d s)\n' "$(loss_text "$loss")" $((SECONDS - begun))
    fi
}

loss_text() { if [ "$1" = - ]; then echo "–"; else printf '%.4f' "$1"; fi; }

# time_step OPTIMIZER: sets $ms to the milliseconds of a step here: the median of a few, after the first, in which
# everything is set up.
time_step() {
    local run=$out/timing status loss
    mkdir -p "$run"
    eval_sequences=1 config "$1" "$(middle_rate "$1")" 8 1 "$run" >"$run/run.json"
    start "$run"
    ms=$(python3 scripts/metrics.py values train ms "$run" | tail -n 7 | sort -g |
        awk '{ ms[NR] = $1 } END { print ms[int((NR + 1) / 2)] }')
    rm -rf "$run"
}

# Sets $steps to what fits into the time. What was planned once holds: runs of other lengths could not be compared.
plan() {
    local key="$size $minutes $rates $device $precision $train $val $fingerprint" id ms
    if [ -r "$out/plan" ] && [ "$(head -n 1 "$out/plan")" = "$key" ]; then
        steps=$(sed -n 2p "$out/plan")
        if [[ $steps =~ ^[1-9][0-9]*$ ]]; then
            echo "$steps steps, as planned at the first start"
            return
        fi
    fi
    echo "timing ${#optimizers[@]} optimizers"
    for id in "${optimizers[@]}"; do
        time_step "$id"
        printf '  %-20s %8.1f ms a step\n' "$id" "$ms"
        echo "$ms" >>"$folder/ms"
    done
    # A run of n steps costs n times that, its validations a third of their tokens' training, and a second to start.
    steps=$(awk -v minutes="$minutes" -v rates="$rates" -v full=$full_evaluations -v sweep=$sweep_evaluations \
        -v validation="$(awk -v e=$eval_sequences -v s=$sequences 'BEGIN { print e / s / 3 }')" '
        { total += $1 / 1000 }
        END {
            left = 0.9 * 60 * minutes - NR * (rates + 1)
            left -= total * validation * (full + 1 + (rates > 1 ? rates * (sweep + 1) : 0))
            n = int(left / (total * (1 + (rates > 1 ? rates / 3 : 0))))
            print (n < 60 ? 60 : n > 5000 ? 5000 : n)
        }' "$folder/ms")
    printf '%s\n' "$key" "$steps" >"$out/plan"
    echo "$steps steps"
}

# sweep OPTIMIZER: tries the rates; "loss rate" of each, the best first, is in OPTIMIZER/sweep.
sweep() {
    local id=$1 rate status loss
    mkdir -p "$out/$id"
    : >"$folder/sweep"
    for rate in $(grid "$id"); do
        loss=0 # a single rate need not be tried
        if [ "$rates" -gt 1 ]; then
            run_once "$id" "$rate" $(((steps + 2) / 3)) $sweep_evaluations "$out/$id/sweep_$rate"
            if [ "$status" = diverged ] || [ "$loss" = - ]; then loss=inf; fi
        fi
        echo "$loss $rate" >>"$folder/sweep"
    done
    # No loss is larger than what stands for a run that diverged.
    sed 's/^inf/1e30/' "$folder/sweep" | sort -g | sed 's/^1e30/inf/' >"$out/$id/sweep"
}

# full OPTIMIZER: the run of full length at the best rate; where that diverges after all, at the next one. Its rate is
# in OPTIMIZER/best, which is empty where no rate works.
full() {
    local id=$1 sweep_loss rate status loss
    : >"$out/$id/best"
    while read -r sweep_loss rate; do
        if [ "$sweep_loss" = inf ]; then continue; fi
        run_once "$id" "$rate" "$steps" $full_evaluations "$out/$id/full_$rate"
        if [ "$status" = "done" ]; then
            echo "$rate" >"$out/$id/best"
            return
        fi
    done <"$out/$id/sweep"
    echo "$id: no rate worked"
}

# ---- results ----

markdown() {
    echo "$layers layers of $width, $sequences sequences of $block tokens a step, $steps steps; tokens: $train"
    echo
    python3 scripts/compare_report.py "$out" "${optimizers[@]}"
}

# The curves, the best on top of the key. The first losses say little and would leave no room for the rest: what is
# shown begins where half of the optimizers are after 15 % of the steps, or at the worst end.
draw() {
    local id title best runs=() options=() top
    while IFS=$'\t' read -r id title best _; do
        if [ "$best" = - ] || [ "$id" = optimizer ]; then continue; fi
        runs+=("$out/$id/full_$best")
        options+=(--label="$title, $best")
    done <"$out/compare.tsv"
    if [ ${#runs[@]} -eq 0 ]; then return; fi
    if ! command -v gnuplot >/dev/null; then
        echo "no gnuplot, no curves; the numbers are in $out/compare.tsv"
        return
    fi
    top=$(python3 scripts/metrics.py values val step,loss "${runs[@]}" | awk -v steps="$steps" '
        NF == 0 { print early, last; early = ""; next }
        $1 <= 0.15 * steps || early == "" { early = $2 }
        { last = $2 }
        END { print early, last }' | sort -g | awk '
        { early[NR] = $1; if ($2 > worst) worst = $2 }
        END { top = early[int((NR + 1) / 2)]; if (1.02 * worst > top) top = 1.02 * worst; printf "%.3f", top }')
    bottom=$(awk -F '\t' 'NR == 2 { printf "%.3f", 0.99 * $4 }' "$out/compare.tsv")
    options+=(--title="$size: $layers layers of $width, $steps steps; each at its best rate")
    bash scripts/plot.sh --validation --y="$bottom:$top" --out="$out/compare" "${options[@]}" "${runs[@]}"
}

mkdir -p "$out"
if [ -z "$steps" ]; then plan; fi
runs_planned=$((${#optimizers[@]} * (rates > 1 ? rates + 1 : 1)))
run_number=0
for id in "${optimizers[@]}"; do
    sweep "$id"
    full "$id"
done
echo
markdown | tee "$out/compare.md"
echo
draw
echo "$out/compare.md"
echo "$out/compare.tsv"
