#!/usr/bin/env bash
# test_onednn.sh: tests that no product of a training run falls back to oneDNN's reference implementations, scalar loops
# that take hundreds of times as long, on this processor or on one without bfloat16 or AVX-512 instructions. Prints "N
# passed, N failed" at its end.
# shellcheck source=dev/test/script_fixture.sh
source "$(dirname "$0")/script_fixture.sh"

# no_reference INSTRUCTION_SET TYPE: what oneDNN says of every product of a step, with Newton-Schulz on matrices small and
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
    [ "$count" -ge 100 ] || { echo "only $count products found"; cat "$here/output"; return 1; }
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

run_script_tests "$@"
