#!/usr/bin/env bash
# waiting.sh [--threads=N]: how ways for OpenMP's threads to wait do next to other programs.
#
# Prints a table of milliseconds per training step, of a small and of the 124M model, with 0, 1 and 2 busy programs on
# the same cores: for the way that every program here sets by itself (util/program.h), and for others that its user
# can set. Each number is the median of rounds in which all ways take turns, five for the small model and one for 124M,
# since a busy machine's speed drifts. The last column is the worst ratio to the best way in the same column. Build
# first: make build/bench_train.
#
# Environment: BUILD (default build).
set -euo pipefail
cd "$(dirname "$0")/../.."

bench=${BUILD:-build}/bench_train
threads=$(nproc)
for argument in "$@"; do
    case $argument in
        --threads=*) threads=${argument#*=} ;;
        -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
        *) echo "waiting.sh: unknown argument $argument; the only option is --threads=N" >&2; exit 2 ;;
    esac
done
[ -x "$bench" ] || { echo "waiting.sh: $bench is missing; make $bench builds it" >&2; exit 1; }

ways=("as set by the program" OMP_WAIT_POLICY=active OMP_WAIT_POLICY=passive GOMP_SPINCOUNT=300000 GOMP_SPINCOUNT=20000)
scratch=$(mktemp -d)
busy=()
stop_busy() {
    if [ ${#busy[@]} -gt 0 ]; then
        kill "${busy[@]}"
        wait "${busy[@]}" || true # with the status of a killed program
    fi 2>/dev/null
    busy=()
}
trap 'stop_busy; rm -rf "$scratch"' EXIT
start_busy() {
    local i
    for ((i = 0; i < $1; i++)); do
        while :; do :; done &
        busy+=($!)
    done
}

# step_ms WAY OPTION...: the median step.
step_ms() {
    local way=$1 settings=()
    shift
    case $way in *=*) settings=("$way") ;; esac
    env -u OMP_WAIT_POLICY -u GOMP_SPINCOUNT -u KMP_BLOCKTIME "${settings[@]}" timeout 300 "$bench" --device=cpu \
        --precision=float32 --threads="$threads" "$@" | sed -n 's/^  step, ms *//p'
}

columns=()
for model in small_model 124M; do
    for programs in 0 1 2; do
        columns+=("$model/$programs")
        case $model in
            124M) rounds=1 options=(--model=small --batch=1 --steps=3) ;;
            *) rounds=5 options=(--model=tiny --batch=8 --steps=15) ;;
        esac
        for ((round = 0; round < rounds; round++)); do
            for way in "${!ways[@]}"; do
                start_busy $programs
                step_ms "${ways[way]}" "${options[@]}" >>"$scratch/rounds_$way"
                stop_busy
            done
        done
        for way in "${!ways[@]}"; do
            sort -g "$scratch/rounds_$way" | sed -n "$((rounds / 2 + 1))p" >"$scratch/${model}_${programs}_$way"
            rm "$scratch/rounds_$way"
        done
    done
done

printf '%-24s' "ms a step"
printf '%16s' "${columns[@]}"
printf '%10s\n' "worst"
for way in "${!ways[@]}"; do
    printf '%-24s' "${ways[way]}"
    for column in "${columns[@]}"; do
        file=$scratch/${column/\//_}_
        best=$(sort -g "$file"* | head -n 1)
        echo "$(cat "$file$way") $best"
    done | awk '{ printf "%16s", $1; ratio = $1 / $2; if (ratio > worst) worst = ratio } END { printf "%10.2f\n", worst }'
done
