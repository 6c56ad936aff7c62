#!/usr/bin/env bash
# run.sh CONFIG_NAME [--key=value ...]: starts a run of config/, as in: run.sh small_mars --init_from=auto
# run.sh --list: lists the runs, each with a description
#
#   NPROC=8               processes, one for each GPU; 1 runs without mpirun
#   MPIRUN=mpirun         the launcher and its options, as in: MPIRUN="mpirun --hostfile hosts" NPROC=16 run.sh xl_mars
#   MPIRUN_PATIENCE=30    seconds that the launcher may stay after the run's processes have ended
#
# It builds train_gpt2 if that is missing, looks for the tokens, and starts mpirun. Everything after the name goes to
# train_gpt2: `./train_gpt2 --help` lists the keys, and with --print_config it prints the config and trains nothing.
# Paths are relative to the repository's root. The published runs have 8 processes: with another number, --batch_size
# must divide each process's sequences.
#
# Ctrl-C, SIGTERM, SIGHUP or SIGUSR1 to this script stop the run after its step, and it saves; --init_from=auto goes on
# from there. A second Ctrl-C or SIGTERM does not wait for that. If nobody reads the output any more, the run goes on.
# If the network to another machine is lost, every process ends by itself, but Open MPI's mpirun waits for that machine:
# the script ends mpirun after MPIRUN_PATIENCE, with status 1.
set -euo pipefail

fail() {
    echo "run.sh: $1" >&2
    exit "${2:-1}"
}

for argument in "$@"; do
    case $argument in
        -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
    esac
done
cd "$(dirname "$0")/.."

# Prints a line for each run: its name, and the comment in the first line of its config.
list() {
    local file
    for file in config/*.json; do
        printf '%-26s %s\n' "$(basename "$file" .json)" "$(sed -n '1s,^// *,,p' "$file")"
    done
}

if [ $# -eq 0 ]; then
    list >&2
    fail "give the name of a run, one of these" 2
fi
case $1 in
    --list) list; exit 0 ;;
    -*) fail "the name of a run comes before $1; run.sh --list shows the names" 2 ;;
esac
name=${1#config/}
name=${name%.json}
config=config/$name.json
shift
[ -f "$config" ] || fail "there is no $config; run.sh --list shows the runs" 2
processes=${NPROC:-8}
[[ $processes =~ ^[1-9][0-9]*$ ]] || fail "NPROC=$processes is no number of processes" 2

[ -x train_gpt2 ] || make -j"$(nproc)" >&2
case " $* " in *" --print_config "*) exec ./train_gpt2 "$config" "$@" ;; esac

# ---- the data ----

resolved=$(./train_gpt2 "$config" "$@" --print_config 2>&1) || { # the run repeats the warnings
    status=$?
    echo "$resolved" >&2
    exit $status
}

# data_key KEY: data.KEY of the run, with its \" and \\ unescaped.
data_key() { sed -n "s/^ *\"$1\": \"\(.*\)\",*$/\1/p" <<<"$resolved" | sed 's/\\\(["\\]\)/\1/g'; }

# Where these files come from, for a message.
how_to_prepare() {
    local command=
    case $1 in
        data/openwebtext/*) command="data/openwebtext/prepare.sh" ;;
        data/fineweb/edu100B/*) command="data/fineweb/download.sh --edu100" ;;
        data/fineweb/edu10B/*) command="data/fineweb/download.sh --edu" ;;
        data/fineweb/10B/*) command="data/fineweb/download.sh" ;;
        data/tinyshakespeare/* | data/tinystories/*) command="$(dirname "$1")/prepare.sh" ;;
        data/quickstart/*) command="scripts/quickstart.sh" ;;
    esac
    if [ -n "$command" ]; then echo "bash $command makes it"; else
        echo "prepare_data makes such files (./prepare_data --help)"
    fi
}

for key in train val; do
    files=$(data_key $key)
    case $files in \~ | \~/*) files=$HOME${files#\~} ;; esac
    compgen -G "$files" >/dev/null ||
        fail "there is no $files, which the run reads as data.$key; $(how_to_prepare "$files")"
done

# ---- the run ----

if [ "$processes" -eq 1 ]; then exec ./train_gpt2 "$config" "$@"; fi
read -ra launcher <<<"${MPIRUN:-mpirun}"
patience=${MPIRUN_PATIENCE:-30}
[[ $patience =~ ^[1-9][0-9]{0,8}$ ]] || fail "MPIRUN_PATIENCE=$patience is no number of seconds, from 1" 2
command -v "${launcher[0]}" >/dev/null ||
    fail "$processes processes need ${launcher[0]}, which is missing: run bash scripts/install_deps.sh, or set NPROC=1"

# descendants_of PID [NAME]: the processes on this machine that descend from PID, all or those of this name.
descendants_of() {
    { cat /proc/[0-9]*/stat 2>/dev/null || true; } | awk -v root="$1" -v wanted="${2:-}" '
        {
            name = rest = $0 # "PID (NAME) STATE PARENT ...", where NAME may hold anything
            sub(/^[^(]*\(/, "", name)
            sub(/\)[^)]*$/, "", name)
            sub(/.*\) /, "", rest)
            split(rest, field, " ")
            parent[$1] = field[2]
            if ((wanted == "" || name == wanted) && field[1] != "Z" && $1 != root) ours[$1] = 1
        }
        END {
            for (process in ours) {
                depth = 0
                for (p = process; p > 1 && p != root && depth < 1000; p = parent[p]) depth++
                if (p == root) print process
            }
        }'
}

# watch PID: returns if the launcher is still there $patience seconds after the run's processes have ended. They have
# ended if they were seen here and are gone, or if one of them, on any machine, has said why it ends the run. Until then
# it waits, since machines may start slowly. It counts checks, not seconds, so that a slow machine gets more time.
watch() {
    local seen=no alone=0 pause=$(((patience + 5) / 6))
    while [ $((alone * pause)) -lt "$patience" ]; do
        sleep "$pause"
        if [ -n "$(descendants_of "$1" train_gpt2)" ]; then
            seen=yes alone=0
        elif [ $seen = yes ] || [ -e "$marks/failed" ]; then
            alone=$((alone + 1))
        fi
    done
}

# Prints a message; does not fail if nobody reads it any more.
say() { echo "run.sh: $1" >&2 || true; }

# Kills the launcher. The run has ended, so a gentler signal could save nothing, and an mpirun that waits for a lost
# machine ignores SIGTERM. Its ssh, in a process group of its own, waits for that machine, too, and keeps the output
# open. The file $marks/ended tells the script that its status is 1: see below.
end_launcher() {
    local why rest
    why=$(cat "$marks/failed" 2>/dev/null) || why="was a machine lost?"
    say "${launcher[0]##*/} is still there, $patience s after the run's end: ending it. Why the run ended: $why"
    : >"$marks/ended"
    mapfile -t rest < <(descendants_of "$1")
    kill -KILL -- "-$1" "${rest[@]}" 2>/dev/null || true
}

# stop SIGNAL: the first request lets the run save; a second Ctrl-C or SIGTERM ends it without a save.
# shellcheck disable=SC2317 # traps call it
stop() {
    interrupted=yes stops=$((stops + 1))
    if [ "$stops" -gt 1 ] && [[ $1 == INT || $1 == TERM ]]; then
        kill -TERM "$mpirun" 2>/dev/null || true
    elif [ -n "$mpirun" ]; then
        say "the run stops after its step and saves; a second Ctrl-C or SIGTERM ends it at once"
        kill -USR1 "$mpirun" 2>/dev/null || true
    fi
}

mpirun='' status=0 interrupted=yes stops=0
trap 'stop INT' INT
trap 'stop TERM' TERM
trap 'stop HUP' HUP
trap 'stop USR1' USR1

# Output that nobody reads any more must not end mpirun: tee goes on with its other output. Signals from a terminal to
# the whole process group must reach neither: tee ignores them, and mpirun has a group of its own.
marks=$(mktemp -d)
trap 'rm -rf "$marks"' EXIT
exec 3> >(trap '' HUP INT PIPE TERM USR1; exec tee /dev/null)
tees=($!)
exec 4> >(
    trap '' HUP INT PIPE TERM USR1
    exec 3>&-
    exec tee >(
        exec 2>/dev/null # the script may have ended
        if why=$(grep -am 1 'train_gpt2.*: error: '); then echo "${why#*: error: }" >"$marks/failed"; fi
        cat >/dev/null
        : >"$marks/read"
    ) >&2
)
tees+=($!)
set -m
"${launcher[@]}" -np "$processes" ./train_gpt2 "$config" "$@" </dev/null >&3 2>&4 3>&- 4>&- &
mpirun=$!
exec 3>&- 4>&-
trap '' PIPE
{ watch "$mpirun" && end_launcher "$mpirun"; } &
watcher=$!
set +m
if [ $stops -gt 0 ]; then kill -TERM "$mpirun"; fi
# If a process ends in the moment in which a signal interrupts `wait`, bash may lose its status and wait for ever.
is_lost() { ! kill -0 "$mpirun" 2>/dev/null && jobs -rp | grep -qx "$mpirun"; }
while [ $interrupted = yes ]; do
    interrupted=no status=1
    if is_lost; then
        say "the status of ${launcher[0]##*/} is lost, and taken for 1"
        break
    fi
    status=0
    wait "$mpirun" 2>/dev/null || status=$?
done
if [ -e "$marks/ended" ]; then
    wait "$watcher" || true # it has killed the launcher, and is about to kill what the launcher started
else
    kill -- "-$watcher" 2>/dev/null || true
fi
for ((i = 0; i < 20; i++)); do # waits up to 2 s for the rest of the output
    if [ -e "$marks/read" ] && ! kill -0 "${tees[@]}" 2>/dev/null; then break; fi
    sleep 0.1
done
if [ -e "$marks/ended" ]; then
    kill -KILL "${tees[@]}" 2>/dev/null || true
    status=1
elif [ "$status" -gt 128 ]; then
    say "${launcher[0]##*/} or a process of the run was ended by signal $((status - 128))"
fi
if [ "$status" -gt 128 ] || [ -e "$marks/ended" ] || grep -qs 'no sign of life' "$marks/failed"; then
    say "the same command with --init_from=auto goes on from the last checkpoint"
fi
exit "$status"
