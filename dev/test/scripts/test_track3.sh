#!/usr/bin/env bash
# test_track3.sh: tests of scripts/track3.sh. Prints "N passed, N failed" at its end.
#
# Each test has a tree of its own with the scripts and a config "tiny". In most of them the trainer is a stand-in that
# writes the losses that the test needs; one trains for real. MARS_BIN says where the programs are.
# shellcheck source=dev/test/script_fixture.sh
source "$(dirname "$0")/../script_fixture.sh"

export LC_ALL=C OMP_WAIT_POLICY=passive NPROC=1
use_system_python

make_tree() {
    mkdir -p "$here/tree/config" "$here/tree/data"
    cp -r scripts "$here/tree/"
    cat >"$here/tree/config/tiny.json" <<'END_OF_CONFIG'
{
    "model": {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 16, "vocab_size": 256},
    "data": {
        "train": "data/train_*.bin",
        "val": "data/val_*.bin"
    },
    "optimizer": {"name": "adamw", "learning_rate": 1e-2},
    "schedule": {"name": "trapezoidal", "warmdown_iters": 4},
    "train": {
        "max_iters": 8, "total_batch_size": 4, "batch_size": 4, "eval_interval": 4, "eval_sequences": 8,
        "checkpoint_interval": 4, "out_dir": "runs/tiny"
    }
}
END_OF_CONFIG
    runs=$here/tree/runs/tiny_seeds
}

# A stand-in for the trainer. Seed N ends with the loss in line N of $here/losses, or "skip" there makes it diverge; at
# step 4 all of them have a loss of 1. Each call is written down. Where there is a file $here/slow a run stops after its
# start until it is asked to, where there is $here/fails it fails with the status in there.
fake_trainer() {
    make_tree
    export TRAINER=$BIN/train_gpt2 # which prints configs
    touch "$here/tree/data/train_0.bin" "$here/tree/data/val_0.bin"
    printf '%s\n' "$@" >"$here/losses"
    command_file "$here/tree/train_gpt2" <<'END_OF_TRAINER'
case " $* " in *" --print_config "*) exec "$TRAINER" "$@" ;; esac
here=$(dirname "$0")/..
steps=8 precision=float32
for argument in "$@"; do
    case $argument in
        --train.seed=*) seed=${argument#*=} ;;
        --out_dir=*) run=${argument#*=} ;;
        --max_iters=*) steps=${argument#*=} ;;
        --threads=2) precision=bfloat16 ;;
        --ema_start=*) ema_start=${argument#*=} ;;
    esac
done
echo "$*" >>"$here/calls"
if [ -e "$here/fails" ]; then exit "$(cat "$here/fails")"; fi
mkdir -p "$run"
{
    printf '{"event":"start","config":{"model":{"n_layer":1,"n_head":2},"data":{"train":"a,\\"b}","seed":%d},' "$seed"
    printf '"optimizer":{"name":"mars-adamw","betas_1d":[0.9,0.95]},"schedule":{"name":"constant"},"train":{'
    printf '"max_iters":%d,"out_dir":"%s","seed":%d,"ema_start":%d}},"parameters":9,"device":"it",' \
        "$steps" "$run" "$seed" "${ema_start:-0}"
    printf '"precision":"%s","processes":1,' $precision
    printf '"threads":%d,"version":"0","resumed_from":null}\n' "$seed"
} >>"$run/metrics.jsonl"
if [ -e "$here/slow" ]; then
    trap 'echo USR1 >>"$here/calls"; exit 0' USR1
    trap 'echo TERM >>"$here/calls"; exit 1' TERM
    touch "$here/started"
    while :; do sleep 0.05; done
fi
loss=$(sed -n "${seed}p" "$here/losses")
{
    echo '{"event":"val","step":4,"loss":1,"tokens":64}'
    if [ "$loss" = skip ]; then
        printf '{"event":"skipped","step":%d,"tensor":"wte"}\n' 5
        echo '{"event":"val","step":6,"loss":null,"tokens":96}'
        printf '{"event":"skipped","step":%d,"tensor":"wte"}\n' 6
        exit 1
    fi
    printf '{"event":"skipped","step":%d,"tensor":"wte"}\n' 5 7 # two that are not in a row
    if [ -n "${ema_start:-}" ]; then average=',"ema_loss":3.25'; fi
    printf '{"event":"val","step":%d,"loss":%s,"tokens":128%s}\n' "$steps" "$loss" "${average:-}"
    printf '{"event":"end","step":%d,"reason":"done","seconds":9}\n' "$steps"
} >>"$run/metrics.jsonl"
END_OF_TRAINER
}

# track3 STATUS ARGUMENT...: its standard output is in $here/report, the other one in $here/output.
track3() {
    local status=$1
    shift
    run "$status" bash -c "bash \"\$0\" \"\$@\" >'$here/report'" "$here/tree/scripts/track3.sh" "$@"
}

calls() { [ "$(wc -l <"$here/calls")" -eq "$1" ] || { cat "$here/calls"; return 1; }; }

test_a_result_that_counts() {
    fake_trainer 3.27 3.272 3.271
    track3 0 tiny --seeds=3 --threads=1 --data.train='data/*_0.bin'
    cat >"$here/expected" <<'END_OF_REPORT'
tiny: validation losses at step 8

| seed | validation loss |
| ---: | --------------: |
|    1 |          3.2700 |
|    2 |          3.2720 |
|    3 |          3.2710 |

n 3, mean 3.2710, standard deviation 0.0010
(3.28 - mean) * sqrt(n) = 0.0156; the rule requires at least 0.004

Yes: the result counts. 3 runs of 8 steps reached 3.28.
END_OF_REPORT
    diff "$here/expected" "$here/report"
    calls 3
    has "$here/calls" "config/tiny.json --threads=1 --data.train=data/*_0.bin --train.seed=3 --data.seed=3 --out_dir="
    has "$here/calls" "seed_3 --init_from=auto"
}

test_a_result_that_does_not_count() {
    fake_trainer 3.279 3.2796
    track3 0 config/tiny.json --seeds=2
    has "$here/report" "n 2, mean 3.2793, standard deviation 0.0004"
    has "$here/report" "(3.28 - mean) * sqrt(n) = 0.0010; the rule requires at least 0.004"
    has "$here/report" "No: the result does not count. With this mean it takes 33 runs."
    track3 0 tiny --report-only --target=3.279
    has "$here/report" "No: the result does not count. The mean is not below 3.279."
    track3 0 tiny --report-only --target=3.4
    has "$here/report" "Yes: the result counts. 2 runs of 8 steps reached 3.4."
}

# The limit itself counts, though 3.28 - 3.276 is a little less than 0.004 in floating point.
test_one_seed() {
    fake_trainer 3.276
    track3 0 --seeds=1 tiny --max_iters=3250
    has "$here/report" "tiny: validation losses at step 3,250"
    has "$here/report" "n 1, mean 3.2760, standard deviation unknown (one run)"
    has "$here/report" "Yes: the result counts. 1 run of 3,250 steps reached 3.28."
    fake_trainer 3.27601
    track3 0 tiny --seeds=1 --out="$here/other"
    has "$here/report" "No: the result does not count. With this mean it takes 2 runs."
}

# The loss of the average of the weights is what the run is for. Runs without one are others.
test_average_of_weights() {
    fake_trainer 3.3 3.3
    track3 0 tiny --seeds=2 --ema_start=6
    has "$here/report" "tiny: validation losses (ema_loss) at step 8"
    has "$here/report" "n 2, mean 3.2500"
    has "$here/report" "Yes: the result counts."
    track3 1 tiny --seeds=2
    has "$here/output" "have other options or another config"
}

test_seeds_that_diverge() {
    fake_trainer 3.1 skip 3.1 null
    track3 0 tiny --seeds=4
    has "$here/report" "|    2 | diverged, step 6 |"
    has "$here/report" "|    4 | diverged, step 8 |"
    has "$here/report" "n 2, mean 3.1000"
    has "$here/report" "No: the result does not count, because seeds 2 and 4 diverged."
    # They have ended, too: nothing is run again.
    track3 0 tiny --seeds=4
    calls 4
}

test_complete_runs_are_not_repeated() {
    fake_trainer 3.27 3.27 3.27
    track3 0 tiny --seeds=2
    track3 0 tiny --seeds=3 --batch_size=2 --sample_interval=4 --sample_prompt=It --sample_tokens=8
    calls 3
    sed -i '$d' "$runs/seed_2/metrics.jsonl"
    track3 0 tiny --report-only
    has "$here/report" "|    2 | unfinished, step 8 |"
    has "$here/report" "No verdict yet: seed 2 is unfinished."
    calls 3
    track3 0 tiny --seeds=1
    has "$here/report" "No verdict yet: seed 2 is unfinished."
    track3 0 tiny --seeds=2
    calls 4
    has "$here/report" "Yes: the result counts. 3 runs of 8 steps reached 3.28."
}

test_a_signal_lets_the_run_save() {
    fake_trainer 3.27
    touch "$here/slow"
    bash "$here/tree/scripts/track3.sh" tiny --seeds=1 >"$here/output" 2>&1 &
    local script=$! status=0 i
    for ((i = 0; i < 200; i++)); do
        if [ -e "$here/started" ]; then break; fi
        sleep 0.05
    done
    kill -TERM $script
    wait $script || status=$?
    [ $status -eq 130 ]
    has "$here/output" "interrupted; start it again in the same way to go on"
    has "$here/calls" USR1
    lacks "$here/calls" TERM
    rm "$here/slow"
    track3 0 tiny --seeds=1
    has "$here/report" "Yes: the result counts. 1 run of 8 steps reached 3.28."
}

test_other_configs_are_not_mixed() {
    fake_trainer 3.27 3.27 3.27
    track3 0 tiny --seeds=2
    track3 1 tiny --seeds=3 --max_iters=6
    has "$here/output" "the runs in runs/tiny_seeds have other options or another config"
    sed -i 's/1e-2/2e-2/' "$here/tree/config/tiny.json"
    track3 1 tiny --seeds=3
    has "$here/output" "the runs in runs/tiny_seeds have other options or another config"
    calls 2
    # Runs that got there in another way.
    mv "$runs/seed_2" "$here/seed_2"
    track3 0 tiny --seeds=3 --max_iters=6 --out="$here/six"
    cp -r "$here/six/seed_3" "$runs/"
    track3 1 tiny --report-only
    has "$here/output" "the runs are not of one config: train.max_iters is 8 in runs/tiny_seeds/seed_1/metrics"
    [ ! -s "$here/report" ]
    # One that was started with other settings than it ended with, and one in another precision.
    rm -r "$runs/seed_3"
    sed -i '1{p;s/"mars-adamw"/"muon"/}' "$runs/seed_1/metrics.jsonl"
    track3 1 tiny --report-only
    has "$here/output" 'optimizer.name is "mars-adamw" in '
    sed -i 1d "$runs/seed_1/metrics.jsonl"
    cp -r "$here/seed_2" "$runs/"
    sed -i 's/"muon"/"mars-adamw"/' "$runs/seed_1/metrics.jsonl"
    track3 0 tiny --report-only
    sed -i 's/"float32"/"bfloat16"/' "$runs/seed_2/metrics.jsonl"
    track3 1 tiny --report-only
    has "$here/output" 'precision is "float32" in '
    # A damaged line: a section is passed over that is no object.
    sed -i 's/"bfloat16"/"float32"/; s/"schedule":{[^}]*}/"schedule":7/' "$runs/seed_2/metrics.jsonl"
    track3 0 tiny --report-only
}

test_runs_that_fail() {
    fake_trainer 3.27
    track3 2 tiny --seeds=1 --lernrate=3
    has "$here/output" "command line: there is no key 'lernrate'"
    [ ! -e "$here/calls" ]
    echo 2 >"$here/fails"
    track3 2 tiny --seeds=1 --max_iters=4
    has "$here/output" "seed_1 failed with status 2"
    echo 1 >"$here/fails"
    track3 1 tiny --seeds=1 # the option of the run that did not begin is forgotten
    has "$here/output" "seed_1 failed with status 1"
    echo 0 >"$here/fails"
    track3 1 tiny --seeds=1
    has "$here/output" "was stopped from outside"
    rm "$here/fails" "$here/tree/data/val_0.bin"
    track3 1 tiny --seeds=1
    has "$here/output" "there is no data/val_*.bin"
    touch "$here/tree/data/val_0.bin"
    track3 0 tiny --seeds=1
    sed -i '/"step":8,"loss"/d' "$runs/seed_1/metrics.jsonl"
    track3 1 tiny --report-only
    has "$here/output" "has no validation loss at its last step, 8"
}

test_what_is_wrong() {
    fake_trainer 3.27
    local flag
    for flag in --seeds=0 --seeds=-1 --seeds=x --seeds=1.5 --seeds= --target=x --target=0 --target=-1 --target=3,28 \
        --target= --wrong --out= --seed=3 --train.seed=3 --data.seed=3 --out_dir=x --init_from=x --overwrite=true \
        --eval_only=true; do
        track3 2 tiny "$flag"
        has "$here/output" "${flag%%=*}"
    done
    track3 2
    has "$here/output" "give the name of a run, one of: tiny"
    track3 2 no_such_run
    has "$here/output" "there is no config/no_such_run.json; give one of: tiny"
    track3 2 ../config/tiny
    has "$here/output" "give the name of a config in config/, without a folder"
    track3 2 tiny tiny
    track3 2 tiny --report-only --seeds=3
    track3 2 tiny --report-only --max_iters=3
    has "$here/output" "leave --max_iters=3 out"
    track3 1 tiny --report-only
    has "$here/output" "there are no runs in runs/tiny_seeds"
    track3 0 --help
    has "$here/report" "--seeds=10"
    [ ! -e "$here/calls" ]
    run 2 python3 scripts/track3_report.py report "$here" train.seed
    has "$here/output" "track3_report.py: the following arguments are required: NAME, TARGET"
    # Ten, the number of the published baseline.
    printf '3.27\n%.0s' 1 2 3 4 5 6 7 8 9 10 >"$here/losses"
    track3 0 tiny
    calls 10
}

# Seed 1 is interrupted after step 4, as by a kill, and goes on from there to the same loss.
test_with_the_trainer() {
    make_tree
    cp "$BIN/train_gpt2" "$here/tree/"
    cat config/*.c >"$here/text"
    "$BIN/prepare_data" --tokenizer=bytes --out="$here/tree/data" "$here/text" >/dev/null 2>&1
    track3 0 tiny --seeds=2 --target=9 --threads=1
    has "$here/report" "Yes: the result counts. 2 runs of 8 steps reached 9."
    cp "$here/report" "$here/first_report"
    [ "$(grep '^|' "$here/report" | awk '{ print $4 }' | tail -n 2 | uniq | wc -l)" -eq 2 ] # other seeds, other losses
    rm -r "$runs/seed_1/checkpoints/step_00000008"
    sed -i '/"step":8,/d' "$runs/seed_1/metrics.jsonl"
    track3 0 tiny --report-only --target=9
    has "$here/report" "No verdict yet: seed 1 is unfinished."
    track3 0 tiny --seeds=2 --target=9 --threads=1
    has "$runs/seed_1/metrics.jsonl" '"resumed_from":4'
    diff "$here/first_report" "$here/report"
    track3 0 tiny --seeds=1 --learning_rate=1e30 --threads=1 --out="$here/high"
    has "$here/report" "No: the result does not count, because seed 1 diverged."
}

run_script_tests "$@"
