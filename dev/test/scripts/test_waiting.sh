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

run_script_tests "$@"
