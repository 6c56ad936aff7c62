#!/usr/bin/env bash
# test.sh [--all]: installs what is missing, builds, and tests in every way that a change must survive.
#
# Cheap checks come first, so that a warning shows within a minute or two.
#
#   lint       clang-format, cppcheck, clang-tidy, shellcheck
#   compilers  all host code by GCC 11 and Clang (of the tests those that run in "cpus", "plain" and "emu"), and the
#              cross compiler for aarch64 with and without oneDNN, with warnings as errors
#   build      the build that users get, and all tests; if nvcc is there, every kernel for every architecture, with a
#              table of their registers
#   cpus       code that depends on the processor, as on other processors: oneDNN without AMX, without bfloat16 and
#              without AVX-512, and loops compiled for x86-64-v3 (GCC 11's build)
#   plain      a build without oneDNN, MPI and CUDA (by Clang), and the tests of what replaces them
#   asan       the address and undefined-behaviour sanitizers, with CUDA emulated on the CPU (dev/emu): all tests on the
#              CPU except whole runs and central differences of whole models, and tests of kernels on the emulated GPU,
#              at small sizes
#   emu        the emulated GPU without sanitizers (GCC 11's build): kernels at small sizes in another order of its threads,
#              whole training runs, gradients of every architecture, several ranks, and every optimizer
#   tsan       the emulated GPU under the thread sanitizer: kernels at small sizes
#
#   --all    also kernels on the emulated GPU at all sizes and in two more orders; ranks that share an emulated GPU with
#            NCCL between them, as on a machine with one GPU; more faults of hosts and of the network between
#            them; clang's analyzer to its full depth; the data loader under the thread sanitizer; and tests of kernels,
#            optimizers, tokenizer and checkpoints as aarch64 programs, by qemu-user
#
# Everything lies under build/, so that ./train_gpt2 stays as it is. The last line is "N passed, N failed", over all
# parts; a build or a lint that fails counts as one failure. The script skips a part whose tools are not installed, and
# names it. If CI=true, it installs all tools first, and a skipped part counts as failed. So does a skipped test of the
# build that users get, unless dev/test/may_be_skipped.txt has the reason; the other builds may skip tests, which that
# build has run.
set -euo pipefail

all=no
for argument in "$@"; do
    case $argument in
        --all) all=yes ;;
        -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
        *) echo "test.sh: unknown argument $argument; the only option is --all; see --help" >&2; exit 2 ;;
    esac
done

cd "$(dirname "$0")/.."
shopt -s extglob
cores=$(nproc)
passed=0
failed=0
mkdir -p build/logs

heading() { printf '\n== %s\n' "$1"; }

# step NAME COMMAND...: runs the command with its output in a log, and shows the log if the command fails.
step() {
    local name=$1 log=build/logs/$1.log begun=$SECONDS
    shift
    if "$@" >"$log" 2>&1 </dev/null; then
        echo "$name: good ($((SECONDS - begun)) s)"
        return 0
    fi
    grep -vE '^  (CC|LINK)  ' "$log" | tail -n 100
    echo "$name: FAILED ($((SECONDS - begun)) s): $*"
    failed=$((failed + 1))
    return 1
}

# compile FOLDER [--no-programs] [OPTION...] [-- TEST_PATTERN...]: builds programs and tests in that folder; with
# patterns, only the tests that match, and the libraries that they load.
compile() {
    local folder=$1 options=() programs=(programs) targets=(programs tests)
    shift
    if [ "$1" = --no-programs ]; then programs=() && shift; fi
    while [ $# -gt 0 ] && [ "$1" != -- ]; do options+=("$1") && shift; done
    if [ $# -gt 0 ]; then
        shift
        mapfile -t targets < <(list_tests "$folder" "$@" | grep -v '\.sh$')
        targets+=("${programs[@]}" "$folder/test/fault_injection.so")
    fi
    step "make-${folder//\//-}" make -j"$cores" BUILD="$folder" BIN="$folder" "${options[@]}" "${targets[@]}"
}

# list_tests FOLDER PATTERN...: lists the tests whose sources match, as programs of that folder or scripts; tests that
# need GPUs only if the pattern names them.
list_tests() {
    local folder=$1 pattern source
    shift
    for pattern in "$@"; do
        # shellcheck disable=SC2231 # it is a pattern
        for source in dev/test/*/$pattern dev/emu/$pattern dev/fuzz/$pattern; do
            [ -e "$source" ] || continue # nothing matched
            case $source in
                */test_devices*.c) [[ $pattern == test_devices* ]] || continue ;;&
                *.sh) echo "$source" ;;
                *) echo "$folder/test/$(basename "${source%.*}")" ;;
            esac
        done
    done
}

# count LOG FOLDER LABEL: adds what dev/test/run_tests.sh counted in a log to the totals.
count() {
    local more_passed=0 more_failed=0
    read -r more_passed more_failed < <(sed -n '$s/^\([0-9]*\) passed, \([0-9]*\) failed$/\1 \2/p' "$1") ||
        more_failed=1
    passed=$((passed + more_passed))
    failed=$((failed + more_failed))
    echo "tests in $2$3: $more_passed passed, $more_failed failed"
}

# run_tests FOLDER PATTERN...: runs the tests whose sources match, and adds what dev/test/run_tests.sh counts. Tests on
# the CPU often wait for processes to start or to fall silent, so two more of them run at a time than there are cores.
run_tests() {
    local folder=$1 begun=$SECONDS log tests
    shift
    mapfile -t tests < <(list_tests "$folder" "$@")
    log=build/logs/test-${folder//\//-}.log
    BUILD=$folder BIN=$folder TEST_JOBS=$((cores + 2)) bash dev/test/run_tests.sh "${tests[@]}" 2>&1 |
        tee "$log" | sed '$d' || true
    count "$log" "$folder" " ($((SECONDS - begun)) s)"
}

# Lanes run tests in parallel that use one core each, as on the emulated GPU. There is one lane more than there are
# cores, since some tests wait at times. lane NAME FOLDER [VARIABLE=VALUE...] -- PATTERN... starts a lane when there is
# room and keeps its output for wait_for_lanes.
lanes=()
lane() {
    local name=$1 folder=$2 settings=() tests
    shift 2
    while [ "$1" != -- ]; do settings+=("$1") && shift; done
    shift
    mapfile -t tests < <(list_tests "$folder" "$@")
    while [ "$(jobs -rp | wc -l)" -gt "$cores" ]; do wait -n || true; done
    mkdir -p "build/logs/$name"
    env "${settings[@]}" TEST_LOGS="build/logs/$name" BUILD="$folder" BIN="$folder" OMP_NUM_THREADS=1 \
        bash dev/test/run_tests.sh "${tests[@]}" >"build/logs/$name.log" 2>&1 &
    lanes+=("$name")
}
wait_for_lanes() {
    local name
    wait
    for name in "${lanes[@]}"; do
        sed '$d' "build/logs/$name.log"
        count "build/logs/$name.log" "$name" ""
    done
    lanes=()
}

finish() {
    printf '\n%d seconds in all\n' $SECONDS
    echo "$passed passed, $failed failed"
    [ $failed -eq 0 ]
    exit
}

# has_tools PART COMMAND...: whether these commands are installed; if not, says that the part is skipped.
has_tools() {
    local part=$1 command
    shift
    for command in "$@"; do
        command -v "$command" >/dev/null && continue
        if [ "${CI:-}" = true ]; then
            echo "$part: FAILED: there is no $command"
            failed=$((failed + 1))
        else
            echo "$part: skipped: there is no $command"
        fi
        return 1
    done
}

# Whether this processor has all of these features. A test of this script passes another description than Linux's.
cpu_has() {
    local feature
    for feature in "$@"; do grep -qw "$feature" "${MARS_CPUINFO:-/proc/cpuinfo}" || return 1; done
}

heading "what is needed"
options=(--emu)
if [ "${CI:-}" = true ]; then options+=(--lint --compilers --browser); fi
if ! { bash scripts/install_deps.sh "${options[@]}" && make found; }; then
    failed=1
    finish
fi

heading "lint"
deep=()
if [ $all = yes ]; then deep=(ANALYZER_NODES=225000); fi
if has_tools lint clang-format clang-tidy cppcheck shellcheck; then step lint make lint "${deep[@]}" || true; fi

# Tests of a backend table, which any device can be asked to pass; of code that runs on top of one; and of models.
kernels='test_kernels*.c'
device_tests=("$kernels" test_newton_schulz.c test_optim_passes.c)
model_tests=(test_gpt2.c test_golden_gradients.c)

heading "compilers"
# One build tests both the emulated GPU and an older compiler for an older processor.
gnu=()
if has_tools gcc-11 gcc-11 g++-11; then gnu=(CC=gcc-11 CXX=g++-11); fi
# A processor of another family has other names for its levels.
if [ "$(uname -m)" = x86_64 ]; then gnu+=(ARCH=x86-64-v3); fi
optimizer_tests='test_optim!(_sharded).c' # these tests use no GPU
emu=no
if compile build/emu EMU=1 WERROR=1 "${gnu[@]}" -- "$kernels" test_newton_schulz.c 'test_golden*.c' test_gpt2.c \
    "$optimizer_tests" test_comm.c 'test_devices*.c' 'test_*.cu'; then emu=yes; fi
plain_tests=("$kernels" test_newton_schulz.c 'test_gpt2*.c' test_golden_gradients.c)
plain=no
if has_tools clang clang; then
    if compile build/plain WERROR=1 CC=clang ONEDNN=0 MPI=0 CUDA=0 -- "${plain_tests[@]}"; then plain=yes; fi
    # The rest of the host code: it uses libraries that the plain build lacks, or headers of CUDA or NCCL, which the
    # emulator has.
    step make-build-clang make -j"$cores" BUILD=build/clang BIN=build/clang WERROR=1 CC=clang EMU=1 \
        build/clang/{kernels/cpu/matmul_onednn,kernels/cuda/matmul_algorithms,kernels/cuda/matmul,kernels/cuda/ranges,kernels/cuda/sensors,comm/mpi,comm/heartbeat,comm/nccl}.o ||
        true
fi
aarch64=no
if has_tools aarch64 aarch64-linux-gnu-gcc && step aarch64-libraries bash dev/aarch64.sh sysroot build/aarch64-libraries; then
    aarch64=yes
    for onednn in 1 0; do
        folder=build/aarch64-onednn-$onednn
        targets=(OPTIMIZE=-O0 programs)
        if [ $onednn = 0 ]; then targets=(OPTIMIZE=-O0 "$folder/kernels/cpu/matmul_plain.o"); fi # only it differs
        if [ $all = yes ]; then targets=(programs tests); fi
        step "make-${folder//\//-}" bash dev/aarch64.sh make build/aarch64-libraries -j"$cores" BUILD=$folder BIN=$folder \
            WERROR=1 ONEDNN=$onednn "${targets[@]}" || aarch64=no
    done
fi

# The orders in which the emulator runs the threads of a block, except its usual one.
orders=newest
if [ $all = yes ]; then orders='reverse newest mix:1'; fi

heading "the build that users get"
native=no
if compile build WERROR=1; then
    native=yes
    MARS_TEST_ALL=$all TEST_SECONDS=900 run_tests build 'test_*.sh' 'test_*.c'
fi
if has_tools cuda-report nvcc; then
    if step cuda-report make --no-print-directory cuda-report WERROR=1; then cat build/logs/cuda-report.log; fi
fi

heading "other processors, and without oneDNN, MPI and CUDA"
if [ $emu = yes ]; then
    lane cpu-avx2-models build/emu CI= TEST_SECONDS=1800 ONEDNN_MAX_CPU_ISA=AVX2 -- "${model_tests[@]}"
    lane cpu-avx2 build/emu CI= TEST_SECONDS=1800 ONEDNN_MAX_CPU_ISA=AVX2 -- "$kernels"
fi
if [ $native = no ]; then
    :
elif cpu_has avx512bw avx512vl avx512dq && ! cpu_has avx512_bf16; then
    echo "cpu-avx512: this is such a processor, and the tests above ran on it"
elif cpu_has avx512bw avx512vl avx512dq; then
    lane cpu-avx512 build CI= TEST_SECONDS=1800 ONEDNN_MAX_CPU_ISA=AVX512_CORE -- test_kernels_matmul.c \
        test_kernels_attention.c "${model_tests[@]}"
else
    echo "cpu-avx512: skipped: this processor has no AVX-512"
fi
if [ $native = no ]; then
    :
elif cpu_has amx_bf16; then
    lane cpu-no-amx build CI= TEST_SECONDS=1800 ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16 -- test_kernels_matmul.c
else
    echo "cpu-no-amx: skipped: this processor has no AMX"
fi
if [ $plain = yes ]; then
    lane plain build/plain CI= TEST_SECONDS=1800 MARS_TEST_SMALL=1 CC=clang -- "${plain_tests[@]}"
fi
wait_for_lanes

heading "address and undefined-behaviour sanitizers, CUDA emulated"
# Leaves out whole runs, since other tests cover their parts. Newton-Schulz runs on the emulated GPU alone. Gradients of
# every architecture are those of test_golden_gradients.c: the central differences of test_gpt2.c call the same code for
# longer.
sanitized='test_!(golden|example|processes|resume|ema|gpt2|newton_schulz|optim_rules).c'
if compile build/asan EMU=1 SANITIZE=address,undefined OPTIMIZE=-O1 -- "$sanitized" test_newton_schulz.c 'test_*.cu'; then
    lane asan-forward build/asan CI= TEST_SECONDS=1800 MARS_TEST_DEVICE=cuda MARS_TEST_SMALL=1 -- "${device_tests[@]}" \
        'test_*.cu'
    MARS_EMU_DEVICES=0 CI='' TEST_SECONDS=1800 MARS_TEST_SMALL=1 run_tests build/asan "$sanitized"
    wait_for_lanes
fi

heading "an emulated GPU, and the same under the thread sanitizer"
export TSAN_OPTIONS=atexit_sleep_ms=0 # otherwise each of many processes sleeps for a second
export UCX_VFS_ENABLE=n               # otherwise UCX, which MPI loads, leaves a thread, which is reported
threads=("$kernels" test_emulator.cu test_faults.cu)
if [ $all = yes ]; then threads+=(test_loader.c); fi
tsan=no
if compile build/tsan --no-programs EMU=1 SANITIZE=thread OPTIMIZE=-O1 -- "${threads[@]}"; then tsan=yes; fi
# The longest lanes first, so that none is left alone at the end.
if [ $emu = yes ]; then
    if [ $all = yes ]; then
        lane emu-nccl build/emu CI= TEST_SECONDS=1800 MARS_TEST_DEVICE=cuda MARS_TEST_ONLY=emulated_nccl -- test_gpu_check.sh
    fi
    lane emu-optimizers build/emu CI= TEST_SECONDS=1800 MARS_TEST_DEVICE=cuda -- "$optimizer_tests" 'test_*.cu'
    lane emu-devices build/emu CI= TEST_SECONDS=1800 MARS_TEST_SMALL=1 -- 'test_devices*.c'
    lane emu-processes build/emu CI= TEST_SECONDS=1800 MARS_TEST_DEVICE=cuda -- test_comm.c
    lane emu-golden build/emu CI= TEST_SECONDS=1800 MARS_TEST_DEVICE=cuda -- 'test_golden*.c'
fi
if [ $tsan = yes ]; then
    lane tsan-kernels build/tsan CI= TEST_SECONDS=1800 MARS_TEST_DEVICE=cuda MARS_TEST_SMALL=1 -- "$kernels"
    lane tsan-emulator build/tsan CI= TEST_SECONDS=1800 -- test_emulator.cu test_faults.cu
fi
if [ $emu = yes ]; then
    small=1
    if [ $all = yes ]; then small=0; fi # one order at all sizes
    for order in $orders; do
        lane "emu-${order/:/-}" build/emu CI= TEST_SECONDS=1800 MARS_TEST_DEVICE=cuda MARS_TEST_SMALL=$small \
            MARS_EMU_ORDER="$order" -- "${device_tests[@]}"
        small=1
    done
fi
wait_for_lanes
if [ $all = yes ]; then
    heading "the data loader under the thread sanitizer"
    CI='' TEST_SECONDS=1800 run_tests build/tsan test_loader.c
    heading "aarch64, emulated"
    if [ $aarch64 = yes ] && has_tools aarch64 qemu-aarch64; then
        for onednn in 1 0; do
            lane aarch64-onednn-$onednn build/aarch64-onednn-$onednn CI= TEST_SECONDS=3600 \
                TEST_COMMAND="bash dev/aarch64.sh run build/aarch64-libraries" -- "$kernels" test_newton_schulz.c \
                test_optim.c test_optim_rules.c test_optim_state.c test_optim_passes.c test_tokenizer.c test_vocabulary.c \
                'test_checkpoint*.c'
        done
        wait_for_lanes
    fi
fi

finish
