#!/usr/bin/env bash
# track3.sh CONFIG_NAME [OPTION...]: trains one of the runs in config/ with several seeds and applies the rule of
# modded-nanogpt's optimizer track (track 3, github.com/KellerJordan/modded-nanogpt) to their validation losses, as in:
# track3.sh track3_muon --seeds=10
#
#   --seeds=10       train with the seeds 1, 2, ... 10
#   --target=3.28    the loss to get below, here the track's; models and data sets of your own need another
#   --out=FOLDER     where the runs go, each into FOLDER/seed_N (default: runs/CONFIG_NAME_seeds)
#   --report-only    trains nothing, and reports on the runs in FOLDER
#   --key=value      any other key goes to train_gpt2, in every run, as in --max_iters=3000 for fewer steps
#
# A result counts if (target - mean) * sqrt(n) >= 0.004, where the mean is over the validation losses of n seeds at the
# last step, max_iters; losses at other steps do not matter. In runs with an average of their weights (--ema_start=N) it
# is the average's loss, ema_loss. All runs of FOLDER take part, so that nobody picks the best. They must have the same
# config and number of steps: only keys that change the loss by rounding at most may differ, such as folders, logging,
# checkpoints, threads, processes and micro-batches. If a run diverges, the result does not count.
#
# A seed sets the initial weights and, unless data.order is sequential, the order of the data. scripts/run.sh starts the
# runs, so NPROC (8) and MPIRUN are as there. After an interruption, start the script again in the same way: it does not
# repeat complete runs, and continues an interrupted one from its last checkpoint. The report goes to standard output,
# everything else to standard error. The exit status is 0 after a report, whatever it says; 1 after a failure; 2 for
# wrong usage.
set -euo pipefail
export LC_ALL=C # numbers have a decimal point

fail() {
    echo "track3.sh: $1" >&2
    exit "${2:-1}"
}

name='' seeds='' target=3.28 out='' report_only=no options=()
# From here on the working directory is the repository's root, but a folder in the arguments is relative to the
# caller's.
absolute() { case $1 in /*) echo "$1" ;; *) echo "$PWD/$1" ;; esac }
for argument in "$@"; do
    value=${argument#*=}
    case $argument in
        --seeds= | --target= | --out=) fail "$argument has no value; see --help" 2 ;;
        --seeds=*) seeds=$value ;;
        --target=*) target=$value ;;
        --out=*) out=$(absolute "$value") ;;
        --report-only) report_only=yes ;;
        -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
        --out_dir=* | --train.out_dir=*) fail "${argument%%=*}: every run has its own; give --out=FOLDER" 2 ;;
        --seed=* | --train.seed=* | --data.seed=*) fail "${argument%%=*}: every run has its own; give --seeds=N" 2 ;;
        --init_from=* | --train.init_from=* | --overwrite=* | --train.overwrite=* | --eval_only=* | --train.eval_only=*)
            fail "${argument%%=*}: this script decides whether a run starts or goes on; leave it out" 2 ;;
        --[a-z]*=*) options+=("$argument") ;;
        -*)
            fail "unknown option $argument; expected --seeds, --target, --out or --KEY=VALUE; see --help" 2
            ;;
        *)
            [ -z "$name" ] || fail "$argument is a second name, after $name; give the name of one run" 2
            name=${argument#config/}
            name=${name%.json}
            [[ $name != */* ]] || fail "$argument: give the name of a config in config/, without a folder" 2
            ;;
    esac
done
cd "$(dirname "$0")/.."
names=$(basename -a -s .json config/*.json | tr '\n' ' ')
[ -n "$name" ] || fail "give the name of a run, one of: $names" 2
[ -f "config/$name.json" ] || fail "there is no config/$name.json; give one of: $names" 2
[[ $target =~ ^[0-9]+(\.[0-9]+)?$ && $target =~ [1-9] ]] ||
    fail "--target=$target: expected a loss; write --target=3.28, for example" 2
if [ $report_only = yes ]; then
    [ -z "$seeds" ] || fail "--report-only reports on every run of the folder; leave --seeds out" 2
    [ ${#options[@]} -eq 0 ] || fail "--report-only trains nothing; leave ${options[0]} out" 2
fi
seeds=${seeds:-10}
[[ $seeds =~ ^[1-9][0-9]{0,2}$ ]] ||
    fail "--seeds=$seeds: expected a number of seeds from 1 to 999; write --seeds=10, for example" 2
out=${out:-runs/${name}_seeds}

command -v python3 >/dev/null || fail "python3 is missing: install it, or run bash scripts/install_deps.sh"

# Keys in which the runs of one folder may differ: they change the loss by rounding at most.
may_differ="data.seed train.seed train.out_dir train.init_from train.overwrite train.device train.precision \
train.threads train.batch_size train.gradient_accumulation_steps train.recompute train.debug_alloc \
train.log_interval train.norms_interval train.eval_interval train.checkpoint_interval train.keep_checkpoints \
train.sample_interval train.sample_prompt train.sample_tokens"

# track3_report COMMAND ARGUMENT...: prints the answer of track3_report.py. Fails unless all runs of FOLDER have one
# config.
track3_report() { python3 scripts/track3_report.py "$1" "$out" "$may_differ" "${@:2}"; }

# ---- training ----

child='' stops=0 interrupted=no
# The first request lets the run save; a second one ends it.
# shellcheck disable=SC2317 # traps call it
stop() {
    interrupted=yes stops=$((stops + 1))
    if [ -n "$child" ]; then kill -s "$([ $stops -eq 1 ] && echo USR1 || echo TERM)" "$child" 2>/dev/null || true; fi
}

# train SEED: starts the run of the seed, or goes on with it. Ends the script unless the run is complete or has
# diverged.
train() {
    local run=$out/seed_$1 status=0 state
    trap stop INT TERM HUP USR1
    bash scripts/run.sh "$name" "${options[@]}" --train.seed="$1" --data.seed="$1" --out_dir="$run" --init_from=auto \
        >&2 </dev/null &
    child=$!
    if [ $stops -gt 0 ]; then kill -s USR1 $child 2>/dev/null || true; fi
    interrupted=yes
    while [ $interrupted = yes ]; do
        interrupted=no status=0
        wait $child || status=$?
    done
    child=
    trap - INT TERM HUP USR1
    if [ $stops -gt 0 ]; then
        echo "track3.sh: interrupted; start it again in the same way to go on" >&2
        exit 130
    fi
    state=$(track3_report states "$1")
    if [ "$state" = diverged ] || { [ "$state" = complete ] && [ $status -eq 0 ]; }; then return; fi
    if [ $status -eq 0 ]; then fail "the run $run was stopped from outside; start again in the same way to go on"; fi
    fail "the run $run failed with status $status" $((status == 2 ? 2 : 1))
}

# The config of the runs of FOLDER, without the keys that may differ. Runs with another config could not be compared.
recipe() {
    bash scripts/run.sh "$name" "${options[@]}" --print_config | awk -v names="$may_differ" '
        BEGIN {
            n = split(names, word, " ")
            for (i = 1; i <= n; i++) may_differ[word[i]] = 1
        }
        / \{$/ { section = $1 } # "SECTION": {
        {
            name = section "." $1
            gsub(/[":]/, "", name)
            if (!(name in may_differ)) print
        }'
}

train_all() {
    local seed now states state_of status=0
    now=$(recipe) || status=$?
    if [ $status -ne 0 ]; then exit $((status == 2 ? 2 : 1)); fi
    if compgen -G "$out/seed_*/metrics.jsonl" >/dev/null && [ -e "$out/recipe.txt" ] &&
        [ "$now" != "$(cat "$out/recipe.txt")" ]; then
        fail "the runs in $out have other options or another config (see $out/recipe.txt); give another --out"
    fi
    mkdir -p "$out"
    echo "$now" >"$out/recipe.txt"
    # shellcheck disable=SC2046 # one argument for each seed
    states=$(track3_report states $(seq "$seeds"))
    read -ra state_of <<<"$states"
    for ((seed = 1; seed <= seeds; seed++)); do
        if [ "${state_of[seed - 1]}" != unfinished ]; then continue; fi
        echo "seed $seed of $seeds: $out/seed_$seed" >&2
        train $seed
    done
}

if [ $report_only = no ]; then train_all; fi
track3_report report "$name" "$target"
