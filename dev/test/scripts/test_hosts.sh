#!/usr/bin/env bash
# test_hosts.sh [PART]: tests of a run on several hosts (dev/test/hosts.sh) that scripts/run.sh starts: what it
# computes, how it ends where a rank, a host or the network fails, and how it goes on. It prints how long each end took,
# and "N passed, N failed" at its end.
#
#   MARS_TEST_ALL=yes        runs all tests, not the most important alone; a PART is looked for among all
#   MARS_HEARTBEAT_SECONDS   default 2, in the test of a cable 10
#   MPIRUN_PATIENCE          default 5
# shellcheck source=dev/test/hosts.sh
source "$(dirname "$0")/../hosts.sh"
own_world "$@"
# shellcheck source=dev/test/script_fixture.sh
source "$(dirname "$0")/../script_fixture.sh"

long_heartbeat=${MARS_HEARTBEAT_SECONDS:-10}
export MARS_HEARTBEAT_SECONDS=${MARS_HEARTBEAT_SECONDS:-2} MPIRUN_PATIENCE=${MPIRUN_PATIENCE:-5}
END_SECONDS=30 SCRIPT_SECONDS=90 # what is promised: from a fault to the end of all ranks, and of run.sh
exec {terminal}>&1

# setup COUNT: new hosts, and where they see it a repository with one run, `tiny`, that does not end by itself.
setup() {
    if [ -n "$no_hosts" ]; then skip "$no_hosts"; fi
    hosts_up "$1"
    tree=$here/tree
    mkdir -p "$tree"/{scripts,config}
    cp scripts/run.sh "$tree/scripts"
    ln -s "$BIN/train_gpt2" "$tree"
    cat >"$tree/config/tiny.json" <<'END'
{
    "model": {"n_layer": 1, "n_head": 2, "n_embd": 32, "block_size": 32, "vocab_size": 256},
    "data": {"train": "train_*.bin", "val": "val_*.bin"},
    "optimizer": {"name": "mars-m", "learning_rate": 1e-2},
    "schedule": {"name": "constant"},
    "train": {
        "max_iters": 1000000, "total_batch_size": 12, "batch_size": 1, "eval_interval": 1000000, "eval_sequences": 12,
        "log_interval": 1, "checkpoint_interval": 10, "out_dir": "runs/tiny", "precision": "float32",
        "threads": 1
    }
}
END
    run 0 "$BIN/prepare_data" --tokenizer=bytes --out="$tree" README.md
}

# train SLOTS RANKS ARGUMENT...: runs it from host1. SLOTS are mpirun's, as in host1:2,host2:2.
train() {
    local launcher="mpirun --host $1 --mca plm_rsh_agent $remote_shell --mca mpi_yield_when_idle 1 --bind-to none"
    launcher+=" -x OMP_WAIT_POLICY=passive"
    # Hosts with other instructions round in another way.
    if [ -n "${ONEDNN_MAX_CPU_ISA:-}" ]; then launcher+=" -x ONEDNN_MAX_CPU_ISA"; fi
    on_host host1 env NPROC="$2" MPIRUN="$launcher" bash "$tree/scripts/run.sh" tiny "${@:3}"
}

# losses FOLDER: lines "train STEP LOSS" and "val STEP LOSS".
losses() {
    sed -nE 's/^\{"event":"(train|val)","step":([0-9]+),"loss":([^,]+),.*/\1 \2 \3/p' "$tree/$1/metrics.jsonl"
}

# assert_same_bits FOLDER FOLDER STEP: of the last ten steps' losses, and of what the checkpoint of that step holds.
assert_same_bits() {
    local file
    for file in model optimizer; do
        cmp "$tree/$1/checkpoints/step_$(printf %08d "$3")/$file.safetensors" \
            "$tree/$2/checkpoints/step_$(printf %08d "$3")/$file.safetensors"
    done
    diff <(losses "$1" | tail -n 11) <(losses "$2" | tail -n 11)
}

# ---- what several hosts compute ----

test_losses_of_one_process() {
    setup 2
    run 0 train '' 1 --max_iters=10 --out_dir=one
    run 0 train host1:2,host2:2 4 --max_iters=10 --out_dir=four
    paste -d ' ' <(losses one) <(losses four) | awk '
        { difference = ($3 - $6) / $3; if ($1 $2 != $4 $5 || difference ^ 2 > 1e-10) { print; wrong = 1 } }
        END { exit wrong || NR != 12 }'
    [ "$(grep -c "message passing: Open MPI" "$here/output")" = 1 ]
    # Where the ranks are makes no difference at all.
    run 0 train host1:4 4 --max_iters=10 --out_dir=one_host
    assert_same_bits four one_host 10
}

# ---- faults ----

now() { date +%s.%N; }
since() { awk -v begun="$1" -v ended="$(now)" 'BEGIN { printf "%.1f", ended - begun }'; }
assert_within() { awk -v s="$1" -v limit="$2" 'BEGIN { exit s > limit }' || { echo "$3: $1 s"; return 1; }; }

# process_of RANK: its process.
process_of() {
    local host process
    for host in $(hosts); do
        for process in $(processes_on "$host" train_gpt2); do
            if tr '\0' '\n' <"/proc/$process/environ" | grep -qx "OMPI_COMM_WORLD_RANK=$1"; then echo "$process"; fi
        done
    done
}

# alive HOST...: ranks, on any of these.
alive() {
    local host
    for host in "$@"; do if [ -n "$(processes_on "$host" train_gpt2)" ]; then return 0; fi; done
    return 1
}

# await_end SECONDS COMMAND...: until the command fails; fails itself where that many have passed since $begun.
await_end() {
    local limit=$1
    shift
    while "$@"; do
        assert_within "$(since "$begun")" "$limit" "waiting for an end of: $*" || { cat "$here/output"; return 1; }
        sleep 0.05
    done
}

# run_into SLOTS RANKS FAULT...: starts a run, and the fault at its first checkpoint. Returns when all ranks and run.sh
# have ended, and nothing holds the output open, which is in $here/output.
run_into() {
    local slots=$1 ranks=$2 begun script reader status=0 all_ended
    shift 2
    mkfifo "$here/pipe"
    cat "$here/pipe" >"$here/output" &
    reader=$!
    train "$slots" "$ranks" >"$here/pipe" 2>&1 </dev/null &
    script=$!
    while [ ! -e "$tree/runs/tiny/checkpoints/step_00000010" ]; do
        kill -0 $script 2>/dev/null || { cat "$here/output"; return 1; }
        sleep 0.02
    done
    begun=$(now)
    "$@"
    # shellcheck disable=SC2046 # names of hosts
    await_end $END_SECONDS alive $(hosts)
    all_ended=$(since "$begun")
    await_end $SCRIPT_SECONDS kill -0 $script 2>/dev/null
    wait $script || status=$?
    await_end $SCRIPT_SECONDS kill -0 $reader 2>/dev/null
    echo "${FUNCNAME[1]#test_}: all ranks ended after $all_ended s, run.sh after $(since "$begun") s" >&"$terminal"
    [ $status -ne 0 ]
}

# assert_goes_on SLOTS RANKS: with --init_from=auto, on hosts that are whole again, and with the bits of a run that was
# never disturbed.
assert_goes_on() {
    local last
    hosts_up "$(hosts | wc -l)"
    last=$(readlink "$tree/runs/tiny/checkpoints/latest" | sed 's/^step_0*//')
    run 0 train "$1" "$2" --max_iters=$((last + 10)) --init_from=auto
    has "$here/output" "resumed from"
    run 0 train "host1:$2" "$2" --max_iters=$((last + 10)) --out_dir=undisturbed
    assert_same_bits runs/tiny undisturbed $((last + 10))
}

# names RANK HOST: whether a rank or mpirun has said that it misses that one.
names() {
    local missed="process $1 on host $2 has given no sign of life"
    missed+="|process rank $1 with PID [0-9]+ on node $2 exited on signal"
    grep -qaE "$missed" "$here/output" || { cat "$here/output"; return 1; }
    has "$here/output" "run.sh: the same command with --init_from=auto goes on from the last checkpoint"
}

two=("host1:2,host2:2" 4)
kill_rank() { kill -KILL "$(process_of "$1")"; }
stop_rank() { kill -STOP "$(process_of "$1")"; }

# mpirun waits for the host that it cannot reach, and ssh, too. The ranks of that host tell each other: if one after the
# other had to find out, it would take too long.
test_cable_unplugged() {
    local six=("host1:2,host2:4" 6)
    MARS_HEARTBEAT_SECONDS=$long_heartbeat
    setup 2
    run_into "${six[@]}" unplug host2
    names 5 host2
    has "$here/output" "run.sh: mpirun is still there"
    assert_goes_on "${six[@]}"
}

if [ $# -eq 0 ] && [ "${MARS_TEST_ALL:-no}" != yes ]; then run_script_tests; exit; fi

test_rank_killed() {
    setup 2
    run_into "${two[@]}" kill_rank 2
    names 2 host2
    assert_goes_on "${two[@]}"
}

test_rank_stopped() {
    setup 2
    run_into "${two[@]}" stop_rank 2
    names 2 host2
    assert_goes_on "${two[@]}"
}

test_host_without_power() {
    setup 2
    run_into "${two[@]}" power_off host2
    names 3 host2
    assert_goes_on "${two[@]}"
}

# Nobody is left to tell the other host's ranks.
test_first_host_without_power() {
    setup 2
    run_into "${two[@]}" power_off host1
    assert_goes_on "${two[@]}"
}

# The rank that finds out is on neither the lost host nor the launcher's.
test_one_of_three_hosts() {
    setup 3
    run_into host1:1,host2:1,host3:1 3 power_off host2
    names 1 host2
    assert_goes_on host1:1,host2:1,host3:1 3
}

test_slow_link_only_slows() {
    setup 2
    slow_down host2
    run 0 train "${two[@]}" --max_iters=10 --out_dir=slow
    [ "$(packets_lost host2)" -gt 0 ]
    run 0 train host1:4 4 --max_iters=10 --out_dir=one_host
    assert_same_bits slow one_host 10
}

run_script_tests "$@"
