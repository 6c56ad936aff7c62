#!/usr/bin/env bash
# test_waiting.sh: tests that every program limits how long OpenMP's threads spin (util/program.h), and leaves alone
# what the user has chosen. How long they spin: test_program.c. Prints "N passed, N failed" at its end.
# shellcheck source=dev/test/script_fixture.sh
source "$(dirname "$0")/../script_fixture.sh"

BUILD=$(realpath "${MARS_BUILD:-build}")
unset OMP_WAIT_POLICY GOMP_SPINCOUNT KMP_BLOCKTIME
# Not the example, which is a program that only uses the library: what OpenMP does in it is for its author to set.
programs=("$BIN/train_gpt2" "$BIN/sample_gpt2" "$BIN/prepare_data" "$BIN/export_hf" "$BUILD"/bench_*)

# settings COMMAND...: what OpenMP's runtime, GNU's or LLVM's, says of its settings whenever it is loaded.
settings() { { OMP_DISPLAY_ENV=verbose "$@" --no_such_option 2>&1 >"$here/output" || true; } | tr -d "' "; }

# A program without parallel regions is not linked with OpenMP, and has nothing to say.
has_openmp() { ldd "$1" | grep -qE 'libgomp|libomp'; }

test_every_program_spins_shortly() {
    local program count=0
    for program in "${programs[@]}"; do
        case $program in *.o | *.d | *.json) continue ;; esac
        has_openmp "$program" || continue
        count=$((count + 1))
        if ! settings "$program" | grep -E '(GOMP_SPINCOUNT=[1-9][0-9]{1,5}|KMP_BLOCKTIME=1(ms)?)$' >"$here/found"; then
            echo "$program does not limit the spinning of OpenMP's threads"
            return 1
        fi
    done
    [ $count -ge 3 ] || { echo "only $count programs found"; return 1; }
}

# started COMMAND...: how often OpenMP was loaded: twice by a program that executed itself again.
started() { settings "$@" | grep -cE 'OPENMPDISPLAYENVIRONMENTBEGIN'; }

test_the_users_choice_stays() {
    local choice
    [ "$(started "$BIN/train_gpt2")" = 2 ] || { echo "the program did not start again"; return 1; }
    for choice in OMP_WAIT_POLICY=active OMP_WAIT_POLICY=passive GOMP_SPINCOUNT=5 KMP_BLOCKTIME=5; do
        [ "$(started env "$choice" "$BIN/train_gpt2")" = 1 ] || { echo "$choice was replaced"; return 1; }
    done
}

test_arguments_status_and_name_stay() {
    run 2 "$BIN/train_gpt2" config/quickstart.json "--no such key=1" ""
    has "$here/output" "no such key"
    cp "$BIN/train_gpt2" "$here/renamed_trainer"
    # shellcheck disable=SC2016 # expanded by the inner shell
    run 0 bash -c 'PATH=$1:$PATH; exec renamed_trainer --version' bash "$here"
    has "$here/output" "train_gpt2 (mars.c)"
}

cat >"$scratch/config.json" <<END
{"model": {"n_layer": 1, "n_head": 2, "n_embd": 32, "block_size": 32, "vocab_size": 256},
 "data": {"train": "dev/golden/tiny_train.bin", "val": "dev/golden/tiny_val.bin"},
 "optimizer": {"name": "adamw", "learning_rate": 0.003},
 "schedule": {"name": "constant"},
 "train": {"max_iters": 1, "total_batch_size": 1, "batch_size": 1, "eval_sequences": 1, "checkpoint_interval": 0,
           "precision": "float32", "device": "cpu", "threads": 0, "overwrite": true}}
END

# threads_with VARIABLE=VALUE...: how many threads a run takes.
threads_with() {
    run 0 env "$@" "$BIN/train_gpt2" "$scratch/config.json" --out_dir="$here/run"
    sed -n 's/^ *processes *1 x \([0-9]*\) threads.*/\1/p' "$here/output"
}

# libgomp leaves the first thread one processor. A program that starts again must not inherit that.
test_bound_threads_have_all_processors() {
    local setting all
    all=$(threads_with OMP_DYNAMIC=false)
    [ "$all" -ge 1 ]
    for setting in OMP_PROC_BIND=true OMP_PLACES=cores OMP_PROC_BIND=spread; do
        [ "$(threads_with "$setting")" = "$all" ] || { echo "$setting: not $all threads"; return 1; }
        [ "$(threads_with "$setting" GOMP_SPINCOUNT=1000)" = "$all" ] || { echo "$setting, no restart"; return 1; }
    done
    # Those threads may run on different processors.
    OMP_PROC_BIND=true "$BIN/train_gpt2" "$scratch/config.json" --out_dir="$here/bound" --max_iters=100000 --threads=2 \
        >"$here/output" 2>&1 &
    while ! grep -qs '"event":"train"' "$here/bound/metrics.jsonl"; do
        kill -0 $! || { cat "$here/output"; return 1; }
        sleep 0.1
    done
    grep -h Cpus_allowed_list /proc/$!/task/*/status | sort -u >"$here/processors"
    kill $!
    wait $! || true
    [ "$all" = 1 ] || [ "$(wc -l <"$here/processors")" -gt 1 ] || { cat "$here/processors"; return 1; }
}

# As relocatable bundles start programs: /proc/self/exe is the loader.
test_started_by_the_dynamic_loader() {
    local loader
    loader=$(ldd "$BIN/train_gpt2" | sed -n 's/^[[:blank:]]*\(\/[^ ]*ld-[^ ]*\) .*/\1/p')
    [ -x "$loader" ] || { echo "no loader found"; return 1; }
    run 0 "$loader" "$BIN/train_gpt2" --version
    has "$here/output" "train_gpt2 (mars.c)"
}

run_script_tests "$@"
