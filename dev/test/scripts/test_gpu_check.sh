#!/usr/bin/env bash
# test_gpu_check.sh: tests of dev/gpu_check.sh on a machine without a GPU, and of the benchmarks that it runs. Prints "N
# passed, N failed" at its end.
#
# nvidia-smi, nvcc, make, compute-sanitizer and PyTorch are stand-ins, small commands in a folder of their own; the make
# writes programs that print what the real ones would. The benchmarks themselves run with a tiny model, on the CPU or on
# the device that MARS_TEST_DEVICE names, which may be an emulated one.
# shellcheck source=dev/test/script_fixture.sh
source "$(dirname "$0")/../script_fixture.sh"

BUILD=$(realpath "${MARS_BUILD:-build}")
device=${MARS_TEST_DEVICE:-cpu}
unset CI DEPS CPPFLAGS LDFLAGS COMMIT PATIENCE NCCL_MODEL

# ---- a machine with a GPU ----

fake_commands() {
    mkdir -p "$here/bin"
    command_file "$here/bin/nvidia-smi" <<'END'
case $1 in
    *=name) echo "NVIDIA H100 80GB HBM3" ;;
    *=compute_cap) echo 9.0 ;;
    *=driver_version) echo 580.1 ;;
    *=memory.total) echo "81559 MiB" ;;
    *=clocks.max.sm) echo "1980 MHz" ;;
    *=clocks.sm) echo "345 MHz" ;;
    *) echo "[N/A]" ;;
esac
END
    command_file "$here/bin/nvcc" <<'END'
echo "Cuda compilation tools, release 13.0, V13.0.88"
END
    command_file "$here/bin/compute-sanitizer" <<'END'
echo "${MARS_TEST_ONLY:+$MARS_TEST_ONLY of }$*" >>"$CALLS"
[ "${FAULT:-}" != "$2" ]
END
    # What is no target is an option; a target that is a program becomes one.
    command_file "$here/bin/make" <<'END'
echo "make $*" >>"$CALLS"
for target in "$@"; do
    case $target in
        -* | *=*) continue ;;
        */test/test_*) source=$STUBS/test ;;
        *) source=$STUBS/$(basename "$target") ;;
    esac
    mkdir -p "$(dirname "$target")"
    [ -e "$source" ] || { echo "cannot make $target"; exit 2; }
    cp "$source" "$target"
done
END
    command_file "$here/bin/python3" <<END
case "\$*" in
    "-c import torch"*) exit \${NO_TORCH:-0} ;;
    "-c import glob, nvidia"*) [ -z "\${TORCH_NCCL:-}" ] || echo "\$TORCH_NCCL" ;;
    dev/bench/torch_gpt2.py*) echo "\$*" >>"\$CALLS"
        echo '{"model": "small", "batch": 16, "tokens/s": 250000.0}' >"\${!#/--out=/}" ;;
    *) exec $(command -v python3) "\$@" ;;
esac
END
    export PATH=$here/bin:$PATH CALLS=$here/calls STUBS=$here/stubs
}

# What make makes: tests that pass (all but $FAILING) and benchmarks with figures of their own.
fake_programs() {
    mkdir -p "$here/stubs"
    command_file "$here/stubs/test" <<'END'
echo "MARS_TEST_DEVICE=$MARS_TEST_DEVICE $(basename "$0")" >>"$CALLS"
failed=0
if [ "$(basename "$0")" = "${FAILING:-}" ]; then failed=1; fi
echo "[==========] Running 3 test(s)." >&2
echo "[==========] 3 test(s) run." >&2
echo "[  PASSED  ] $((3 - failed)) test(s)." >&2
exit $failed
END
    command_file "$here/stubs/train_gpt2" </dev/null
    command_file "$here/stubs/prepare_data" </dev/null
    command_file "$here/stubs/bench_kernels" <<'END'
cat >"${!#/--json=/}" <<'JSON'
{"machine": "GPU", "table": "cuda-bfloat16", "copy GB/s": 3000, "matmul TFLOP/s": 700,
 "kernels": [{"name": "layernorm forward", "sizes": "32768 x 768", "us": 40, "GB/s": 2600, "over copy": 0.87,
              "target": 0.85},
             {"name": "attention forward, head size 64", "sizes": "32 x 12 x 1024", "us": 300, "TFLOP/s": 175,
              "over matmul": 0.25, "target": 0.28}]}
JSON
END
    command_file "$here/stubs/bench_optim" <<'END'
cat >"${!#/--json=/}" <<'JSON'
{"machine": "GPU", "table": "cuda-bfloat16", "optimizers": [
 {"name": "adamw", "step, ms": 1.5, "passes over copy": 0.9, "target": 0.85, "one of 8, ms": 0.2},
 {"name": "muon", "step, ms": 7, "passes over copy": 0.8, "target": 0.85, "one of 8, ms": 2.0,
  "products over matmul": 0.5}]}
JSON
END
    command_file "$here/stubs/bench_train" <<'END'
echo "bench_train $*" >>"$CALLS"
[ "${FAULT:-}" != bench_train ] || exit 3
cat >"${!#/--json=/}" <<'JSON'
{"machine": "GPU", "table": "cuda-bfloat16", "model": "small", "parameters": 124373760,
	"batch":	32,
 "step, ms": 80, "tokens/s": 409600, "model over matmul": 0.62, "MFU": 0.35, "optimizer, ms": 2,
 "optimizer, share of the step": 0.025, "memory, GB": 15.5}
JSON
END
}

# check STATUS [ARGUMENT]: runs it on the pretended machine.
check() {
    local status=$1
    shift
    BUILD=$here/build RESULTS=$here/results MODELS=small COMMIT=abc run "$status" bash dev/gpu_check.sh "$@"
}

# json EXPRESSION: fails unless it is true of the figures, `r`.
json() {
    python3 -c 'import json, sys
r = json.load(open(sys.argv[1]))
parts = r["parts"]
assert eval(sys.argv[2]), json.dumps(r, indent=1)' "$here/results/nvidia-h100-80gb-hbm3.json" "$1"
}

pretend() {
    fake_commands
    fake_programs
}

test_all_parts() {
    pretend
    check 0
    json 'list(parts) == ["build", "tests", "sanitize", "bench", "torch"]'
    json 'r["gpu"] == "NVIDIA H100 80GB HBM3" and r["driver"] == "580.1" and r["CUDA"] == "13.0"'
    json 'parts["bench"]["commit"] == "abc" and parts["bench"]["highest clocks"].startswith("SM 1980 MHz")'
    json 'all(s["status"] == "good" for p in parts.values() for s in p["steps"])'
    json 'parts["tests"]["programs"]["test_kernels_norm"] == {"passed": 3, "failed": 0}'
    json 'parts["bench"]["training"]["small"]["tokens/s"] == 409600'
    json 'parts["torch"]["models"]["small"]["ours over torch"] == 1.6384'
    # 60 sequences at 78 ms for 32, and 2 ms of Muon
    json 'abs(parts["bench"]["muon"]["share"] - 2 / (2 + 78 / 32 * 60)) < 1e-5'
    has "$here/calls" "CUDA_ARCHS=90a"
    has "$here/calls" "MARS_TEST_DEVICE=cuda test_kernels_norm"
    has "$here/calls" "MARS_TEST_DEVICE=cuda test_golden"
    has "$here/calls" "--tool racecheck"
    has "$here/calls" "torch_gpt2.py --device=cuda --model=small --batch=32"
}

test_table_for_people() {
    pretend
    check 0
    has "$here/output" "### NVIDIA H100 80GB HBM3"
    has "$here/output" "| small, 124M | 32 | 409,600 | 80.0 | 0.62 | ≥ 0.6: ok | 0.35 | 2.5 % | 15.5 |"
    has "$here/output" "| 250,000 at batch 16 | 1.64 |"
    has "$here/output" "| layernorm forward | 32768 x 768 | 40.0 | 2,600 GB/s | 0.87 | ≥ 0.85: ok |"
    has "$here/output" "| attention forward, head size 64 | 32 x 12 x 1024 | 300.0 | 175 TFLOP/s | 0.25 | ≥ 0.28: below |"
    has "$here/output" "| muon | 7.00 | 0.80 | ≥ 0.85: below | 0.50 | 2.00 |"
    has "$here/output" "1.35 % of the step (< 0.02: ok)"
    has "$here/output" "- tests: good"
}

test_parts_run_alone_and_are_merged() {
    pretend
    check 0 bench
    json 'list(parts) == ["build", "bench"]'
    lacks "$here/calls" "test_kernels"
    check 0 tests
    json 'list(parts) == ["build", "bench", "tests"] and parts["bench"]["kernels"]["copy GB/s"] == 3000'
    has "$here/output" "Measured copy 3,000 GB/s"
    sed -i 's/HBM3/HBM2/' "$here/results/nvidia-h100-80gb-hbm3.json" # figures of another GPU are not kept
    check 0 torch
    json 'list(parts) == ["build", "torch"]'
}

test_a_failing_test_is_reported() {
    pretend
    FAILING=test_golden check 1
    has "$here/output" "tests: FAILED"
    has "$here/output" "- tests: FAILED: tests"
    json 'parts["tests"]["programs"]["test_golden"] == {"passed": 2, "failed": 1}'
    json 'parts["bench"]["training"] and parts["torch"]["models"]'
}

test_a_failing_benchmark_is_reported() {
    pretend
    FAULT=bench_train check 1
    has "$here/output" "train small: FAILED"
    has "$here/output" "exit status 3"
    json 'parts["bench"]["kernels"] and not parts["bench"]["training"] and parts["bench"]["muon"] is None'
}

test_a_fault_that_the_sanitizer_finds() {
    pretend
    FAULT=racecheck check 1 sanitize
    has "$here/output" "racecheck test_kernels: FAILED"
    has "$here/output" "memcheck test_kernels: good"
}

# Racecheck does not end on attention's other tests.
test_racecheck_of_attention() {
    pretend
    check 0 sanitize
    has "$here/output" "racecheck attention, one head: good"
    grep -F -e "--tool racecheck" "$here/calls" | grep -F test_kernels_attention >"$here/attention"
    [ "$(wc -l <"$here/attention")" -eq 1 ]
    has "$here/attention" "test_one_head of --tool racecheck"
    grep -q 'cmocka_unit_test(test_one_head)' dev/test/kernels/test_kernels_attention.c
}

test_a_build_that_fails() {
    pretend
    rm "$here/stubs/bench_optim"
    check 1 bench
    has "$here/output" "build: FAILED"
    has "$here/output" "optimizers: FAILED"
    json 'parts["bench"]["kernels"] and not parts["bench"]["optimizers"]'
}

test_what_is_not_there_is_skipped() {
    pretend
    rm "$here/bin/compute-sanitizer"
    NO_TORCH=1 check 0
    has "$here/output" "memcheck: skipped (0 s): compute-sanitizer is not installed"
    has "$here/output" "torch: skipped (0 s): python3 has no PyTorch that finds the GPU"
    json 'parts["torch"]["models"] == {}'
}

test_patience() {
    pretend
    command_file "$here/bin/timeout" <<END
echo "timeout \$*" >>"\$CALLS"
exec $(command -v timeout) "\$@"
END
    check 0 bench
    has "$here/calls" "timeout -k 5 60 $here/build/bench_kernels"
    PATIENCE=3 check 0 bench
    has "$here/calls" "timeout -k 5 180 $here/build/bench_kernels"
    PATIENCE=no check 2 bench
    has "$here/output" "PATIENCE=no: a whole number from 1 to 99 is expected"
}

test_libraries_of_a_folder() {
    pretend
    mkdir -p "$here/deps/usr/include"
    DEPS=$here/deps check 0 bench
    has "$here/calls" "CPPFLAGS=-I$here/deps/usr/include"
    has "$here/calls" "-Wl,-rpath,$here/deps/usr/lib/"
    # Open MPI, where it is there, is told where that is.
    mkdir -p "$here/deps/usr/bin"
    command_file "$here/deps/usr/bin/mpirun" <<'END'
if [ "$OPAL_PREFIX" = "$(realpath "$(dirname "$0")/..")" ]; then echo "mpirun (HYDRA)" && echo moved >>"$CALLS"; fi
END
    DEPS=$here/deps check 0 nccl
    has "$here/calls" "moved"
    DEPS=$here/nothing check 2 bench
    has "$here/output" "gpu_check.sh deps"
}

test_fetching_libraries() {
    fake_commands
    command_file "$here/bin/apt-get" <<'END'
for package in "${@:3}"; do touch "$package.deb"; done
END
    command_file "$here/bin/apt-cache" <<'END'
printf '%s\n' openmpi-bin '  Depends: libopenmpi3t64' libopenmpi3t64 libopenmpi-dev openmpi-common libevent-core-2.1-7t64 \
    libevent-dev libhwloc15 libhwloc-dev libpmix2t64 libmunge2 libucx0 libfabric1 libc6 openssh-client
END
    command_file "$here/bin/dpkg" <<'END'
mkdir -p "$3/usr/bin"
touch "$3/$(basename "$2")" "$3/usr/bin/mpirun.openmpi"
END
    run 0 bash dev/gpu_check.sh deps "$here/deps" libdnnl2
    for package in libcjson1 libcjson-dev libcmocka-dev libxxhash-dev libdnnl2 openmpi-bin libopenmpi3t64 libopenmpi-dev \
        openmpi-common libevent-core-2.1-7t64 libhwloc15 libpmix2t64 libmunge2; do
        [ -e "$here/deps/$package.deb" ]
    done
    [ -e "$here/deps/usr/bin/mpirun" ]
    local count
    count=$(find "$here/deps" -name '*.deb' | wc -l)
    [ "$count" -eq 14 ]
    run 2 bash dev/gpu_check.sh deps
    has "$here/output" "give the folder"
}

test_without_a_gpu() {
    pretend
    printf '#!/bin/bash\nexit 9\n' >"$here/bin/nvidia-smi"
    check 2
    has "$here/output" "there is no NVIDIA GPU here: nvidia-smi finds none"
    run 2 bash dev/gpu_check.sh everything
    has "$here/output" "unknown argument everything; there are tests, sanitize, bench, torch, nccl, all"
    run 0 bash dev/gpu_check.sh --help
    has "$here/output" "compute-sanitizer on the kernels"
    [ ! -e "$here/results" ]
}

# ---- NCCL between ranks that share the GPU ----

# An mpirun that starts ranks, and a trainer whose losses are right. With FAULT=wrong those of 8 ranks are not, and nobody
# names a rank that is lost; with FAULT=hang ranks wait for ever.
pretend_nccl() {
    pretend
    unset NCCL_MULTI_RANK_GPU_ENABLE
    command_file "$here/bin/mpirun" <<'END'
if [ "$1" = --version ]; then echo "mpirun (${MPI:-Open MPI}) 4.1.4" && exit; fi
echo "mpirun $*" >>"$CALLS"
ranks=$2 status=0 pids=()
until [ "$1" = bash ]; do shift; done
for ((rank = 0; rank < ranks; rank++)); do
    OMPI_COMM_WORLD_RANK=$rank OMPI_COMM_WORLD_SIZE=$ranks "$@" &
    pids+=($!)
done
wait "${pids[0]}" || status=$?
if [ $status -ne 0 ]; then kill -KILL "${pids[@]}" 2>/dev/null; fi
wait
exit $status
END
    command_file "$here/stubs/train_gpt2" <<'END'
rank=${OMPI_COMM_WORLD_RANK:-0} ranks=${OMPI_COMM_WORLD_SIZE:-1} begin=0 steps=4
echo "rank $rank of $ranks: $(env | grep -E '^(NCCL_|MARS_SHARE_GPU)' | sort | tr '\n' ' ')$*" >>"$CALLS"
for argument in "$@"; do
    case $argument in
        --out_dir=*) out=${argument#*=} ;;
        --max_iters=*) steps=${argument#*=} ;;
        --init_from=resume) begin=2 ;;
    esac
done
while [ "${FAULT:-}" = hang ] || { [ "$rank" -gt 0 ] && [ "$steps" -gt 4 ]; }; do sleep 0.05; done
if [ "$rank" -gt 0 ]; then exit; fi
echo "  processes  $ranks x 1 threads, message passing: NCCL 2.28.9, Open MPI v4.1.4"
mkdir -p "$out"
loss=5
if [ "${FAULT:-}" = wrong ] && [ "$ranks" = 8 ]; then loss=6; fi
for ((step = begin; step < steps && step < 4; step++)); do
    echo "{\"event\":\"train\",\"step\":$step,\"loss\":$loss.$step}"
done >>"$out/metrics.jsonl"
if [ "$steps" -le 4 ]; then exit; fi
while [[ $(cut -d ' ' -f 3 "/proc/$(cat "$RANKS/1")/stat" 2>/dev/null) = [SR] ]]; do sleep 0.02; done
if [ "${FAULT:-}" != wrong ]; then echo "process 1 on host here has given no sign of life for 15 s" >&2; fi
exit 1
END
    nccl_header "$here/include" 2.28.9 # next to the folder of the pretended nvcc
}

# nccl_header FOLDER VERSION
nccl_header() {
    local numbers
    IFS=. read -ra numbers <<<"$2"
    mkdir -p "$1"
    printf '#define NCCL_MAJOR %s\n#define NCCL_MINOR %s\n#define NCCL_PATCH %s\n' "${numbers[@]}" >"$1/nccl.h"
}

# This machine's own header is none of the pretended one's.
check_nccl() { CPPFLAGS=-nostdinc check "$1" nccl; }

test_nccl() {
    pretend_nccl
    check_nccl 0
    json 'list(parts) == ["build", "nccl"] and parts["nccl"]["message passing"] == "NCCL 2.28.9, Open MPI v4.1.4"'
    json 'all(s["status"] == "good" for s in parts["nccl"]["steps"]) and len(parts["nccl"]["steps"]) == 21'
    json '[c["found"] for c in parts["nccl"]["cases"] if c["unit"] == "of the loss"] == [0.0] * 14'
    json 'sum(c["found"] < c["limit"] == 30 for c in parts["nccl"]["cases"]) == 2'
    for ranks in 2 4 8; do
        for optimizer in adamw mars-adamw muon mars-m; do
            grep -F "rank $((ranks - 1)) of $ranks:" "$here/calls" | grep -qF -e "--optimizer.name=$optimizer "
        done
    done
    # What NCCL must be told where ranks share a GPU, on every rank.
    local settings="NCCL_IB_DISABLE=1 NCCL_MAX_CTAS=2 NCCL_NVLS_ENABLE=0 NCCL_SOCKET_IFNAME=lo"
    has "$here/calls" "rank 1 of 2: MARS_SHARE_GPU=1 NCCL_DEBUG=WARN NCCL_HOSTID=host1 $settings $here"
    has "$here/calls" "rank 7 of 8: MARS_SHARE_GPU=1 NCCL_DEBUG=WARN NCCL_HOSTID=host7 $settings $here"
    has "$here/calls" "--optimizer.name=mars-m --init_from=resume"
    [ "$(grep -c 'mpirun.*--enable-recovery' "$here/calls")" -eq 2 ]
    has "$here/output" "| 8 ranks, resumed with 3, mars-m | 0 of the loss | ≤ 0.0001: ok |"
    has "$here/output" "| rank 1 of 4 gets SIGSTOP |"
}

# NCCL 2.30.3 has a setting more. What fails does not keep the others from running.
test_nccl_that_is_wrong() {
    pretend_nccl
    nccl_header "$here/include" 2.30.3
    FAULT=wrong check_nccl 1
    has "$here/calls" "NCCL_MAX_CTAS=2 NCCL_MULTI_RANK_GPU_ENABLE=1 NCCL_NVLS_ENABLE=0"
    has "$here/output" "8 ranks, adamw, float32: FAILED"
    has "$here/output" "8 ranks, resumed with 3: FAILED"
    has "$here/output" "4 ranks, mars-m, float32: good"
    has "$here/output" "killed rank: FAILED"
    has "$here/output" "stopped rank: FAILED"
    has "$here/output" "no rank names process 1"
    has "$here/output" "| 8 ranks, muon, float32 | 0.2 of the loss | ≤ 0.0001: above |"
    json '[c["found"] > c["limit"] for c in parts["nccl"]["cases"] if c["case"] == "8 ranks, muon, float32"] == [True]'
}

# Nothing is left of a case that hangs, however it is ended.
test_nccl_that_hangs() {
    pretend_nccl
    mkdir "$here/work"
    export FAULT=hang WORK=$here/work TRAINER=$here/stubs/train_gpt2 PYTHON=python3
    for signal in TERM KILL; do
        if [ $signal = KILL ]; then status=137; else status=124; fi
        run "$status" timeout -s $signal 1 bash dev/nccl_case.sh losses 2 adamw float32 1e-5
        bash dev/nccl_case.sh clean
        for rank in 0 1; do
            local process
            process=$(cat "$here/work/ranks/$rank")
            for _ in {1..100}; do [ -d "/proc/$process" ] && sleep 0.05; done
            [ ! -d "/proc/$process" ]
        done
        rm -r "$here/work/ranks"
    done
}

test_nccl_that_is_not_there() {
    pretend_nccl
    MPI=HYDRA check_nccl 0
    has "$here/output" "nccl: skipped (0 s): there is no mpirun of Open MPI"
    rm "$here/include/nccl.h"
    check_nccl 0
    has "$here/output" "nccl: skipped (0 s): NCCL is not installed"
    lacks "$here/calls" "rank 0"
}

# PyTorch's package has no libnccl.so, which the linker looks for.
test_nccl_of_pytorch() {
    pretend_nccl
    rm "$here/include/nccl.h"
    nccl_header "$here/nvidia/nccl/include" 2.28.9
    mkdir -p "$here/nvidia/nccl/lib"
    touch "$here/nvidia/nccl/lib/libnccl.so.2"
    TORCH_NCCL=$here/nvidia/nccl/lib/libnccl.so.2 MPI=HYDRA check_nccl 0
    has "$here/calls" "CPPFLAGS=-isystem $here/nvidia/nccl/include"
    has "$here/calls" "LDFLAGS=-L$here/build/nccl -Wl,-rpath,$here/nvidia/nccl/lib"
    [ -e "$here/build/nccl/libnccl.so" ]
}

# The real script, mpirun and trainer on GPUs that are emulated, where these are under test.
if [ "$device" = cuda ]; then
    test_emulated_nccl() {
        pretend
        command_file "$here/bin/make" <<END
mkdir -p "$here/build" && cp "$BIN/train_gpt2" "$here/build"
END
        # On a busy machine: ranks that wait leave the processor to those that they wait for.
        export PATIENCE=8 MARS_HEARTBEAT_SECONDS=4 OMP_WAIT_POLICY=passive OMPI_MCA_mpi_yield_when_idle=1
        export MARS_EMU_DEVICES=1
        CPPFLAGS=-Idev/emu/include NCCL_MODEL="--n_layer=1 --n_head=1 --n_embd=16 --block_size=8" check 0 nccl
        json 'all(s["status"] == "good" for s in parts["nccl"]["steps"]) and len(parts["nccl"]["steps"]) == 21'
        json 'parts["nccl"]["message passing"].startswith("NCCL 2.28.9, Open MPI")'
        json 'len(parts["nccl"]["cases"]) == 16 and all(c["found"] <= c["limit"] for c in parts["nccl"]["cases"])'
    }
fi

# ---- the benchmarks ----

# bench PROGRAM ARGUMENT...: its figures are in $here/PROGRAM.json.
bench() {
    local program=$1
    shift
    [ -x "$BUILD/$program" ] || run 0 make -s BUILD="$BUILD" "$BUILD/$program"
    run 0 env OMP_WAIT_POLICY=passive "$BUILD/$program" --device="$device" --model=tiny --json="$here/$program.json" \
        "$@"
}

figures() {
    python3 -c 'import json, sys
r = json.load(open(sys.argv[1]))
assert eval(sys.argv[2]), json.dumps(r, indent=1)' "$here/$1.json" "$2"
}

test_bench_kernels() {
    bench bench_kernels --steps=1
    figures bench_kernels 'len(r["kernels"]) > 25'
    figures bench_kernels 'all(k["us"] > 0 or "of the line above" in k["name"] for k in r["kernels"])'
    figures bench_kernels 'r["table"].startswith("'"$device"'-") and r["copy GB/s"] > 0'
    has "$here/output" "residual + layernorm forward"
}

test_bench_optim() {
    bench bench_optim --steps=1
    figures bench_optim '[o["name"] for o in r["optimizers"]][:3] == ["adamw", "mars-adamw", "mars-adamw exact"]'
    figures bench_optim 'r["optimizers"][0]["state, bytes per parameter"] == 8'
    figures bench_optim 'r["optimizers"][-1]["name"] == "average of weights"'
    figures bench_optim 'round(r["optimizers"][-1]["floor, bytes per parameter"]) == 12'
    figures bench_optim 'all(0 < o["one of 8, ms"] < o["step, ms"] for o in r["optimizers"])'
    bench bench_optim --steps=1 --optimizer=muon --precision=float32
    figures bench_optim '[o["name"] for o in r["optimizers"]] == ["muon"]'
}

test_bench_train() {
    bench bench_train --steps=2 --recompute=mlp --batch=3 --optimizer=mars-adamw --debug_alloc=true
    figures bench_train 'r["batch"] == 3 and r["tokens/s"] > 0 and r["optimizer"] == "mars-adamw"'
    figures bench_train 'abs(r["tokens/s"] * r["step, ms"] / (3 * 192 * 1e3) - 1) < 1e-3'
    figures bench_train 'r["one step taken apart, ms"]["attention backward"] > 0'
}

test_options_of_benchmarks() {
    bench bench_train --steps=1
    run 2 "$BUILD/bench_train" --model=huge
    has "$here/output" "there are tiny, small, medium, large and xl"
    run 2 "$BUILD/bench_train" --steps=0
    run 2 "$BUILD/bench_train" --optimizer=adam
    run 2 "$BUILD/bench_train" --depth=3
    has "$here/output" "there are device, precision, steps, threads, model, json, batch, recompute"
}

run_script_tests "$@"
