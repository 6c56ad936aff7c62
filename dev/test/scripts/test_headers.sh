#!/usr/bin/env bash
# test_headers.sh: every header compiles on its own, as C17 and as C++17, without a warning: whoever includes it needs
# nothing before it, and device code, which is C++, can include it. train_gpt2.cu is both languages too.
#
# Headers of kernels/cpu that are compiled once for each activation type are tried with both. CUDA's own headers are the
# emulator's here; what is inside the emulator is C++ alone.
set -uo pipefail
cd "$(dirname "$0")/../../.." || exit 1

CC=${CC:-gcc}
CXX=${CXX:-g++}
warnings=(-Wall -Wextra -Werror -fsyntax-only -fopenmp -I. -Idev/emu/include)
passed=0
failed=0

# try NAME COMMAND...: reads the source from standard input.
try() {
    local name=$1 output
    shift
    if output=$("$@" 2>&1); then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAILED: $name"
        echo "$output" | head -n 20
    fi
}

# both HEADER [FLAG]: the header alone. Including it twice shows a missing guard.
both() {
    local header=$1 lines
    shift
    lines=$(printf '#include "%s"\n#include "%s"\n' "$header" "$header")
    [[ $header == dev/emu/* && $header != dev/emu/emu.h ]] || try "$header as C $*" "$CC" -x c -std=c17 -D_GNU_SOURCE "${warnings[@]}" "$@" - <<<"$lines"
    try "$header as C++ $*" "$CXX" -x c++ -std=c++17 -D_GNU_SOURCE "${warnings[@]}" "$@" - <<<"$lines"
}

for header in */*.h */*/*.h dev/test/*/*.h; do
    if grep -q ACTIVATION_BFLOAT16 "$header"; then
        both "$header" -DACTIVATION_BFLOAT16=0
        both "$header" -DACTIVATION_BFLOAT16=1
    else
        both "$header"
    fi
done

try "train_gpt2.cu as C" "$CC" -x c -std=gnu17 -D_GNU_SOURCE "${warnings[@]}" train_gpt2.cu </dev/null
try "train_gpt2.cu as C++" "$CXX" -x c++ -std=gnu++17 -D_GNU_SOURCE "${warnings[@]}" train_gpt2.cu </dev/null

echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
