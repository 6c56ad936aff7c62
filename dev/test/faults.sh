#!/usr/bin/env bash
# faults.sh [--all] [--seed=N] [--share=I/N] [PART]: what kills and disks that fail leave of a run, of token files and
# of exported models.
#
#   kills   A training run of one process, and one of three, is killed by SIGKILL at random moments and continued with
#           --init_from=auto until its end. Weights, optimizer state and losses must then be, bit for bit, those of the
#           run that was never stopped.
#   calls   Of a program's calls that change or read files (see dev/test/fault_injection.c), each one fails in its turn:
#           with EIO, with ENOSPC, interrupted by a signal (EINTR), a write or a read by doing only half of its bytes,
#           and as if the disk were gone from there on: with EIO, and so does every call after it. After EINTR and half
#           the bytes all must be as without. After the others the program either does its work, with a warning where a
#           write, an fsync or a read of something that it needs failed, or ends with an error that names the place and
#           what to do. Nothing half-written has a final name, and what was there before can be used. The same command
#           without a fault then does the rest, to the same bits.
#
# Without --all it takes a few kills, and one call of each kind and error, drawn by the seed: that is the form that the
# tests run. --all makes 300 kills and fails every call. The seed is printed, and --seed repeats the draw. PART is a
# part of a test's name (see script_fixture.sh). --share=1/3 does a third of a test's work, so that several can run side
# by side. $MARS_BIN and $MARS_BUILD say where programs and fault_injection.so are.
# shellcheck source=dev/test/script_fixture.sh
source "$(dirname "$0")/script_fixture.sh"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMP_WAIT_POLICY=passive

all=no seed=$RANDOM share=1/1 part=
for argument in "$@"; do
    case $argument in
        --all) all=yes ;;
        --seed=*) seed=${argument#*=} ;;
        --share=*) share=${argument#*=} ;;
        -h | --help) sed -n '2,/^# shellcheck/{/^# shellcheck/d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
        -*) echo "faults.sh: unknown argument $argument; --help lists the options" >&2; exit 2 ;;
        *) part=$argument ;;
    esac
done
library=$(realpath "${MARS_BUILD:-build}")/test/fault_injection.so
[ -e "$library" ] || { echo "faults.sh: $library is missing: make it first" >&2; exit 2; }
golden=$PWD/dev/golden
exec 3>&1 # for results, which are printed of tests that pass, too
if [ $all = yes ]; then kills=150 rank_kills=150; else kills=8 rank_kills=3; fi
first=$((${share%/*} - 1)) shares=${share#*/}

# ---- runs ----

# All runs have the same out_dir, so that their files can be compared as they are.
cat >"$scratch/config.json" <<END
{"model": {"n_layer": 1, "n_head": 2, "n_embd": 32, "block_size": 32, "vocab_size": 256, "dropout": 0.1},
 "data": {"train": "$golden/tiny_train.bin", "val": "$golden/tiny_val.bin"},
 "optimizer": {"name": "mars-m", "learning_rate": 0.003},
 "schedule": {"name": "cosine", "warmup_iters": 2, "lr_decay_iters": 200, "min_lr": 0.0003},
 "train": {"out_dir": "run", "init_from": "auto", "max_iters": 8, "total_batch_size": 12, "batch_size": 2,
           "eval_interval": 2, "eval_sequences": 6, "log_interval": 1, "checkpoint_interval": 2, "keep_checkpoints": 2,
           "precision": "float32", "threads": 1, "device": "cpu", "ema_start": 1}}
END

# use_ranks COUNT: sets $trainer, the command that runs the trainer.
use_ranks() {
    ranks=$1
    trainer=("$BIN/train_gpt2" "$scratch/config.json")
    if [ "$ranks" -gt 1 ]; then trainer=(mpirun -np "$ranks" --oversubscribe --bind-to none "${trainer[@]}"); fi
}
use_ranks 1

# The losses of the run in a folder: its lines of training and validation, without what depends on time.
curve() { sed -n '/"event":"\(train\|val\)"/{s/"ms":.*//;p}' "$1/run/metrics.jsonl"; }

# ---- kills ----

# What Open MPI would leave elsewhere when it is killed.
export OMPI_MCA_btl_vader_backing_directory=$scratch OMPI_MCA_orte_tmpdir_base=$scratch

# Waits until these processes have ended. Their parent need not be this script.
await_end() {
    local process state
    for process in "$@"; do
        while state=$(sed 's/.*) \(.\).*/\1/' "/proc/$process/stat" 2>/dev/null) && [[ $state != [ZX] ]]; do
            sleep 0.01
        done
    done
}

# kill_after MICROSECONDS OPTION...: starts the run and kills it then, or one or all of its processes. False if it came
# to its end before.
kill_after() {
    local process children=() victims status=0
    "${trainer[@]}" "${@:2}" >"$here/output" 2>&1 </dev/null &
    process=$!
    sleep "$(($1 / 1000000)).$(printf %06d $(($1 % 1000000)))"
    victims=("$process")
    if [ "$ranks" -gt 1 ]; then
        read -ra children <"/proc/$process/task/$process/children" || true
        case $((RANDOM % 4)),${#children[@]} in
            0,* | *,0) ;;                     # mpirun alone
            1,*) victims+=("${children[@]}") ;; # all
            *) victims=("${children[RANDOM % ${#children[@]}]}") ;;
        esac
    fi
    kill -9 "${victims[@]}" || true
    wait "$process" || status=$?
    await_end "${children[@]}"
    if [ $status -ne 0 ] && [ "$ranks" -eq 1 ] && [ $status -ne 137 ]; then cat "$here/output"; exit 1; fi
    [ $status -ne 0 ]
}

# as_never_stopped FOLDER REFERENCE: whether the runs in them came to the same end.
as_never_stopped() {
    local step
    diff <(curve "$1") <(curve "$2")
    [ "$(readlink "$1/run/checkpoints/latest")" = "$(readlink "$2/run/checkpoints/latest")" ]
    for step in "$2"/run/checkpoints/step_*; do
        diff -r "$step" "$1/run/checkpoints/$(basename "$step")"
    done
}

# kill_often RANKS STEPS COUNT: kills that many, in runs of one optimizer after another.
kill_often() {
    local killed=0 runs=0 name begun options reference
    local names=(mars-m mars-adamw normuon sgd-sai)
    # Microseconds that a run takes which is not stopped. It is corrected as other programs come and go, so that a run
    # is killed some times before it comes to its end.
    local length=0
    use_ranks "$1"
    RANDOM=$((seed + first))
    while [ $killed -lt "$3" ]; do
        name=${names[runs % ${#names[@]}]}
        options=("--max_iters=$2" --checkpoint_interval=3 --eval_interval=5 "--optimizer.name=$name")
        reference=$here/$name
        if [ ! -e "$reference" ]; then
            mkdir "$reference"
            cd "$reference"
            begun=${EPOCHREALTIME/./}
            run 0 "${trainer[@]}" "${options[@]}"
            if [ $length -eq 0 ]; then length=$((${EPOCHREALTIME/./} - begun)); fi
        fi
        rm -rf "$here/killed"
        mkdir "$here/killed"
        cd "$here/killed"
        while [ $killed -lt "$3" ] && kill_after $((length * RANDOM / 32768)) "${options[@]}"; do
            killed=$((killed + 1))
            length=$((length * 17 / 16))
        done
        length=$((length * 3 / 4))
        run 0 "${trainer[@]}" "${options[@]}"
        lacks "$here/output" "passing over"
        as_never_stopped "$here/killed" "$reference"
        runs=$((runs + 1))
    done
    echo "kills, $1 process(es): $killed, of $runs runs; all ended with the bits of the run that was never stopped" >&3
}

test_kills_of_one_process() { kill_often 1 40 $((kills / shares)); }
test_kills_of_three_ranks() { kill_often 3 20 $((rank_kills / shares)); }

# ---- calls that fail ----

# with_fault KIND AT ERROR COMMAND...: runs it where that call fails, and none for AT 0.
with_fault() {
    rm -f "$here/journal"
    env LD_PRELOAD="$library" FAULT_FOLDER="$here/work" FAULT_JOURNAL="$here/journal" \
        FAULT_KIND="$1" FAULT_AT="$2" FAULT_WITH="$3" "${@:4}"
}

# Prints "KIND AT ERROR" for each call that must fail, from the journal of a run without faults.
cases() {
    local kind count error at
    while read -r count kind; do
        for error in EIO ENOSPC EINTR short gone; do
            if [ $error = short ] && [ "$kind" != write ] && [ "$kind" != read ]; then continue; fi
            if [ $error = ENOSPC ] && [ "$kind" = read ]; then continue; fi
            if [ $all = no ]; then
                echo "$kind $((RANDOM % count + 1)) $error"
            else
                for ((at = 1; at <= count; at++)); do echo "$kind $at $error"; done
            fi
        done
    done < <(cut -d' ' -f1 "$here/journal" | sort | uniq -c)
}

begin_again() {
    cd "$here"
    rm -rf work
    cp -a before work
    cd work
}

# fail_each_call COMMAND...: runs it in a copy of the folder $here/before, again for each call that can fail. The
# functions done_right and left_right look at what it did, or left, in the working directory. Both print why not, and
# are false.
fail_each_call() {
    local kind at error status failed=0 survived=0
    RANDOM=$seed
    begin_again
    run 0 with_fault none 0 EIO "$@"
    done_right
    cases | awk -v first=$first -v shares="$shares" 'NR % shares == first' >"$here/cases"
    while read -r kind at error; do
        begin_again
        status=0
        rm -f "$here/refused"
        with_fault "$kind" "$at" "$error" "$@" >"$here/output" 2>&1 </dev/null || status=$?
        if ! judge "$@"; then
            echo "$kind number $at with $error: $(grep '^failed' "$here/journal"), exit status $status:"
            if [ -e "$here/refused" ]; then cat "$here/refused"; fi
            cat "$here/output"
            find . -mindepth 1 -printf '%p %s %l\n' | sort
            return 1
        fi
        grep -q '^failed' "$here/journal" || continue
        failed=$((failed + 1))
        if [ $status -eq 0 ]; then survived=$((survived + 1)); fi
    done <"$here/cases"
    [ $failed -gt 0 ]
    echo "$(basename "$here" | sed 's/test_//; s/_/ /g'): $failed calls failed" \
        "($(cut -d' ' -f1 "$here/cases" | sort | uniq -c | tr -s ' \n' ' ')):" \
        "the work was done $survived times, and refused $((failed - survived)) times" >&3
}

remedies='make room|check that disk|put that disk right|--init_from=resume|choose another|run the same'

# Calls of a thread that reads tokens ahead: it may not come to all of them before the program ends, and nobody needs
# the tokens that it reads last. No call by default.
unneeded='^$'

# What holds after the call has failed, and after the same command has run again.
judge() {
    local failures
    failures=$(grep -c '^failed' "$here/journal" || true)
    if [ "$failures" = 0 ] && [ "$unneeded" != '^$' ] && [[ $kind = @(open|read|close) ]]; then
        [ "$status" = 0 ] && done_right # it has not come so far ahead this time
        return
    fi
    [ "$failures" = 1 ] || { [ "$error" = gone ] && [ "$failures" -gt 1 ]; } ||
        { echo "$failures calls failed"; return 1; }
    if [ "$error" = EINTR ] || [ "$error" = short ]; then
        [ "$status" = 0 ] || { echo "this is no reason to fail"; return 1; }
        lacks "$here/output" ": warning: " || return 1
    elif [ "$status" = 0 ] && grep -E '^failed (write|read|fsync)' "$here/journal" | grep -qvE "$unneeded"; then
        has "$here/output" ": warning: " || { echo "nobody is told"; return 1; }
    fi
    if [ "$status" = 2 ] && grep -q ": error: --tokenizer=" "$here/output"; then status=1; fi # it names the option
    [ "$status" = 0 ] || [ "$status" = 1 ] || return 1
    if [ "$status" = 1 ]; then
        grep -E ": error: .*($place|the folder \.)" "$here/output" | grep -qE "$remedies" ||
            { echo "the error does not say where, or what to do"; return 1; }
        left_right || return 1
        cp "$here/output" "$here/refused"
        "$@" >"$here/output" 2>&1 </dev/null || { echo "after it, without a fault, exit status $?"; return 1; }
        lacks "$here/output" "passing over" || return 1
    fi
    done_right
}

# ---- calls of the trainer ----

# A run that saves after every step and keeps all, to compare with.
run_every_step() {
    if [ -e "$scratch/every" ]; then return; fi
    mkdir "$scratch/every"
    (cd "$scratch/every" && run 0 "${trainer[@]}" --checkpoint_interval=1 --keep_checkpoints=0)
}

# Without the config, which says how often a run saves, and the checksum.
trainer_json() { sed '/"config":/d; s/^"xxh3": "[0-9a-f]*"}$/sealed/' "$1/trainer.json"; }

# Every checkpoint that is there is whole, and `latest` names one of them if it is there.
checkpoints_are_whole() {
    local folder expected
    for folder in run/checkpoints/step_*; do
        if [ ! -e "$folder" ]; then continue; fi
        expected=$scratch/every/run/checkpoints/$(basename "$folder" .old)
        diff -r -x trainer.json "$folder" "$expected" || return 1
        diff <(trainer_json "$folder") <(trainer_json "$expected") || { echo "$folder is not whole"; return 1; }
    done
    [ ! -L run/checkpoints/latest ] || [ -e run/checkpoints/latest/trainer.json ]
}

# expect_run STEP: what the runs must come to.
expect_run() {
    place='run/|folder run\b'
    last=step_0000000$1
    run_every_step
    curve "$scratch/every" | sed "/\"step\":$1,/q" | sed "/\"train\",\"step\":$1,/d" >"$here/curve"
    done_right() {
        checkpoints_are_whole || return 1
        [ "$(readlink run/checkpoints/latest)" = "$last" ] || { echo "the newest checkpoint is not $last"; return 1; }
        diff <(curve .) "$here/curve"
    }
    left_right() { checkpoints_are_whole; }
}

# From step 4 on: step 6 is there and is replaced, the save of step 8 was killed half-way, and old ones are removed.
test_calls_of_a_run() {
    expect_run 8
    mkdir "$here/before"
    cd "$here/before"
    run 137 env LD_PRELOAD="$library" FAULT_FOLDER="$PWD/run/checkpoints/.tmp_step_00000008" FAULT_KILL_AT_SYNC=2 \
        "${trainer[@]}"
    ln -sfn step_00000004 run/checkpoints/latest
    [ -e run/checkpoints/.tmp_step_00000008 ]
    fail_each_call "${trainer[@]}"
}

# Its tokens lie on the disk that fails, too.
test_calls_of_a_new_run() {
    expect_run 2
    place='run/|folder run\b|(train|val)\.bin' unneeded=' read .*/train\.bin$'
    mkdir "$here/before"
    cp "$golden/tiny_train.bin" "$here/before/train.bin"
    cp "$golden/tiny_val.bin" "$here/before/val.bin"
    fail_each_call "${trainer[@]}" --max_iters=2 --warmup_iters=2 --lr_decay_iters=200 --ema_start=1 \
        --data.train=train.bin --data.val=val.bin
}

# ---- calls of export_hf ----

test_calls_of_export() {
    place='\bout\b|tmp_out/|from/'
    run_every_step
    mkdir "$here/before"
    cp -r "$scratch/every/run/checkpoints/step_00000008" "$here/before/from"
    "$BIN/export_hf" "$scratch/every/run/checkpoints/latest" "$here/exported" --dtype=bfloat16
    done_right() { diff -r out "$here/exported" && [ "$(ls -A)" = $'from\nout' ]; }
    # Where the disk is gone, a folder that is in its place stays there, and is whole. The user removes it.
    left_right() {
        if [ "$error" = gone ] && [ -e out ]; then diff -r out "$here/exported" && rm -r out; fi
        [ ! -e out ]
    }
    fail_each_call "$BIN/export_hf" from out --dtype=bfloat16
}

# ---- calls of prepare_data ----

make_texts() {
    local i
    mkdir "$here/texts"
    for i in 1 2 3; do seq $((i * 1000)) $((i * 1000 + 400)) >"$here/texts/$i.txt"; done
}

# The files of GPT-2's vocabulary, of which the repository has one.
make_vocabulary() {
    local code
    mkdir "$here/vocabulary"
    cp dev/golden/gpt2/vocab.bpe "$here/vocabulary"
    {
        for code in {33..126} {161..172} {174..255} {256..323}; do printf '%b\n' "\\U$(printf %x "$code")"; done
        tail -n +2 dev/golden/gpt2/vocab.bpe | tr -d ' '
        echo '<|endoftext|>'
    } | sed 's/["\\]/\\&/g' | awk '{ printf "%s\"%s\": %d", NR == 1 ? "{" : ", ", $0, NR - 1 } END { print "}" }' \
        >"$here/vocabulary/encoder.json"
}

# Each file with its final name is that of the old output or of the new one, and tokens.json is there only with its own.
is_old_or_new() {
    local file name
    for file in out/*; do
        name=${file#out/}
        if [ ! -e "$file" ] || [[ $name = *.tmp ]]; then continue; fi
        cmp -s "$file" "$here/new/$name" || cmp -s "$file" "$here/before/out/$name" ||
            { echo "$file is neither old nor new"; return 1; }
    done
    [ ! -e out/tokens.json ] || diff -rq -x '.*' out "$here/new" >"$here/differs" ||
        diff -rq -x '.*' out "$here/before/out"
}

# fail_calls_of_prepare COMMAND...: fails those of a command that makes the folder out.
fail_calls_of_prepare() {
    place='\bout\b|texts/|vocabulary/|hellaswag\.jsonl'
    cp -r "$here/before" "$here/straight"
    cd "$here/straight"
    run 0 "$@"
    mv out "$here/new"
    # What could not be removed stays under a hidden name.
    done_right() {
        local hidden=()
        if grep -qs "warning: .* stays" "$here/output" "$here/refused"; then hidden=(-x '.*'); fi
        diff -r "${hidden[@]}" out "$here/new"
    }
    left_right() { is_old_or_new; }
    fail_each_call "$@"
}

test_calls_of_prepare_replacing() {
    make_texts
    mkdir "$here/before"
    mv "$here/texts" "$here/before"
    (cd "$here/before" && run 0 "$BIN/prepare_data" --tokenizer=bytes --out=out --shard_tokens=1000 texts)
    fail_calls_of_prepare "$BIN/prepare_data" --tokenizer=bytes --out=out --shard_tokens=2000 --val_fraction=0.2 texts
}

if [ $all = yes ]; then # reading the vocabulary takes a tenth of a second
    test_calls_of_prepare_with_a_vocabulary() {
        make_texts
        make_vocabulary
        mkdir "$here/before"
        mv "$here/texts" "$here/vocabulary" "$here/before"
        fail_calls_of_prepare "$BIN/prepare_data" --tokenizer=gpt2 --vocab=vocabulary --out=out texts
    }
fi

# Which is copied to the output folder.
test_calls_of_prepare_from_a_pipe() {
    make_texts
    mkdir "$here/before"
    command_file "$here/through_a_pipe" <<END
cat '$here'/texts/* | '$BIN/prepare_data' --tokenizer=bytes --out=out -
END
    fail_calls_of_prepare "$here/through_a_pipe"
}

test_calls_of_prepare_hellaswag() {
    mkdir "$here/before"
    echo '{"ctx":"a","endings":["1","2","3","4"],"label":0}' >"$here/before/hellaswag.jsonl"
    fail_calls_of_prepare "$BIN/prepare_data" --hellaswag --tokenizer=bytes --out=out hellaswag.jsonl
}

echo "faults.sh: seed $seed"
run_script_tests "$part"
