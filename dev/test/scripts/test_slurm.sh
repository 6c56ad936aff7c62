#!/usr/bin/env bash
# test_slurm.sh: tests of scripts/slurm.sbatch: when it requeues its job. Slurm and the trainer are stand-ins. Prints
# "N passed, N failed" at its end.
# shellcheck source=dev/test/script_fixture.sh
# shellcheck disable=SC2016 # the variables are the stand-ins'
source "$(dirname "$0")/../script_fixture.sh"

# A repository with one run, quickstart. The trainer answers --print_config; else it is made of standard input, after a
# function `reports REASON`, which writes the last line of its metrics.
tree() {
    mkdir -p "$here"/tree/{scripts,config,runs/quickstart} "$here/bin"
    cp scripts/{slurm.sbatch,command_line.py,metrics.py} "$here/tree/scripts"
    cp config/quickstart.json "$here/tree/config"
    {
        echo 'case "$*" in *wrong*) exit 2 ;; *--print_config) echo "    \"out_dir\": \"runs/quickstart\","; exit 0 ;; esac'
        echo 'echo "$@" >arguments'
        echo 'reports() { echo "{\"event\":\"end\",\"step\":5,\"reason\":\"$1\"}" >runs/quickstart/metrics.jsonl; }'
        cat
    } | command_file "$here/tree/train_gpt2"
    command_file "$here/bin/srun" <<<'[ "$1" = --mpi=pmix ] || exit 9; shift; exec "$@"'
    command_file "$here/bin/scontrol" <<<"echo \"\$@\" >>'$here/requeued'"
    export PATH=$here/bin:$PATH SLURM_JOB_ID=77
}

# job STATUS ARGUMENT...: the job to its end. Where the trainer makes the file `up`, Slurm then sends it a signal: $signal.
job() {
    local status=0 i
    (cd "$here/tree" && exec bash scripts/slurm.sbatch "${@:2}") >"$here/output" 2>&1 </dev/null &
    local script=$!
    if [ -n "${signal:-}" ]; then
        for ((i = 0; i < 1000; i++)); do if [ -e "$here/tree/up" ]; then break; else sleep 0.02; fi; done
        kill -"$signal" $script
    fi
    wait $script || status=$?
    [ "$status" -eq "$1" ] || { echo "exit status $status, expected $1"; cat "$here/output"; return 1; }
}

# A trainer that goes on until SIGUSR1, and some time after it.
patient='trap "sleep 0.3; reports stopped; exit 0" USR1; touch up; for ((i = 0; i < 500; i++)); do sleep 0.02; done; exit 7'

test_time_limit() {
    tree <<<"$patient"
    signal=USR1 job 0 quickstart --max_iters=9
    [ "$(cat "$here/requeued")" = "requeue 77" ]
    [ "$(cat "$here/tree/arguments")" = "config/quickstart.json --max_iters=9" ]
}

test_another_launcher() {
    tree <<<'reports done'
    command_file "$here/bin/mpirun" <<<'[ "$1 $2" = "--bind-to none" ] || exit 9; shift 2; echo mpirun; exec "$@"'
    LAUNCHER="mpirun --bind-to none" job 0 quickstart
    has "$here/output" mpirun
    [ "$(cat "$here/tree/arguments")" = "config/quickstart.json" ]
}

test_done() {
    tree <<<'reports done'
    job 0 quickstart.json --train.out_dir=runs/quickstart --init_from=resume
    [ ! -e "$here/requeued" ]
    has "$here/output" "the run is done"
    [ "$(cat "$here/tree/arguments")" = "config/quickstart.json --train.out_dir=runs/quickstart --init_from=resume" ]
}

# It has ended before the signal could stop it.
test_done_at_the_time_limit() {
    tree <<<'trap "reports done; exit 0" USR1; touch up; for ((i = 0; i < 500; i++)); do sleep 0.02; done'
    signal=USR1 job 0 quickstart
    [ ! -e "$here/requeued" ]
}

test_failure() {
    tree <<<'exit 3'
    job 1 quickstart
    [ ! -e "$here/requeued" ]
    has "$here/output" "the run ended with status 3 and is not requeued"
}

test_failure_after_the_signal() {
    tree <<<'trap "reports failed; exit 1" USR1; touch up; for ((i = 0; i < 500; i++)); do sleep 0.02; done'
    signal=USR1 job 1 quickstart
    [ ! -e "$here/requeued" ]
}

# Slurm ends the run's processes as well, and requeues the job itself where it should be.
test_ended_by_slurm() {
    tree <<<'touch up; sleep 0.5; reports stopped'
    signal=TERM job 0 quickstart
    [ ! -e "$here/requeued" ]
    has "$here/output" "the run is stopped"
}

# A job with checkpoints resumes; before it was requeued, only where its command line does not say how to start.
test_how_a_job_starts() {
    tree <<<'reports done'
    job 0 quickstart --init_from=weights
    [ "$(cat "$here/tree/arguments")" = "config/quickstart.json --init_from=weights" ]
    mkdir -p "$here/tree/runs/quickstart/checkpoints/step_00000007"
    job 0 quickstart --init_from=weights
    [ "$(cat "$here/tree/arguments")" = "config/quickstart.json --init_from=weights" ]
    SLURM_RESTART_COUNT=1 job 0 quickstart --train.init_from=weights --seed=7
    [ "$(cat "$here/tree/arguments")" = "config/quickstart.json --init_from=resume --seed=7" ]
    job 0 quickstart --seed=7
    [ "$(cat "$here/tree/arguments")" = "config/quickstart.json --init_from=resume --seed=7" ]
}

# The trainer finds the home folder in a path, and the script must find its metrics there.
test_folder_in_the_home_folder() {
    tree <<<'reports done'
    sed -i 's,runs/quickstart\\",~/quickstart\\",' "$here/tree/train_gpt2"
    HOME=$here/tree/runs job 0 quickstart
    has "$here/output" "the run is done"
}

test_refused() {
    tree <<<'exit 0'
    job 2
    has "$here/output" "give the name of a run in config/"
    job 2 quickest
    has "$here/output" "there is no config/quickest.json"
    job 2 quickstart --wrong=1
    has "$here/output" "the run would not start"
    rm "$here/tree/train_gpt2"
    job 1 quickstart
    has "$here/output" "there is no train_gpt2"
}

run_script_tests "$@"
