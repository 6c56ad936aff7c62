#!/usr/bin/env bash
# run.sh [--keep] [SECONDS [TARGET...]]: fuzzes each of the targets of this folder, or these (config, shard, ...), for
# SECONDS (default 60), as many at a time as there are cores, and fails where there is a finding.
#
# A target begins with its kept inputs, corpus/TARGET.tar.gz, which the tests repeat, and with those that earlier runs have
# left in build/fuzz/inputs. The input of a finding, and what the program said, stay in build/fuzz/findings; to see it
# again: build/fuzz/fuzz_TARGET INPUT.
#
#   --keep    puts into corpus/ the fewest inputs that reach what all of them do. Those whose name begins with "found_",
#             which once were findings, always stay.
#
# BUILD (default build) holds what is compiled; FUZZ_JOBS how many run at a time.
set -euo pipefail

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; }

keep=no
while [[ ${1:-} == -* ]]; do
    case $1 in
        --keep) keep=yes ;;
        -h | --help) usage; exit 0 ;;
        *) echo "run.sh: unknown option $1; the only option is --keep" >&2; exit 2 ;;
    esac
    shift
done
seconds=${1:-60}
[[ $seconds =~ ^[1-9][0-9]*$ ]] || { echo "run.sh: '$seconds' is no number of seconds, from 1" >&2; exit 2; }
shift || true

cd "$(dirname "$0")/../.."
targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
    for source in dev/fuzz/fuzz_*.c; do
        name=${source##*/fuzz_}
        targets+=("${name%.c}")
    done
fi
for target in "${targets[@]}"; do
    [ -e "dev/fuzz/fuzz_$target.c" ] || { echo "run.sh: there is no dev/fuzz/fuzz_$target.c" >&2; exit 2; }
done

BUILD=${BUILD:-build}
jobs=${FUZZ_JOBS:-$(nproc)}
make --no-print-directory -j"$jobs" BUILD="$BUILD" fuzz
work=$BUILD/fuzz
mkdir -p "$work/inputs" "$work/findings"

# The targets write small files all the time: in memory, where there is some.
if [ -w /dev/shm ]; then export TMPDIR=/dev/shm; fi
TMPDIR=$(mktemp -d)
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT

# fuzz TARGET: one of them, with a line about it.
fuzz() {
    local target=$1 log=$work/findings/$1.log inputs=$work/inputs/$1 dictionary=() status=0
    mkdir -p "$inputs"
    if [ -e "dev/fuzz/corpus/$target.tar.gz" ]; then tar -xzf "dev/fuzz/corpus/$target.tar.gz" -C "$inputs"; fi
    if [ -e "dev/fuzz/$target.dict" ]; then dictionary=("-dict=dev/fuzz/$target.dict"); fi
    "$work/fuzz_$target" -max_total_time="$seconds" -max_len=8192 -timeout=20 -rss_limit_mb=2048 "${dictionary[@]}" \
        -artifact_prefix="$work/findings/$target-" "$inputs" >"$log" 2>&1 </dev/null || status=$?
    if [ $status -ne 0 ]; then
        tail -n 60 "$log"
        echo "$target: FAILED with status $status (the whole of it is in $log)"
        return 1
    fi
    echo "$target: $(sed -n 's/^Done \([0-9]*\) runs in \([0-9]*\) second.*/\1 inputs in \2 s/p' "$log"), $(
        sed -n 's/.*DONE *cov: \([0-9]*\) ft: \([0-9]*\) corp: \([0-9]*\)\/.*/\3 of them differ in where they go/p' "$log")"
    rm "$log"
}

# pack TARGET: the inputs that are worth keeping, in an archive that is the same for the same inputs.
pack() {
    local target=$1 kept=$TMPDIR/kept_$1
    mkdir -p "$kept"
    "$work/fuzz_$target" -merge=1 "$kept" "$work/inputs/$target" >/dev/null 2>&1 </dev/null
    find "$work/inputs/$target" -name 'found_*' -exec cp {} "$kept" \;
    tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --mode=644 -C "$kept" -cf - . |
        gzip -9n >"dev/fuzz/corpus/$target.tar.gz"
    echo "$target: $(find "$kept" -type f | wc -l) inputs kept, $(wc -c <"dev/fuzz/corpus/$target.tar.gz") bytes"
}

failed=0
running=0
for target in "${targets[@]}"; do
    if [ $running -ge "$jobs" ]; then
        wait -n || failed=$((failed + 1))
        running=$((running - 1))
    fi
    fuzz "$target" &
    running=$((running + 1))
done
for ((; running > 0; running--)); do wait -n || failed=$((failed + 1)); done

if [ $keep = yes ]; then
    mkdir -p dev/fuzz/corpus
    for target in "${targets[@]}"; do pack "$target"; done
fi
echo "${#targets[@]} targets, $failed with a finding"
[ $failed -eq 0 ]
