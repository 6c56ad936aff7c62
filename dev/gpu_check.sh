#!/usr/bin/env bash
# gpu_check.sh [tests|sanitize|bench|torch|nccl|all]: checks and measures the CUDA backend on the NVIDIA GPU of this machine.
# gpu_check.sh deps FOLDER [PACKAGE...]: fetches the libraries that a machine without network lacks (see DEPS).
#
#   tests      the tests of kernels, optimizers and whole runs, on the GPU
#   sanitize   compute-sanitizer on the kernels' tests, at small sizes: memcheck, which also looks at a step of a tiny
#              model whose buffers have allocations of their own, and racecheck
#   bench      every kernel, every optimizer, and a step of every size of GPT-2
#   torch      the same models in PyTorch, next to ours, in the same run
#   nccl       2, 4 and 8 ranks that share the GPU, with NCCL between them: losses, resuming, ranks that are lost
#   all        the parts but nccl one after the other, in under eight minutes (the default); a part alone takes about five
#              at most
#
# It builds for this GPU alone, in build/gpu, and needs no network. The figures go to dev/results/GPU.json, where each
# part replaces those of its last run, and a table for people goes to the terminal. Every command has a time limit; where
# one fails or does not end in time that is reported, the others run all the same, and the exit status is 1. What cannot
# be tried here (no compute-sanitizer, no PyTorch) is skipped, and said so. Exit status 2: no GPU, or a wrong argument.
#
# Environment:
#   DEPS=FOLDER    libraries that are not installed, unpacked by `gpu_check.sh deps FOLDER` on a machine with a network
#   CPPFLAGS, LDFLAGS, and anything else that make reads
#   MODELS         sizes of GPT-2 (default "small medium large xl"); kernels and optimizers are measured at the first
#   NCCL_MODEL     arguments of train_gpt2 that change the model of part nccl, such as "--n_layer=1"
#   RESULTS        folder of GPU.json (default dev/results)
#   PATIENCE       whole factor on every time limit, for a slow machine (default 1)
#   BUILD          where to build (default build/gpu)
#   PYTHON         the Python 3 that merges the figures, and has PyTorch where there is one (default python3)
#   COMMIT         what to write as commit, where this is no git repository
set -euo pipefail
cd "$(dirname "$0")/.."

BUILD=${BUILD:-build/gpu}
RESULTS=${RESULTS:-dev/results}
PYTHON=${PYTHON:-python3}
read -ra models <<<"${MODELS:-small medium large xl}"
work=$BUILD/gpu_check
cores=$(nproc)
patience=${PATIENCE:-1}

# Seconds that parts may take: in `all`, whose sum is below eight minutes, and alone. What one leaves the next may use.
declare -A limits=([build]=90 [tests]=80 [sanitize]=90 [bench]=110 [torch]=95)
declare -A alone_limits=([build]=120 [tests]=130 [sanitize]=150 [bench]=130 [torch]=300 [nccl]=180)
# PyTorch compiles a model for so long that another one is not begun with less than this left.
torch_seconds=45

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; }
complain() { echo "gpu_check.sh: $1" >&2; exit 2; }
[[ $patience =~ ^[1-9][0-9]?$ ]] || complain "PATIENCE=$patience: a whole number from 1 to 99 is expected"

# ---- deps: packages of Debian or Ubuntu, unpacked in a folder ----

# Open MPI and what it cannot start without: not the libraries of networks, which one machine does not need. The names
# of the packages differ from release to release.
open_mpi_packages() {
    apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances \
        openmpi-bin libopenmpi-dev | sort -u | grep -E \
        '^(openmpi-bin|openmpi-common|libopenmpi-dev|libopenmpi[0-9].*|libhwloc15.*|libevent-(core|pthreads)-2.*|lib(pmix|munge|prrte)[0-9].*|prrte)$'
}

fetch_deps() {
    local folder=$1 downloads package packages=(libcjson1 libcjson-dev libcmocka0 libcmocka-dev libxxhash-dev) more
    shift
    if ! command -v apt-get || ! command -v dpkg; then complain "deps: this machine has no apt-get"; fi >/dev/null
    mapfile -t more < <(open_mpi_packages)
    mkdir -p "$folder"
    downloads=$(mktemp -d)
    (cd "$downloads" && apt-get -q download "${packages[@]}" "${more[@]}" "$@") ||
        complain "deps: apt-get download failed"
    for package in "$downloads"/*.deb; do dpkg -x "$package" "$folder"; done
    rm -rf "$downloads"
    # Installed, the packages have these names by Debian's alternatives.
    for package in mpicc mpicxx mpirun; do
        if [ -e "$folder/usr/bin/$package.openmpi" ]; then ln -sf $package.openmpi "$folder/usr/bin/$package"; fi
    done
    echo "unpacked in $folder; on the other machine: DEPS=$folder bash dev/gpu_check.sh"
}

# Open MPI finds its own parts by OPAL_PREFIX. Its parts for networks lack their libraries. It reaches no other machine, so
# it needs no ssh.
use_open_mpi() {
    local root=$1 libraries=$2
    [ -x "$root/bin/mpirun" ] || return 0
    export OPAL_PREFIX=$root PATH=$root/bin:$PATH LD_LIBRARY_PATH=$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
    export OMPI_MCA_mca_base_component_show_load_errors=0 OMPI_MCA_plm=isolated
    export PMIX_MCA_pcompress_base_silence_warning=1
}

# Sets what finds them; the libraries' folder is named after the machine.
use_deps() {
    [ -n "${DEPS:-}" ] || return 0
    [ -d "$DEPS/usr/include" ] || complain "DEPS=$DEPS: no $DEPS/usr/include there; gpu_check.sh deps $DEPS makes it"
    local root libraries
    root=$(realpath "$DEPS")/usr
    libraries=$root/lib/$("${CC:-gcc}" -print-multiarch)
    CPPFLAGS="-I$root/include ${CPPFLAGS:-}"
    LDFLAGS="-L$libraries -Wl,-rpath,$libraries ${LDFLAGS:-}"
    use_open_mpi "$root" "$libraries"
}

# ---- NCCL: installed, or PyTorch's ----

# "2.28.9", of the header that the compiler finds; nothing where it finds none.
find_nccl_version() {
    local flags
    read -ra flags <<<"${CPPFLAGS:-}"
    printf '#include <nccl.h>\nversion NCCL_MAJOR NCCL_MINOR NCCL_PATCH\n' |
        "${CC:-gcc}" -E -P -x c "${flags[@]}" -isystem "$(dirname "$nvcc")/../include" - 2>/dev/null |
        sed -n 's/^version \([0-9]*\) \([0-9]*\) \([0-9]*\)$/\1.\2.\3/p' || true
}

# Where the compiler finds no NCCL, PyTorch's, whose folder lacks the name that the linker looks for.
use_nccl() {
    local library folder
    nccl_version=$(find_nccl_version)
    [ -z "$nccl_version" ] || return 0
    library=$("$PYTHON" -c 'import glob, nvidia
print([f for folder in nvidia.__path__ for f in glob.glob(folder + "/*/lib/libnccl.so.2")][0])' 2>/dev/null) || true
    [ -n "$library" ] || return 0
    folder=$(dirname "$library")
    mkdir -p "$BUILD/nccl"
    ln -sf "$library" "$BUILD/nccl/libnccl.so"
    CPPFLAGS="-isystem ${folder%/lib}/include ${CPPFLAGS:-}"
    LDFLAGS="-L$BUILD/nccl -Wl,-rpath,$folder ${LDFLAGS:-}"
    nccl_version=$(find_nccl_version)
}

# ---- the machine ----

ask_gpu() { timeout 20 nvidia-smi --query-gpu="$1" --format=csv,noheader 2>/dev/null | head -n 1; }

# fact KEY VALUE: for the JSON file.
fact() { [ -z "$2" ] || printf '%s\t%s\n' "$1" "$2" >>"$work/facts.tsv"; }

find_gpu() {
    command -v nvidia-smi >/dev/null || complain "there is no NVIDIA GPU here: nvidia-smi is not on the PATH"
    gpu=$(ask_gpu name) || true
    [ -n "$gpu" ] || complain "there is no NVIDIA GPU here: nvidia-smi finds none"
    capability=$(ask_gpu compute_cap)
    [[ $capability =~ ^[0-9]+\.[0-9]+$ ]] || complain "nvidia-smi does not tell the compute capability of $gpu"
    arch=${capability/./}
    if [ "$arch" = 90 ]; then arch=90a; fi
    nvcc=$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)
    [ -x "$nvcc" ] || complain "there is no nvcc, neither on the PATH nor in /usr/local/cuda/bin"
}

write_facts() {
    local commit=${COMMIT:-}
    if [ -z "$commit" ]; then
        commit=$(git rev-parse --short=12 HEAD 2>/dev/null) || commit=unknown
        [ "$commit" = unknown ] || git diff --quiet HEAD 2>/dev/null || commit+=", changed"
    fi
    fact gpu "$gpu"
    fact "compute capability" "$capability"
    fact memory "$(ask_gpu memory.total)"
    fact driver "$(ask_gpu driver_version)"
    fact CUDA "$("$nvcc" --version | sed -n 's/.*release \([0-9.]*\).*/\1/p')"
    fact date "$(date -u +%Y-%m-%d)"
    fact commit "$commit"
    fact "clocks at the start" "SM $(ask_gpu clocks.sm), memory $(ask_gpu clocks.mem)"
    fact "highest clocks" "SM $(ask_gpu clocks.max.sm), memory $(ask_gpu clocks.max.mem)"
    fact "power limit" "$(ask_gpu power.limit)"
}

# ---- steps: commands with a log, a time limit and a verdict ----

failed=0
deadline=0
part=

begin_part() {
    part=$1
    deadline=$((deadline + limits[$part] * patience))
    printf '\n== %s\n' "$part"
}

seconds_left() { echo $((deadline - SECONDS)); }

# note NAME good|FAILED|skipped SECONDS [WHY]
note() {
    printf '%s\t%s\t%s\t%s\n' "$part" "$1" "$2" "$3" >>"$work/steps.tsv"
    echo "$1: $2 ($3 s)${4:+: $4}"
    if [ "$2" = FAILED ]; then failed=1; fi
}

# step NAME SECONDS COMMAND...: the limit is that of the part where that is nearer. Its output is in $work/NAME.log.
step() {
    local name=$1 limit=$(($2 * patience)) begun=$SECONDS status=0 left log
    log=$work/${name// /_}.log
    shift 2
    left=$(seconds_left)
    if [ "$left" -lt "$limit" ]; then limit=$left; fi
    if [ "$limit" -lt 1 ]; then
        note "$name" FAILED 0 "no time is left for it; run this part alone: gpu_check.sh $part"
        return 1
    fi
    timeout -k 5 "$limit" "$@" >"$log" 2>&1 </dev/null || status=$?
    if [ $status -eq 0 ]; then
        note "$name" good $((SECONDS - begun))
        return 0
    fi
    tail -n 40 "$log" | sed 's/^/    | /'
    case $status in
        124 | 137) note "$name" FAILED $((SECONDS - begun)) "it did not end within $limit seconds" ;;
        *) note "$name" FAILED $((SECONDS - begun)) "exit status $status; all of it is in $log" ;;
    esac
    return 1
}

# ---- the parts ----

# Those that ask MARS_TEST_DEVICE which device to test, and those of CUDA alone.
device_tests=('test_kernels*.c' test_newton_schulz.c 'test_optim*.c' test_comm.c test_golden.c test_hellaswag.c
    'test_devices*.c' 'test_*.cu')
memchecked_tests=('test_kernels*.c' test_newton_schulz.c test_optim_passes.c)
# Of attention one case alone: racecheck takes minutes for the others, or ends in an error of its own.
racechecked_tests=(test_kernels.c test_kernels_norm.c test_kernels_matmul.c test_kernels_qk.c test_optim_passes.c)
racechecked_attention=test_one_head

# The tests whose sources match, as programs.
list_tests() {
    local pattern source
    for pattern in "$@"; do
        # shellcheck disable=SC2231 # it is a pattern
        for source in dev/test/*/$pattern; do
            if [ -e "$source" ]; then echo "$BUILD/test/$(basename "${source%.*}")"; fi
        done
    done
}

benchmarks=("$BUILD/bench_kernels" "$BUILD/bench_optim" "$BUILD/bench_train")

targets_of() {
    case $1 in
        tests) printf '%s\n' "$BUILD/train_gpt2" "$BUILD/prepare_data" && list_tests "${device_tests[@]}" ;;
        sanitize) echo "$BUILD/bench_train" && list_tests "${memchecked_tests[@]}" ;;
        bench) printf '%s\n' "${benchmarks[@]}" ;;
        torch) echo "$BUILD/bench_train" ;;
        nccl) echo "$BUILD/train_gpt2" ;;
    esac
}

# build PART...: what the parts need.
build() {
    local targets name
    begin_part build
    mapfile -t targets < <(for name in "$@"; do targets_of "$name"; done | sort -u)
    step build 600 make -k -j"$cores" BUILD="$BUILD" BIN="$BUILD" CUDA_ARCHS="$arch" CPPFLAGS="${CPPFLAGS:-}" \
        LDFLAGS="${LDFLAGS:-}" "${targets[@]}" || true
}

part_tests() {
    local tests
    mapfile -t tests < <(list_tests "${device_tests[@]}")
    step tests 600 env MARS_TEST_DEVICE=cuda CI= TEST_SECONDS=60 BUILD="$BUILD" BIN="$BUILD" \
        bash dev/test/run_tests.sh "${tests[@]}" || true
    if [ -s "$work/tests.log" ]; then tail -n 1 "$work/tests.log"; fi
}

# sanitize NAME COMMAND...: under $tool.
sanitize() {
    local name="$tool $1"
    shift
    step "$name" 60 env MARS_TEST_DEVICE=cuda MARS_TEST_SMALL=1 "$sanitizer" --tool "$tool" --error-exitcode 9 \
        --print-limit 10 "$@" || true
}

part_sanitize() {
    local sanitizer tool test tests
    sanitizer=$(command -v compute-sanitizer || echo "$(dirname "$nvcc")/compute-sanitizer")
    for tool in memcheck racecheck; do
        if [ ! -x "$sanitizer" ]; then
            note "$tool" skipped 0 "compute-sanitizer is not installed"
            continue
        fi
        tests=("${racechecked_tests[@]}")
        if [ "$tool" = memcheck ]; then
            tests=("${memchecked_tests[@]}")
            sanitize step "$BUILD/bench_train" --device=cuda --model=tiny --steps=1 --debug_alloc=true
        fi
        for test in $(list_tests "${tests[@]}"); do sanitize "$(basename "$test")" "$test"; done
        if [ "$tool" = racecheck ]; then
            MARS_TEST_ONLY=$racechecked_attention sanitize "attention, one head" "$BUILD/test/test_kernels_attention"
        fi
    done
}

part_bench() {
    local model first=${models[0]}
    step kernels 60 "$BUILD/bench_kernels" --device=cuda --model="$first" --json="$work/kernels.json" &&
        cat "$work/kernels.log"
    step optimizers 60 "$BUILD/bench_optim" --device=cuda --model="$first" --json="$work/optimizers.json" &&
        cat "$work/optimizers.log"
    for model in "${models[@]}"; do
        step "train $model" 60 "$BUILD/bench_train" --device=cuda --model="$model" --steps=5 \
            --json="$work/train_$model.json" && cat "$work/train_$model.log"
    done
    return 0
}

# The value of "batch" in a JSON file of ours, which has one on a line of its own.
batch_of() { sed -n 's/^[[:space:]]*"batch":[[:space:]]*\([0-9]*\),*$/\1/p' "$1"; }

part_torch() {
    local model
    if ! timeout 60 "$PYTHON" -c 'import torch; raise SystemExit(not torch.cuda.is_available())' \
        >"$work/torch.log" 2>&1; then
        note torch skipped 0 "$PYTHON has no PyTorch that finds the GPU"
        return 0
    fi
    for model in "${models[@]}"; do
        if [ "$(seconds_left)" -lt $torch_seconds ]; then
            note "torch $model" skipped 0 "too little time is left; MODELS=$model gpu_check.sh torch measures it"
            continue
        fi
        step "beside $model" 60 "$BUILD/bench_train" --device=cuda --model="$model" --steps=3 \
            --json="$work/beside_$model.json" || continue
        step "torch $model" 150 "$PYTHON" dev/bench/torch_gpt2.py --device=cuda --model="$model" \
            --batch="$(batch_of "$work/beside_$model.json")" --out="$work/torch_$model.json" || true
    done
}

# Rounding alone, in the losses: sums in another order, which Newton-Schulz enlarges. In bfloat16 each rounding is 2^-9.
declare -A nccl_limits=([adamw]=1e-5 [mars-adamw]=1e-5 [muon]=1e-4 [mars-m]=1e-4 [bfloat16]=1e-3)
lost_seconds=30

# is_newer VERSION LEAST: or the same.
is_newer() { [ "$(printf '%s\n' "$1" "$2" | sort -V | head -n 1)" = "$2" ]; }

# What lets ranks share a GPU: the program's switch, and NCCL's, which goes over the sockets of the loopback between ranks
# that it takes for hosts (nccl_case.sh) and leaves room on the GPU for the other ranks' kernels.
share_gpu() {
    export MARS_SHARE_GPU=1 NCCL_SOCKET_IFNAME=lo NCCL_IB_DISABLE=1 NCCL_NVLS_ENABLE=0 NCCL_MAX_CTAS=2
    export NCCL_DEBUG=${NCCL_DEBUG:-WARN} OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    export XDG_CACHE_HOME=$work/cache # not the user's: the algorithms of a busy GPU
    if is_newer "$nccl_version" 2.30.3; then export NCCL_MULTI_RANK_GPU_ENABLE=1; fi
}

# nccl_case NAME CASE ARGUMENT...: see nccl_case.sh. The limit is what a hang costs.
nccl_case() {
    local name=$1
    shift
    TRAINER=$BUILD/train_gpt2 WORK=$work PYTHON=$PYTHON step "$name" 60 bash dev/nccl_case.sh "$@" ||
        TRAINER=$BUILD/train_gpt2 WORK=$work bash dev/nccl_case.sh clean
}

# nccl_losses RANKS PRECISION OPTIMIZER...
nccl_losses() {
    local ranks=$1 precision=$2 optimizer name
    for optimizer in "${@:3}"; do
        name="$ranks ranks, $optimizer, $precision"
        nccl_case "${name/#1 ranks/1 rank}" losses "$ranks" "$optimizer" "$precision" \
            "${nccl_limits[$precision]:-${nccl_limits[$optimizer]}}"
    done
}

# What tells most comes first, as time may run out.
part_nccl() {
    local optimizers=(adamw mars-adamw muon mars-m)
    if [[ $(mpirun --version 2>/dev/null) != *"Open MPI"* ]]; then
        note nccl skipped 0 "there is no mpirun of Open MPI; gpu_check.sh deps FOLDER fetches one"
        return 0
    fi
    if [ -z "$nccl_version" ]; then
        note nccl skipped 0 "NCCL is not installed, nor does $PYTHON have PyTorch's"
        return 0
    fi
    share_gpu
    nccl_losses 1 float32 "${optimizers[@]}"
    nccl_losses 2 float32 "${optimizers[@]}"
    fact "message passing" "$(sed -n 's/.*message passing: //p' "$work/2_ranks,_${optimizers[0]},_float32.log" 2>/dev/null)"
    nccl_losses 8 float32 "${optimizers[@]}"
    nccl_case "8 ranks, resumed with 3" resume 8 3 mars-m "${nccl_limits[mars-m]}"
    nccl_case "killed rank" lost KILL 4 $lost_seconds
    nccl_case "stopped rank" lost STOP 4 $lost_seconds
    nccl_losses 4 float32 "${optimizers[@]}"
    nccl_losses 1 bfloat16 mars-adamw
    nccl_losses 8 bfloat16 mars-adamw
}

# ---- the run ----

run() {
    local name result
    find_gpu
    use_deps
    use_nccl
    rm -rf "$work"
    mkdir -p "$work"
    write_facts
    echo "$gpu (sm_$arch)"
    build "$@"
    for name in "$@"; do
        begin_part "$name"
        "part_$name"
    done
    result=$RESULTS/$(tr 'A-Z ' 'a-z-' <<<"$gpu" | tr -cd 'a-z0-9-').json
    printf '\n'
    timeout 60 "$PYTHON" dev/bench/gpu_report.py "$work" "$result" ||
        { echo "gpu_check.sh: cannot merge the figures in $work" >&2 && exit 1; }
    printf '\nall of it: %s (%d s)\n' "$result" $SECONDS
    exit $failed
}

alone() {
    local name
    for name in "${!alone_limits[@]}"; do limits[$name]=${alone_limits[$name]}; done
    run "$1"
}

case ${1:-all} in
    tests | sanitize | bench | torch | nccl) [ $# -eq 1 ] || complain "one part at a time, or all"; alone "$1" ;;
    all) run tests sanitize bench torch ;;
    deps) [ $# -ge 2 ] || complain "deps: give the folder to unpack in"; shift; fetch_deps "$@" ;;
    -h | --help) usage ;;
    *) complain "unknown argument $1; there are tests, sanitize, bench, torch, nccl, all and deps FOLDER" ;;
esac
