#!/usr/bin/env bash
# run_tests.sh TEST...: runs test programs, TEST_JOBS of them (default 1) side by side, and counts their tests.
#
# A test is a cmocka program, whose own summaries are counted, or a shell script (*.sh) that ends by printing
# "N passed, N failed" or "N passed, N failed, N skipped". The environment says where things are: BUILD (default build)
# holds what was compiled, BIN (default .) the programs under test; the tests find them as MARS_BUILD and MARS_BIN.
#
# TEST_COMMAND is put before each program, such as that of an emulator.
#
# A program that does not end in a summary (a crash, a sanitizer's report, the time limit of TEST_SECONDS, default
# 300) counts as one failed test. Where CI=true a skipped test is a failed one: there is nobody to notice it. The
# exceptions are lines of may_be_skipped.txt, next to this script: the name of a test script, and how the reason begins
# for which its tests may be skipped. What a failing program printed is shown, and kept in $TEST_LOGS (default
# $BUILD/test_logs). The last line is "N passed, N failed"; the exit status is 1 where anything failed.
set -euo pipefail

[ $# -gt 0 ] || { echo "run_tests.sh: give the test programs to run" >&2; exit 2; }
BUILD=${BUILD:-build}
BIN=${BIN:-.}
export MARS_BUILD=$BUILD MARS_BIN=$BIN
# Some tests start mpirun, which refuses root unless told twice.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
# Threads that wait by spinning make a busy machine ten times slower.
export OMP_WAIT_POLICY=passive
seconds_limit=${TEST_SECONDS:-300}
read -ra runner <<<"${TEST_COMMAND:-}"
logs=${TEST_LOGS:-$BUILD/test_logs}
shown_lines=200
exceptions=$(dirname "$0")/may_be_skipped.txt
mkdir -p "$logs"

# count_cmocka LOG: "passed failed skipped" over all groups of a cmocka program; nothing where a group did not end.
count_cmocka() {
    awk '
        function number(    words, i, n) {
            n = split($0, words, " ")
            for (i = 2; i <= n; i++) if (words[i] ~ /^test\(s\)/) return words[i - 1] + 0
            return 0
        }
        /^\[==========\].* Running [0-9]+ test/ { begun++; tests += number() }
        /^\[==========\].* test\(s\) run\./     { ended++ }
        /^\[  PASSED  \].* test\(s\)/           { passed += number() }
        /^\[  SKIPPED \].* test\(s\), listed/   { skipped += number() }
        # The rest failed, in whichever of their phases: cmocka counts those with a failed setup apart.
        END { if (begun && begun == ended) print passed + 0, tests - passed - skipped, skipped + 0 }' "$1"
}

# count_script LOG: the same of a shell script, from its last line.
count_script() {
    local summary='^([0-9]+) passed, ([0-9]+) failed, ([0-9]+) skipped$'
    tail -n 1 "$1" | sed -nE "s/ failed$/&, 0 skipped/; s/$summary/\1 \2 \3/p"
}

# count_excused NAME LOG: how many tests a script has skipped for a reason that is an exception.
count_excused() {
    local script reason
    while read -r script reason; do
        if [ "$script" = "$1" ]; then grep '^SKIPPED: ' "$2" | grep -F ": $reason" || true; fi
    done <"$exceptions" | sort -u | wc -l
}

why_no_summary() {
    case $1 in
        124 | 137) echo "did not end within $seconds_limit seconds" ;;
        0) echo "printed no summary" ;;
        *) if [ "$1" -gt 128 ]; then echo "died of signal $(($1 - 128))"; else echo "ended with status $1"; fi ;;
    esac
}

# run_one TEST COUNTED: prints what people see of a test, and into file COUNTED how many passed and failed.
run_one() {
    local test=$1 counted=$2 name log status=0 begun ms counts passed failed skipped unexcused note=
    name=$(basename "$test" .sh)
    log=$logs/$name.log
    begun=$(date +%s%N)
    local command
    case $test in
        *.sh) command=(bash "$test") ;;
        */*) command=("${runner[@]}" "$test") ;;
        *) command=("${runner[@]}" "./$test") ;;
    esac
    local TIMEFORMAT='%U %S' cpu
    { time timeout -k 10 "$seconds_limit" "${command[@]}" </dev/null >"$log" 2>&1 || status=$?; } 2>"$log.cpu"
    cpu=$(awk '{ printf "%.1f", $1 + $2 }' "$log.cpu")
    case $test in
        *.sh) counts=$(count_script "$log") ;;
        *) counts=$(count_cmocka "$log") ;;
    esac
    if [ -z "$counts" ]; then
        counts="0 1 0"
        note=", $(why_no_summary $status)"
    fi
    read -r passed failed skipped <<<"$counts"
    if [ "$status" -ne 0 ] && [ "$failed" -eq 0 ]; then # such as a leak that is found after the summary
        failed=1
        note=", $(why_no_summary $status)"
    fi
    if [ "$skipped" -gt 0 ]; then
        note+=", $skipped skipped"
        if [ "${CI:-}" = true ]; then
            unexcused=$((skipped - $(count_excused "$name" "$log")))
            failed=$((failed + unexcused))
            if [ $unexcused -gt 0 ]; then note+=", of which $unexcused count as failed under CI"; fi
        fi
    fi
    ms=$((($(date +%s%N) - begun) / 1000000))
    printf '%-28s %4d passed, %d failed%s  (%d.%d s, CPU %s s)\n' "$name" "$passed" "$failed" "$note" \
        $((ms / 1000)) $((ms / 100 % 10)) "$cpu"
    if [ "$failed" -gt 0 ]; then show_failure "$log"; fi
    echo "$passed $failed" >"$counted"
}

# What a failing program printed, without the tests that passed in silence.
show_failure() {
    awk '
        /^\[ RUN      \]/ { held = $0; next }
        /^\[       OK \]/ && held { held = ""; next }
        { if (held) print held; held = ""; print }
        END { if (held) print held }' "$1" | tail -n $shown_lines | sed 's/^/    | /'
    echo "    | (the whole of it is in $1)"
}

# What a test prints appears when it has ended, and those before it have.
results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT
printed=0
print_ended() {
    while [ $printed -lt "$1" ] && [ -e "$results/ended_$printed" ]; do
        cat "$results/shown_$printed"
        printed=$((printed + 1))
    done
}

number=0
for test in "$@"; do
    while [ "$(jobs -rp | wc -l)" -ge "${TEST_JOBS:-1}" ]; do wait -n || true; done
    print_ended $number
    {
        run_one "$test" "$results/counted_$number" >"$results/shown_$number" || true
        touch "$results/ended_$number"
    } &
    number=$((number + 1))
done
wait
print_ended $number

# A test that was not counted is one that failed.
counts=$(cat "$results"/counted_* 2>/dev/null || true)
total_passed=$(awk '{ sum += $1 } END { print sum + 0 }' <<<"$counts")
total_failed=$(awk -v tests=$# 'NF { sum += $2; tests-- } END { print sum + tests }' <<<"$counts")
echo "$total_passed passed, $total_failed failed"
[ "$total_failed" -eq 0 ]
