#!/usr/bin/env bash
# test_run.sh: tests of scripts/run.sh around its launcher: which signals it passes on, when it ends one that stays after
# the run, and when it does not. Launcher and trainer are stand-ins. Prints "N passed, N failed" at its end. Which commands
# the scripts of the published runs start is tested in test_published_configs.c.
# shellcheck source=dev/test/script_fixture.sh
# shellcheck disable=SC2016 # the variables are the launcher's
source "$(dirname "$0")/../script_fixture.sh"

# A repository with one run, quickstart, whose tokens are there. The launcher is made of standard input: it finds the trainer
# as ./train_gpt2, which sleeps for as many seconds as its last argument says.
tree() {
    mkdir -p "$here"/tree/{scripts,config,data/quickstart} "$here/bin"
    cp scripts/run.sh "$here/tree/scripts"
    cp config/quickstart.json "$here/tree/config"
    touch "$here"/tree/data/quickstart/{train,val}_000000.bin
    # The name of a process is that of the file that it executes.
    cp "$(command -v sleep)" "$here/bin/train_gpt2"
    command_file "$here/tree/train_gpt2" <<END
case " \$* " in *" --print_config "*) exec '$BIN/train_gpt2' "\$@" ;; esac
echo rank "\$@"
exec '$here/bin/train_gpt2' "\${@: -1}"
END
    command_file "$here/bin/launcher"
    export MPIRUN=$here/bin/launcher MPIRUN_PATIENCE=1 NPROC=2
}

# launch STATUS ARGUMENT...: runs it to its end.
launch() { run "$1" bash "$here/tree/scripts/run.sh" quickstart "${@:2}"; }

# start: runs it in the background, as $script, with its output in $here/output, and returns when the launcher has made
# $here/up.
start() {
    bash "$here/tree/scripts/run.sh" quickstart >"$here/output" 2>&1 &
    script=$!
    await "$here/up"
}
await() {
    local i
    for ((i = 0; i < 6000; i++)); do
        if [ -e "$1" ]; then return 0; fi
        sleep 0.02
    done
    echo "there is still no $1"
    return 1
}

# await_end PROCESS
await_end() {
    local i
    for ((i = 0; i < 6000; i++)); do
        if ! grep -qs ') [^Z] ' "/proc/$1/stat"; then return 0; fi
        sleep 0.02
    done
    echo "process $1 has still not ended: $(tr '\0' ' ' <"/proc/$1/cmdline")"
    return 1
}

# A launcher that writes down the signals it gets and then ends with 3.
listen() {
    cat <<END
for signal in HUP INT TERM USR1; do trap "echo \$signal >>'$here/signals'; touch '$here/got_'\$signal" \$signal; done
touch '$here/up'
until [ -e '$here/enough' ]; do sleep 0.05; done
exit 3
END
}

# ---- a launcher that stays ----

test_a_launcher_that_stays_is_ended() {
    tree <<<'"${@:3}" 0.5 & "${@:3}" 2 & trap "" TERM; wait; exec sleep 1000'
    launch 1
    has "$here/output" "rank config/quickstart.json 0.5"
    has "$here/output" "run.sh: launcher is still there, 1 s after the run's end: ending it. Why the run ended: was a machine lost?"
    [ "$(grep -c "^run.sh" "$here/output")" = 2 ]
}

# Its processes have ended, but it has not asked for their status.
test_processes_that_nobody_waits_for() {
    tree <<<'"${@:3}" 2 & exec sleep 1000'
    launch 1
    has "$here/output" "launcher is still there"
}

# The processes are on other machines, as are their ends; what they say comes through the launcher.
test_a_launcher_without_processes_here() {
    tree <<<'echo "[1,3]<stderr>:train_gpt2 [process 3]: error: process 2 on host b has given no sign of life" >&2; exec sleep 1000'
    launch 1
    has "$here/output" "has given no sign of life"
    has "$here/output" "launcher is still there"
}

# Whatever it leaves after in its process group ends with it.
test_nothing_is_left_of_a_launcher() {
    tree <<<'sleep 1000 & echo $! >agent; "${@:3}" 2; trap "" TERM; wait'
    launch 1
    agent=$(cat "$here/tree/agent")
    for ((i = 0; i < 500; i++)); do
        [ -e "/proc/$agent/stat" ] && ! grep -q ') Z ' "/proc/$agent/stat" || return 0
        sleep 0.01
    done
    return 1
}

# mpirun's ssh has a process group of its own, and the output open.
test_nothing_is_left_of_a_launchers_ssh() {
    tree <<<'setsid sleep 1000 & echo $! >ssh; "${@:3}" 2; exec sleep 1000'
    mkfifo "$here/pipe"
    cat "$here/pipe" >"$here/read" &
    reader=$!
    status=0
    bash "$here/tree/scripts/run.sh" quickstart >"$here/pipe" 2>&1 </dev/null || status=$?
    [ $status = 1 ]
    await_end "$(cat "$here/tree/ssh")"
    await_end $reader
}

test_why_the_run_has_ended() {
    local error="train_gpt2 [process 0]: error: process 3 on host b has given no sign of life for 15 s"
    tree <<<"echo '$error' >&2; echo '${error/3/4}' >&2; exec sleep 1000"
    launch 1
    has "$here/output" "1 s after the run's end: ending it. Why the run ended: process 3 on host b has given no sign of life"
    has "$here/output" "run.sh: the same command with --init_from=auto goes on from the last checkpoint"
    # Where mpirun ends by itself, too; but not after a mistake in the command line.
    command_file "$here/bin/launcher" <<<"echo '$error' >&2; exit 1"
    launch 1
    has "$here/output" "--init_from=auto goes on"
    command_file "$here/bin/launcher" <<<"echo 'train_gpt2: error: there is no such key' >&2; exit 2"
    launch 2
    lacks "$here/output" "--init_from=auto"
}

# A launcher that ends in the moment in which a signal interrupts `wait`, whose status bash then loses: a script that gets
# little of a busy processor meets both at once.
test_a_signal_as_the_launcher_ends() {
    local cpu busy
    cpu=$(taskset -cp $$ | sed 's/.*[ ,-]//')
    tree <<<"echo \$\$ >'$here/launcher'; trap '' USR1; touch '$here/up'; exec sleep 1000"
    command_file "$here/busy" <<<"touch '$here/busy_up'; while :; do :; done"
    for _ in 1 2 3 4; do
        rm -f "$here/up" "$here/busy_up"
        start
        taskset -c "$cpu" "$here/busy" &
        busy=$!
        await "$here/busy_up"
        taskset -cp "$cpu" $script
        chrt --idle --pid 0 $script
        kill -USR1 $script
        kill -KILL "$(cat "$here/launcher")"
        sleep 0.1 # for a script that waits as it should not
        kill -KILL $busy
        chrt --other --pid 0 $script 2>/dev/null || true # unless it has ended by now
        await_end $script
        status=0
        wait $script || status=$?
        [ $status = 137 ] || { [ $status = 1 ] && has "$here/output" "run.sh: the status of launcher is lost"; }
    done
}

# ---- a launcher that must be left alone ----

test_a_slow_start() {
    tree <<<'sleep 3; "${@:3}" 0.1; exit 7'
    launch 7
    lacks "$here/output" "run.sh:"
}

# A long checkpoint: nothing is said for a while.
test_a_silent_run() {
    tree <<<'"${@:3}" 4; exit 7'
    launch 7
    lacks "$here/output" "run.sh:"
}

# A launcher that starts again what has ended is not one that stays.
test_processes_that_come_again() {
    tree <<<'for i in 1 2 3; do "${@:3}" 1; sleep 0.3; done; exit 7'
    MPIRUN_PATIENCE=2
    launch 7
    lacks "$here/output" "run.sh:"
}

# Processes elsewhere, of which nothing is known; another user's process of that name is none of this run.
test_processes_elsewhere() {
    tree <<<'sleep 4; exit 7'
    "$here/bin/train_gpt2" 1 &
    launch 7
    lacks "$here/output" "run.sh:"
}

test_the_status_is_the_launchers() {
    local status
    tree <<<'echo out; echo err >&2; read -r line || echo no input; all="$*"; exit "${all##*=}"'
    for status in 0 1 2 137; do launch "$status" "--threads=$status"; done
    has "$here/output" out
    has "$here/output" err
    has "$here/output" "no input"
    command_file "$here/bin/launcher" <<<'kill -SEGV $$'
    launch 139
    has "$here/output" "run.sh: launcher or a process of the run was ended by signal 11"
    MPIRUN_PATIENCE=soon
    launch 2
    has "$here/output" "MPIRUN_PATIENCE=soon is no number of seconds, from 1"
}

# ---- signals ----

# Whoever asks once lets the run save.
test_each_signal_lets_the_run_save() {
    local signal
    tree < <(listen)
    for signal in HUP TERM USR1; do
        rm -f "$here"/{up,enough,signals} "$here"/got_*
        start
        kill -"$signal" "$script"
        await "$here/got_USR1"
        touch "$here/enough"
        status=0
        wait "$script" || status=$?
        [ "$status" = 3 ]
        [ "$(cat "$here/signals")" = USR1 ]
        has "$here/output" "run.sh: the run stops after its step and saves"
    done
}

test_a_second_request_is_impatient() {
    tree < <(listen)
    start
    kill -TERM "$script"
    await "$here/got_USR1"
    kill -HUP "$script"
    kill -TERM "$script"
    await "$here/got_TERM"
    touch "$here/enough"
    wait "$script" || [ $? = 3 ]
    lacks "$here/signals" HUP
}

# What a terminal sends to all processes of the foreground reaches the script alone.
test_a_signal_to_the_whole_group() {
    tree < <(listen)
    set -m
    start
    set +m
    kill -HUP -- "-$script"
    await "$here/got_USR1"
    touch "$here/enough"
    wait "$script" || [ $? = 3 ]
    [ "$(cat "$here/signals")" = USR1 ]
    has "$here/output" "run.sh: the run stops after its step and saves"
}

# ---- output ----

# A launcher that would end by SIGPIPE, or by what it cannot write.
test_output_that_nobody_reads() {
    tree <<END
trap - PIPE
for ((i = 0; i < 300; i++)); do echo "line \$i" || exit 9; echo "error \$i" >&2 || exit 9; done
touch '$here/through'
exit 3
END
    mkfifo "$here/pipe"
    status=0
    # The reader has ended before the first line.
    # shellcheck disable=SC2094
    bash "$here/tree/scripts/run.sh" quickstart 4<>"$here/pipe" >"$here/pipe" 2>&1 4<&- </dev/null || status=$?
    [ "$status" = 3 ]
    [ -e "$here/through" ]
}

test_all_output_comes_before_the_end() {
    tree <<<'for ((i = 0; i < 2000; i++)); do echo "line $i"; echo "error $i" >&2; done'
    launch 0
    [ "$(grep -c '^line' "$here/output")" = 2000 ]
    [ "$(grep -c '^error' "$here/output")" = 2000 ]
}

# ---- the command line ----

test_names_of_runs() {
    local name
    tree <<<'echo "$@"'
    for name in quickstart quickstart.json config/quickstart.json; do
        run 0 bash "$here/tree/scripts/run.sh" "$name" --train.seed=1
        has "$here/output" "-np 2 ./train_gpt2 config/quickstart.json --train.seed=1"
    done
    run 2 bash "$here/tree/scripts/run.sh" --seed=1 quickstart
    has "$here/output" "the name of a run comes before --seed=1; run.sh --list shows the names"
}

# ---- tokens that are missing ----

test_where_tokens_come_from() {
    local case
    tree <<<'exit 0'
    for case in "data/openwebtext/train.bin:bash data/openwebtext/prepare.sh" \
        "data/fineweb/edu100B/edu_fineweb_train_*.bin:bash data/fineweb/download.sh --edu100" \
        "data/fineweb/edu10B/finewebedu_train_*.bin:bash data/fineweb/download.sh --edu" \
        "data/fineweb/10B/fineweb_train_*.bin:bash data/fineweb/download.sh" \
        "data/tinyshakespeare/train_*.bin:bash data/tinyshakespeare/prepare.sh" \
        "data/tinystories/train_*.bin:bash data/tinystories/prepare.sh" \
        "data/quickstart/no_*.bin:bash scripts/quickstart.sh" \
        "mine/*.bin:prepare_data makes such files"; do
        launch 1 --train="${case%%:*}"
        has "$here/output" "there is no ${case%%:*}, which the run reads as data.train; ${case#*:}"
        [[ ${case#*:} != bash* ]] || [ -e "$(awk '{ print $2 }' <<<"${case#*:}")" ]
    done
    mkdir "$here/my tokens"
    touch "$here/my tokens/a b.bin"
    export HOME=$here
    launch 0 --data.train="~/my tokens/a*.bin" --val="$here/my tokens/a b.bin"
    launch 1 --data.train="~/my tokens/b*.bin"
    has "$here/output" "there is no $here/my tokens/b*.bin"
}

run_script_tests "$@"
