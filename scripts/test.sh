#!/usr/bin/env bash
# test.sh [--all]: installs what is missing, builds, and tests in every way that a change must survive.
#
#   1. the build that users get, with warnings as errors, and all tests
#   2. a build with the address and undefined-behaviour sanitizers, and all tests
#   3. a build without oneDNN and without MPI, and the tests of what replaces them
#   4. make lint, where its tools are installed (under CI=true they are installed)
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

# run_tests FOLDER PATTERN...: runs the tests whose sources match, and adds what dev/test/run_tests.sh counts.
run_tests() {
    local folder=$1 begun=$SECONDS log tests=() pattern source more_passed=0 more_failed=0
    shift
    for pattern in "$@"; do
        for source in dev/test/$pattern; do
            case $source in
                *.c) tests+=("$folder/test/$(basename "$source" .c)") ;;
                *) tests+=("$source") ;;
            esac
        done
    done
    log=build/logs/test-${folder//\//-}.log
    BUILD=$folder BIN=$folder bash dev/test/run_tests.sh "${tests[@]}" 2>&1 | tee "$log" | sed '$d' || true
    read -r more_passed more_failed < <(sed -n '$s/^\([0-9]*\) passed, \([0-9]*\) failed$/\1 \2/p' "$log") ||
        more_failed=1
    passed=$((passed + more_passed))
    failed=$((failed + more_failed))
    echo "tests in $folder: $more_passed passed, $more_failed failed ($((SECONDS - begun)) s)"
}

finish() {
    printf '\n%d seconds in all\n' $SECONDS
    echo "$passed passed, $failed failed"
    [ $failed -eq 0 ]
    exit
}

heading "what is needed"
lint_tools=()
if [ "${CI:-}" = true ]; then lint_tools=(--lint); fi
if ! { bash scripts/install_deps.sh "${lint_tools[@]}" && make found; }; then
    failed=1
    finish
fi

heading "the build that users get"
if compile build WERROR=1; then run_tests build 'test_*.c' 'test_*.sh'; fi

heading "address and undefined-behaviour sanitizers"
if compile build/asan SANITIZE=address,undefined OPTIMIZE=-O2; then
    CI='' TEST_SECONDS=600 run_tests build/asan 'test_*.c'
fi

heading "without oneDNN and MPI"
if compile build/plain ONEDNN=0 MPI=0 WERROR=1; then
    CI='' run_tests build/plain 'test_kernels*.c' 'test_newton_schulz.c' 'test_optim_rules.c' 'test_gpt2*.c' 'test_golden.c' \
        'test_example.c'
fi

if [ $all = yes ]; then
    heading "thread sanitizer"
    if step make-build-tsan make -j"$cores" BUILD=build/tsan BIN=build/tsan SANITIZE=thread OPTIMIZE=-O1 \
        build/tsan/test/test_data; then
        CI='' TEST_SECONDS=600 run_tests build/tsan test_data.c
    fi
fi

if [ "${CI:-}" = true ] || { command -v clang-format && command -v clang-tidy && command -v cppcheck &&
    command -v shellcheck; } >/dev/null; then
    heading "lint"
    step lint make lint || true
fi

finish
