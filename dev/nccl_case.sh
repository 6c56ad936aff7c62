#!/usr/bin/env bash
# nccl_case.sh CASE ...: one case of `gpu_check.sh nccl`: ranks that share a GPU train a tiny model, with NCCL between
# them.
#
#   losses RANKS OPTIMIZER PRECISION LIMIT   each training and validation loss is that of one rank, but for LIMIT of it;
#                                            with 1 rank: trains the run to compare with
#   resume BEFORE AFTER OPTIMIZER LIMIT      the same of a run that BEFORE ranks begin and AFTER ranks resume, in float32
#   lost SIGNAL RANKS SECONDS                rank 1 gets SIGNAL (KILL or STOP); the others name it within SECONDS
#   clean                                    ends the ranks of a case that was killed
#
# gpu_check.sh sets the environment: TRAINER, the program; WORK, a folder; PYTHON; what lets ranks share a GPU; and
# NCCL_MODEL, arguments of the program that change its model. What is measured goes to $WORK/nccl.tsv, a line each: case,
# value, limit, unit.
set -euo pipefail
cd "$(dirname "$0")/.."

export RANKS=$WORK/ranks # the ids of the ranks' processes
config=$WORK/nccl.json
sequences=24 # a step: 1, 2, 3, 4 and 8 ranks take equal parts of it
steps=4
half=2
read -ra model <<<"${NCCL_MODEL:-}"

write_config() {
    cat >"$config" <<END
{"model": {"n_layer": 2, "n_head": 2, "n_embd": 128, "block_size": 64, "vocab_size": 256},
 "data": {"train": "dev/golden/tiny_train.bin", "val": "dev/golden/tiny_val.bin"},
 "optimizer": {"name": "adamw", "learning_rate": 0.003},
 "schedule": {"name": "cosine", "warmup_iters": 0, "lr_decay_iters": 200, "min_lr": 0.0003},
 "train": {"max_iters": $steps, "total_batch_size": $sequences, "batch_size": 1, "eval_interval": $half,
           "eval_sequences": 8, "log_interval": 1, "checkpoint_interval": 0, "out_dir": "$WORK", "device": "cuda",
           "precision": "float32", "threads": 1}}
END
}

# train NAME RANKS ARGUMENT...: trains in $WORK/NAME. A NCCL_HOSTID of its own makes each rank a host of its own for NCCL.
mpirun_options=()
train() {
    local name=$1 ranks=$2 command
    shift 2
    command=("$TRAINER" "$config" "--out_dir=$WORK/$name" "--batch_size=$((sequences / ranks))" "${model[@]}" "$@")
    if [ "$ranks" -eq 1 ]; then
        "${command[@]}"
        return
    fi
    rm -rf "$RANKS"
    mkdir -p "$RANKS"
    # shellcheck disable=SC2016 # the ranks' shells expand it
    mpirun -np "$ranks" --oversubscribe --bind-to none "${mpirun_options[@]}" bash -c '
        echo $$ >"$RANKS/$OMPI_COMM_WORLD_RANK"
        NCCL_HOSTID=host$OMPI_COMM_WORLD_RANK exec "$@"' rank "${command[@]}"
}

# measured CASE VALUE LIMIT UNIT
measured() {
    printf '%s\t%s\t%s\t%s\n' "$@" >>"$WORK/nccl.tsv"
    echo "$1: $2 $4, the limit is $3"
}

# compare CASE EXPECTED NAME LIMIT: the losses of run NAME with those of run EXPECTED.
compare() {
    local difference status=0
    difference=$("$PYTHON" dev/bench/compare_losses.py "$WORK/$2" "$WORK/$3" "$4") || status=$?
    [ -z "$difference" ] || measured "$1" "$difference" "$4" "of the loss"
    return $status
}

check_losses() {
    local ranks=$1 optimizer=$2 precision=$3 limit=$4
    train "$optimizer-$precision-$ranks" "$ranks" "--optimizer.name=$optimizer" "--precision=$precision"
    [ "$ranks" -gt 1 ] || return 0
    compare "$ranks ranks, $optimizer, $precision" "$optimizer-$precision-1" "$optimizer-$precision-$ranks" "$limit"
}

check_resume() {
    local before=$1 after=$2 optimizer=$3 limit=$4
    train resumed "$before" "--optimizer.name=$optimizer" "--max_iters=$half"
    train resumed "$after" "--optimizer.name=$optimizer" --init_from=resume
    compare "$before ranks, resumed with $after, $optimizer" "$optimizer-float32-1" resumed "$limit"
}

# ---- a rank that is lost ----

has_ended() { ! kill -0 "$1" 2>/dev/null; }

# Returns once the ranks of the job that is process $1 exchange gradients: after its second step.
await_steps() {
    until [ "$("$PYTHON" scripts/metrics.py values train step "$WORK/lost" 2>/dev/null | wc -l)" -ge 2 ]; do
        if has_ended "$1"; then
            echo "the job ended before its second step"
            return 1
        fi
        sleep 0.05
    done
}

# mpirun would end the job at once where a rank is killed, and what is tried is whether the ranks notice.
check_lost() {
    local signal=$1 ranks=$2 limit=$3 job begun tenths
    mpirun_options=(--enable-recovery)
    rm -rf "$WORK/lost"
    train lost "$ranks" --max_iters=1000000 --eval_interval=0 >"$WORK/lost.txt" 2>&1 &
    job=$!
    trap 'kill_ranks; cat "$WORK/lost.txt"' EXIT
    await_steps $job
    begun=$(date +%s%N)
    kill "-$signal" "$(cat "$RANKS/1")"
    wait $job || true
    tenths=$((($(date +%s%N) - begun) / 100000000))
    measured "rank 1 of $ranks gets SIG$signal" "$((tenths / 10)).$((tenths % 10))" "$limit" "s until the job ends"
    if ! grep -E "process 1 on host .* has given no sign of life" "$WORK/lost.txt"; then
        echo "no rank names process 1"
        return 1
    fi
    [ $tenths -le $((limit * 10)) ]
}

# The ranks of this case, or of one that was killed: mpirun may not have ended them.
kill_ranks() {
    local file rank
    for file in "$RANKS"/*; do
        [ -s "$file" ] || continue
        rank=$(cat "$file")
        if [ "$(cat "/proc/$rank/comm" 2>/dev/null)" = "$(basename "$TRAINER")" ]; then kill -KILL "$rank" || true; fi
    done
}

trap kill_ranks EXIT
# Shorter patience is for ranks that are lost: others may be silent for a while on a busy machine.
if [ "$1" != lost ]; then unset MARS_HEARTBEAT_SECONDS; fi
case $1 in
    losses | resume | lost) write_config && check_"$1" "${@:2}" ;;
    clean) ;;
    *) echo "nccl_case.sh: there is no case $1" >&2 && exit 2 ;;
esac
