#!/usr/bin/env bash
# test_libraries.sh: tests how the programs use the libraries that multiply matrices. No matmul of a training run falls
# back to oneDNN's reference implementations, scalar loops that take hundreds of times as long, on this processor or on
# one without bfloat16 or AVX-512 instructions; and cuBLASLt, which is large, is loaded only by runs that need it. Prints
# "N passed, N failed" at its end.
# shellcheck source=dev/test/script_fixture.sh
source "$(dirname "$0")/../script_fixture.sh"

BUILD=$(realpath "${MARS_BUILD:-build}")

# no_reference INSTRUCTION_SET TYPE: what oneDNN says of every matmul of a step, with Newton-Schulz on matrices small and
# large enough for both of its ways.
no_reference() {
    local isa=$1 type=$2 count
    export ONEDNN_MAX_CPU_ISA=$isa DNNL_MAX_CPU_ISA=$isa ONEDNN_VERBOSE=1 DNNL_VERBOSE=1
    run 0 "$BIN/train_gpt2" config/small_muon.json --device=cpu --model.n_layer=1 --model.n_head=5 --model.n_embd=320 \
        --model.block_size=64 --model.vocab_size=256 --data.train=dev/golden/tiny_train.bin \
        --data.val=dev/golden/tiny_val.bin --out_dir="$here/run" --overwrite=true --max_iters=1 --batch_size=2 \
        --total_batch_size=4 --eval_sequences=2 --checkpoint_interval=0 \
        --precision="$type" --optimizer.ns_dtype="$type"
    count=$(grep -cE '^(one)?dnnl?_verbose.*,exec.*,matmul,' "$here/output" || true)
    [ "$count" -ge 100 ] || { echo "only $count matmuls found"; cat "$here/output"; return 1; }
    if grep -E '^(one)?dnnl?_verbose.*,exec.*,matmul,(ref|gemm:ref)' "$here/output"; then return 1; fi
}

for_each_type() {
    local isa=$1 type
    if [ "$(uname -m)" != x86_64 ] || ! ldd "$BIN/train_gpt2" | grep -q libdnnl; then return 0; fi
    for type in float32 bfloat16; do
        no_reference "$isa" $type
    done
}

test_on_this_processor() { for_each_type ALL; }
test_without_bfloat16() { for_each_type AVX512_CORE; }
test_without_avx512() { for_each_type AVX2; }

# call_cublaslt OBJECT: links a program with that object, and runs it.
call_cublaslt() {
    local cuda=${CUDA_HOME:-$(dirname "$(dirname "$(realpath "$(command -v nvcc)")")")}
    printf '%s\n' '#include <cublasLt.h>' '#include <stdio.h>' 'int main(void) {' \
        '    printf("%zu, %s\n", cublasLtGetVersion(), cublasLtGetStatusString(CUBLAS_STATUS_NOT_SUPPORTED));' \
        '}' >"$here/call.c"
    ${CC:-gcc} -I"$cuda/include" -o "$here/call" "$here/call.c" "$1" "$BUILD/libmars.a" -Wl,-rpath,"$cuda/lib64" -ldl -lm
    "$here/call"
}

test_cublaslt_is_loaded_late() {
    local object=$BUILD/kernels/cuda/load_cublaslt.o
    [ -e "$object" ] || return 0
    if ldd "$BIN/train_gpt2" | grep cublas; then return 1; fi
    run 0 call_cublaslt "$object"
    grep -qE '^1[2-9][0-9]{4}, ' "$here/output"
}

test_cublaslt_is_missing() {
    [ -e "$BUILD/kernels/cuda/load_cublaslt.o" ] || return 0
    local cuda=${CUDA_HOME:-$(dirname "$(dirname "$(realpath "$(command -v nvcc)")")")}
    printf '%s\n' '#include <cublasLt.h>' '#undef CUBLAS_VER_MAJOR' '#define CUBLAS_VER_MAJOR 99' >"$here/newer.h"
    ${CC:-gcc} -D_GNU_SOURCE -I. -I"$cuda/include" -include "$here/newer.h" -c -o "$here/newer.o" kernels/cuda/load_cublaslt.c
    run 1 call_cublaslt "$here/newer.o"
    has "$here/output" "libcublasLt.so.99 cannot be loaded: "
    has "$here/output" "install cuBLAS of CUDA 99"
}

run_script_tests "$@"
