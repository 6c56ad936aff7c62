#!/usr/bin/env bash
# run.sh CONFIG_NAME [--key=value ...]: one of the runs in config/, as in: run.sh small_mars --init_from=auto
#
#   NPROC=8         processes, one for each GPU; 1 runs without mpirun
#   MPIRUN=mpirun   the launcher and its options, as in: MPIRUN="mpirun --hostfile hosts" NPROC=16 run.sh xl_mars
#
# It builds train_gpt2 where that is missing, looks for the tokens, and hands over to mpirun. Everything behind the name
# goes to train_gpt2 (`./train_gpt2 --help` lists the keys); paths are seen from the repository's root. The published
# runs are 8 processes: with another number, --batch_size has to divide what falls to each.
#
# To stop a run so that it saves first, send USR1 to mpirun; --init_from=auto goes on from there.
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

names=$(basename -a -s .json config/*.json | tr '\n' ' ')
[ $# -gt 0 ] || fail "give the name of a run, one of: $names" 2
name=$1
config=config/$name.json
shift
[ -f "$config" ] || fail "there is no $config; give one of: $names" 2
processes=${NPROC:-8}
[[ $processes =~ ^[1-9][0-9]*$ ]] || fail "NPROC=$processes is no number of processes" 2

# ---- the data ----

# data_key KEY ARGUMENT...: data.KEY of the run: the last of the arguments that gives it, or else the config.
data_key() {
    local key=$1 argument value
    value=$(sed -n "s/^ *\"$key\": *\"\([^\"]*\)\".*/\1/p" "$config")
    shift
    for argument in "$@"; do
        case $argument in
            --"$key"=* | --data."$key"=*) value=${argument#*=} ;;
        esac
    done
    echo "$value"
}

# Where these files come from, for a message.
how_to_prepare() {
    case $1 in
        data/openwebtext/*) echo "nanoGPT's data/openwebtext/prepare.py makes such files: put them there" ;;
        data/fineweb/edu100B/*)
            echo "put the shards of karpathy/fineweb-edu-100B-gpt2-token-shards (Hugging Face) there"
            ;;
        data/quickstart/*) echo "bash scripts/quickstart.sh makes it" ;;
        *) echo "prepare_data makes such files (./prepare_data --help)" ;;
    esac
}

for key in train val; do
    files=$(data_key $key "$@")
    compgen -G "$files" >/dev/null ||
        fail "there is no $files, which the run reads as data.$key; $(how_to_prepare "$files")"
done

# ---- the run ----

[ -x train_gpt2 ] || make -j"$(nproc)"
if [ "$processes" -eq 1 ]; then exec ./train_gpt2 "$config" "$@"; fi
read -ra launcher <<<"${MPIRUN:-mpirun}"
command -v "${launcher[0]}" >/dev/null ||
    fail "$processes processes need ${launcher[0]}, which is missing: run bash scripts/install_deps.sh, or set NPROC=1"
exec "${launcher[@]}" -np "$processes" ./train_gpt2 "$config" "$@"
