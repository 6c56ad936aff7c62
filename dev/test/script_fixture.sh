# shellcheck shell=bash
# script_fixture.sh: what the tests of shell scripts share. A test is a function test_...; the file that holds tests
# sources this one first and ends with run_script_tests "$@". Each test runs in a folder of its own, $here, with the repository's
# root as working directory.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck disable=SC2034 # for the tests
BIN=$(realpath "${MARS_BIN:-.}")
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# run STATUS COMMAND...: fails unless it ends with this status; what it prints is in $here/output.
run() {
    local expected=$1 status=0
    shift
    "$@" >"$here/output" 2>&1 </dev/null || status=$?
    if [ "$status" -ne "$expected" ]; then
        echo "exit status $status, expected $expected: $*"
        cat "$here/output"
        return 1
    fi
}

# has FILE TEXT, lacks FILE TEXT: whether one of its lines holds the text.
has() {
    grep -qaF -e "$2" "$1" || { echo "$1 does not hold '$2':"; cat "$1"; return 1; }
}
lacks() {
    if grep -qaF -e "$2" "$1"; then echo "$1 holds '$2':"; cat "$1"; return 1; fi
}

# has_parts FILE PART...: fails unless one of its lines holds the parts, one after the other. Of a message to a user
# these are four: the script or key, what was found, what was expected, and what the user can do.
has_parts() {
    local file=$1 pattern='*' part line
    for part in "${@:2}"; do pattern+="$(printf '%q' "$part")*"; done
    while IFS= read -r line; do
        # shellcheck disable=SC2053 # a pattern
        [[ $line == $pattern ]] && return
    done <"$file"
    echo "no line of $file holds, in this order: $*"
    cat "$file"
    return 1
}

# Makes python3 the one of the system where there is one: it starts in a third of the time that one of pyenv takes.
use_system_python() {
    if [ ! -x /usr/bin/python3 ]; then return; fi
    mkdir "$scratch/python"
    ln -s /usr/bin/python3 "$scratch/python/"
    export PATH=$scratch/python:$PATH
}

# command_file PATH: makes a shell script of standard input.
command_file() {
    { echo '#!/bin/bash'; cat; } >"$1"
    chmod +x "$1"
}

# skip WHY: ends a test that cannot be done here.
SKIPPED=77
skip() {
    echo "$1"
    exit $SKIPPED
}

# run_script_tests [PART]: runs every test, or those with PART (default $MARS_TEST_ONLY) in their names, and prints "N
# passed, N failed", and ", N skipped" where there are any, at its end. A PART that no name has counts as a failure.
run_script_tests() {
    local passed=0 failed=0 skipped=0 part=${1:-${MARS_TEST_ONLY:-}} test status
    unset MARS_TEST_ONLY # what the tests run knows it, too
    for test in $(declare -F | sed -n 's/^declare -f \(test_.*\)/\1/p'); do
        case $test in *"$part"*) ;; *) continue ;; esac
        here=$scratch/$test
        mkdir "$here"
        # In the background, so that a failure in the middle of a test ends it: with its place, as not every command that
        # fails says so.
        (
            set -E
            trap 'echo "line $LINENO: $BASH_COMMAND"' ERR
            "$test"
        ) >"$scratch/log" 2>&1 &
        status=0
        wait $! || status=$?
        if [ $status -eq 0 ]; then
            passed=$((passed + 1))
        elif [ $status -eq $SKIPPED ]; then
            skipped=$((skipped + 1))
            echo "SKIPPED: $test: $(tail -n 1 "$scratch/log")"
        else
            failed=$((failed + 1))
            echo "FAILED: $test"
            sed 's/^/    /' "$scratch/log"
        fi
    done
    if [ $((passed + failed + skipped)) -eq 0 ]; then
        echo "there is no test '$part'"
        failed=1
    fi
    echo "$passed passed, $failed failed$(if [ $skipped -gt 0 ]; then echo ", $skipped skipped"; fi)"
    [ "$failed" -eq 0 ]
}
