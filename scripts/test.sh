#!/usr/bin/env bash
# test.sh [--all]: installs what is missing, builds, and tests in every way that a change must survive.
#
#   1. the build that users get, with warnings as errors, and all tests; where nvcc is there, every kernel for every
#      architecture, with a table of their registers
#   2. the same with the address and undefined-behaviour sanitizers, and with CUDA emulated on the CPU (dev/emu): all
#      tests on the CPU, and the kernels' on the emulated GPU in six orders of its threads
#   3. the emulated GPU without sanitizers: whole training runs, several processes, every optimizer
#   4. the emulated GPU under the thread sanitizer: kernels at small sizes
#   5. a build without oneDNN, MPI and CUDA, and the tests of what replaces them
#   6. make lint, where its tools are installed (under CI=true they are installed)
#
#   --all    also the data loader under the thread sanitizer
#
# Everything lies under build/, so that ./train_gpt2 stays as it is. The last line is "N passed, N failed", over all of
# it; a build or a lint that fails counts as one failure. Where CI=true, a test of the first build that is skipped
# counts as failed; the other builds skip what they cannot test, which the first one has tested.
set -euo pipefail

all=no
for argument in "$@"; do
    case $argument in
        --all) all=yes ;;
        -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
        *) echo "test.sh: unknown argument $argument; the only option is --all" >&2; exit 2 ;;
    esac
done

cd "$(dirname "$0")/.."
cores=$(nproc)
passed=0
failed=0
mkdir -p build/logs

heading() { printf '\n== %s\n' "$1"; }

# step NAME COMMAND...: runs it with its output in a log, which is shown where it fails.
step() {
    local name=$1 log=build/logs/$1.log begun=$SECONDS
    shift
    if "$@" >"$log" 2>&1 </dev/null; then
        echo "$name: good ($((SECONDS - begun)) s)"
        return 0
    fi
    grep -vE '^  (CC|LINK)  ' "$log" | tail -n 100
    echo "$name: FAILED ($((SECONDS - begun)) s): $*"
    failed=$((failed + 1))
    return 1
}

# compile FOLDER [OPTION...]: programs and tests, both in that folder.
compile() {
    local folder=$1
    shift
    step "make-${folder//\//-}" make -j"$cores" BUILD="$folder" BIN="$folder" "$@" programs tests
}

# list_tests FOLDER PATTERN...: the tests whose sources match, as programs of that folder or scripts; those of GPUs
# alone only by their own names.
list_tests() {
    local folder=$1 pattern source
    shift
    for pattern in "$@"; do
        for source in dev/test/$pattern dev/emu/$pattern; do
            case $source in
                *\**) ;; # nothing matched
                dev/test/test_devices.c) if [ "$pattern" = test_devices.c ]; then echo "$folder/test/test_devices"; fi ;;
                *.sh) echo "$source" ;;
                *) [ -e "$source" ] && echo "$folder/test/$(basename "${source%.*}")" ;;
            esac
        done
    done
}

# count LOG FOLDER LABEL: adds what dev/test/run_tests.sh counted in a log to the totals.
count() {
    local more_passed=0 more_failed=0
    read -r more_passed more_failed < <(sed -n '$s/^\([0-9]*\) passed, \([0-9]*\) failed$/\1 \2/p' "$1") ||
        more_failed=1
    passed=$((passed + more_passed))
    failed=$((failed + more_failed))
    echo "tests in $2$3: $more_passed passed, $more_failed failed"
}

# run_tests FOLDER PATTERN...: runs the tests whose sources match, and adds what dev/test/run_tests.sh counts. Those on
# the CPU often wait, for processes to start or to fall silent, so there is one more of them at a time than there are
# cores.
run_tests() {
    local folder=$1 begun=$SECONDS log tests
    shift
    mapfile -t tests < <(list_tests "$folder" "$@")
    log=build/logs/test-${folder//\//-}.log
    BUILD=$folder BIN=$folder TEST_JOBS=$((cores + 1)) bash dev/test/run_tests.sh "${tests[@]}" 2>&1 |
        tee "$log" | sed '$d' || true
    count "$log" "$folder" " ($((SECONDS - begun)) s)"
}

# The emulated GPU runs on one core, so its tests run side by side, in lanes. lane NAME FOLDER [VARIABLE=VALUE...] --
# PATTERN... starts when a core is free and keeps its output for wait_for_lanes.
lanes=()
lane() {
    local name=$1 folder=$2 settings=() tests
    shift 2
    while [ "$1" != -- ]; do settings+=("$1") && shift; done
    shift
    mapfile -t tests < <(list_tests "$folder" "$@")
    while [ "$(jobs -rp | wc -l)" -ge "$cores" ]; do wait -n || true; done
    mkdir -p "build/logs/$name"
    env "${settings[@]}" TEST_LOGS="build/logs/$name" BUILD="$folder" BIN="$folder" OMP_NUM_THREADS=1 \
        bash dev/test/run_tests.sh "${tests[@]}" >"build/logs/$name.log" 2>&1 &
    lanes+=("$name")
}
wait_for_lanes() {
    local name
    wait
    for name in "${lanes[@]}"; do
        sed '$d' "build/logs/$name.log"
        count "build/logs/$name.log" "$name" ""
    done
    lanes=()
}

finish() {
    printf '\n%d seconds in all\n' $SECONDS
    echo "$passed passed, $failed failed"
    [ $failed -eq 0 ]
    exit
}

heading "what is needed"
options=(--emu)
if [ "${CI:-}" = true ]; then options+=(--lint); fi
if ! { bash scripts/install_deps.sh "${options[@]}" && make found; }; then
    failed=1
    finish
fi

heading "the build that users get"
if compile build WERROR=1; then run_tests build 'test_*.c' 'test_*.sh'; fi
if command -v nvcc >/dev/null; then
    if step cuda-report make --no-print-directory cuda-report WERROR=1; then cat build/logs/cuda-report.log; fi
elif [ "${CI:-}" = true ]; then
    echo "cuda-report: FAILED: there is no nvcc"
    failed=$((failed + 1))
fi

# Tests of a backend table, which any device can be asked to pass.
kernels='test_kernels*.c'
orders='forward reverse newest mix:1 mix:2 mix:3'

heading "address and undefined-behaviour sanitizers, CUDA emulated"
if compile build/asan EMU=1 SANITIZE=address,undefined OPTIMIZE=-O2; then
    MARS_EMU_DEVICES=0 CI='' TEST_SECONDS=600 run_tests build/asan 'test_*.c'
    for order in $orders; do
        lane "asan-${order/:/-}" build/asan CI= TEST_SECONDS=600 MARS_TEST_DEVICE=cuda MARS_EMU_ORDER="$order" -- \
            "$kernels" test_newton_schulz.c test_optim_passes.c
    done
    lane asan-emulator build/asan CI= TEST_SECONDS=600 MARS_TEST_DEVICE=cuda -- 'test_*.cu'
    wait_for_lanes
fi

heading "an emulated GPU"
if compile build/emu EMU=1 WERROR=1 OPTIMIZE=-O2; then
    lane emu-golden build/emu CI= TEST_SECONDS=600 MARS_TEST_DEVICE=cuda -- test_golden.c
    lane emu-devices build/emu CI= TEST_SECONDS=600 -- test_devices.c
    lane emu-hellaswag build/emu CI= TEST_SECONDS=600 MARS_TEST_DEVICE=cuda -- test_hellaswag.c
    lane emu-optimizers build/emu CI= TEST_SECONDS=600 MARS_TEST_DEVICE=cuda -- 'test_optim*.c' test_comm.c 'test_*.cu'
    wait_for_lanes
fi

heading "an emulated GPU under the thread sanitizer"
export TSAN_OPTIONS=atexit_sleep_ms=0 # a second for each of many processes, else
if compile build/tsan EMU=1 SANITIZE=thread OPTIMIZE=-O1; then
    lane tsan-kernels build/tsan CI= TEST_SECONDS=600 MARS_TEST_DEVICE=cuda MARS_TEST_SMALL=1 -- "$kernels"
    lane tsan-emulator build/tsan CI= TEST_SECONDS=600 -- test_emulator.cu test_faults.cu
    wait_for_lanes
fi

heading "without oneDNN, MPI and CUDA"
if compile build/plain ONEDNN=0 MPI=0 CUDA=0 WERROR=1; then
    CI='' run_tests build/plain 'test_kernels*.c' 'test_newton_schulz.c' 'test_optim_rules.c' 'test_gpt2*.c' 'test_golden.c' \
        'test_example.c'
fi

if [ $all = yes ]; then
    heading "the data loader under the thread sanitizer"
    CI='' TEST_SECONDS=600 run_tests build/tsan test_data.c
fi

if [ "${CI:-}" = true ] || { command -v clang-format && command -v clang-tidy && command -v cppcheck &&
    command -v shellcheck; } >/dev/null; then
    heading "lint"
    step lint make lint || true
fi

finish
