#!/usr/bin/env bash
# install_deps.sh [--lint] [--compilers] [--emu] [--fuzz] [--browser]: installs what the build, the tests and the plots
# need and this machine lacks.
#
#   --lint        also the tools of `make lint`
#   --compilers   also the other compilers that the tests try: GCC 11, Clang, and one for aarch64 with qemu-user
#   --emu         also what the emulated GPU of the tests needs
#   --fuzz        also what `make fuzz` needs
#   --browser     also a browser without a window, in which the tests open the page of report.sh
#
# It tries each item (does a program of two lines compile and link?), so libraries that were installed by other means
# count. It installs the rest with apt on Debian and Ubuntu, as root or through sudo; without either, it prints the
# command to run. On other systems it prints the list of what is missing. The exit status is 1 if something is still
# missing that the build needs, else 0.
set -euo pipefail

lint=no
compilers=no
emu=no
fuzz=no
browser=no
for argument in "$@"; do
    case $argument in
        --lint) lint=yes ;;
        --compilers) compilers=yes ;;
        --emu) emu=yes ;;
        --fuzz) fuzz=yes ;;
        --browser) browser=yes ;;
        -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
        *)
            echo "install_deps.sh: unknown argument $argument; expected --lint, --compilers, --emu, --fuzz or" \
                "--browser; see --help" >&2
            exit 2
            ;;
    esac
done

# ---- what is needed: a check, the Debian packages that satisfy it, and the effect if they are missing ----

has_command() { command -v "$1" >/dev/null 2>&1; }

# Whether a program with these includes links with these libraries.
links() {
    local command headers=$2 header
    read -ra command <<<"$1" # it may have options, or be "ccache gcc"
    shift 2
    has_command "${command[0]}" || return 1
    {
        for header in $headers; do echo "#include <$header>"; done
        echo 'int main(void) { return 0; }'
    } | "${command[@]}" -x c - -o /dev/null "$@" >/dev/null 2>&1
}

links_cxx() {
    local command
    read -ra command <<<"${CXX:-g++}"
    has_command "${command[0]}" && printf '#include <%s>\nint main() {}\n' "$1" |
        "${command[@]}" -x c++ - -o /dev/null "$2" >/dev/null 2>&1
}

# Debian's package is for Debian's Python, which need not be the first in PATH.
has_numpy() { python3 -c 'import numpy' >/dev/null 2>&1 || /usr/bin/python3 -c 'import numpy' >/dev/null 2>&1; }

# report_page.py knows the folders to look in.
has_dygraphs() {
    PYTHONPATH=${BASH_SOURCE[0]%/*} python3 -Bc 'import report_page; report_page.dygraphs_folder()' >/dev/null 2>&1
}

# libFuzzer and each sanitizer's runtime may be missing although clang is there.
has_fuzzer() { has_command clang && echo 'int LLVMFuzzerTestOneInput(void) { return 0; }' |
    clang -x c - -o /dev/null -fsanitize=fuzzer,address,undefined >/dev/null 2>&1; }

compiler=${CC:-gcc}

has() {
    case $1 in
        compiler) links "$compiler" stdio.h -fopenmp ;;
        cjson) links "$compiler" cjson/cJSON.h -lcjson ;;
        xxhash) links "$compiler" xxhash.h -lxxhash ;;
        onednn) links "$compiler" oneapi/dnnl/dnnl.h -ldnnl ;;
        utf8proc) links "$compiler" utf8proc.h -lutf8proc ;;
        zlib) links "$compiler" zlib.h -lz ;;
        zstd) links "$compiler" zstd.h -lzstd ;;
        lzma) links "$compiler" lzma.h -llzma ;;
        boost-context) links_cxx boost/context/detail/fcontext.hpp -lboost_context ;;
        mpi) has_command mpirun && links mpicc mpi.h ;;
        cmocka) links "$compiler" "stdarg.h stddef.h stdint.h setjmp.h cmocka.h" -lcmocka ;;
        clang) links clang omp.h -fopenmp ;;
        libfuzzer) has_fuzzer ;;
        numpy) has_numpy ;;
        dygraphs) has_dygraphs ;;
        browser) has_command chromium-headless-shell || has_command chromium ;;
        *) has_command "$1" ;;
    esac
}

required=(compiler make cjson xxhash)
optional=(onednn utf8proc zlib zstd lzma mpi cmocka g++ gnuplot curl python3 numpy dygraphs ip)
[ "$lint" = no ] || optional+=(clang-format clang-tidy cppcheck shellcheck)
[ "$compilers" = no ] || optional+=(gcc-11 g++-11 clang aarch64-linux-gnu-gcc qemu-aarch64)
[ "$fuzz" = no ] || optional+=(libfuzzer llvm-symbolizer)
[ "$browser" = no ] || optional+=(browser)

# Only on x86_64 does the emulator switch stacks without boost-context.
if [ "$emu" = yes ] && [ "$(uname -m)" != x86_64 ]; then optional+=(boost-context); fi

declare -A packages=(
    [compiler]="gcc libc6-dev"
    [make]=make
    [cjson]=libcjson-dev
    [xxhash]=libxxhash-dev
    [onednn]=libdnnl-dev
    [utf8proc]=libutf8proc-dev
    [zlib]=zlib1g-dev
    [zstd]=libzstd-dev
    [lzma]=liblzma-dev
    [mpi]="libopenmpi-dev openmpi-bin"
    [cmocka]=libcmocka-dev
    [g++]=g++
    [gnuplot]=gnuplot-nox
    [curl]="curl ca-certificates"
    [python3]=python3
    [numpy]=python3-numpy
    [dygraphs]=libjs-dygraphs
    [ip]=iproute2
    [browser]=chromium-headless-shell
    [boost-context]=libboost-context-dev
    [gcc-11]="gcc-11"
    [g++-11]="g++-11"
    [clang]="clang libomp-dev"
    [aarch64-linux-gnu-gcc]="gcc-aarch64-linux-gnu libc6-dev-arm64-cross"
    [qemu-aarch64]="qemu-user"
    [libfuzzer]="clang libclang-rt-dev"
    [llvm-symbolizer]=llvm
    [clang-format]=clang-format
    [clang-tidy]=clang-tidy
    [cppcheck]=cppcheck
    [shellcheck]=shellcheck
)
declare -A without=(
    [onednn]="matmuls run as plain loops, which is slow"
    [utf8proc]="there is no gpt2 tokenizer"
    [zlib]="prepare_data cannot read .gz"
    [zstd]="prepare_data cannot read .zst"
    [lzma]="prepare_data cannot read .xz"
    [mpi]="training runs in one process"
    [cmocka]="the tests cannot be built"
    [g++]="a test fails that compiles the headers as C++"
    [gnuplot]="there are no plots"
    [curl]="texts and data sets cannot be downloaded"
    [python3]="runs have no plots or tables, data sets cannot be downloaded, CUDA code is not tested without a GPU"
    [numpy]="a test of dev/examples/marsopt.py fails"
    [dygraphs]="report.sh makes no page"
    [ip]="the tests do not train on several hosts"
    [browser]="the tests do not open the page of report.sh"
    [boost-context]="CUDA code is not tested without a GPU"
    [gcc-11]="the tests do not try this compiler"
    [g++-11]="the tests do not try this compiler"
    [clang]="the tests do not try this compiler"
    [aarch64-linux-gnu-gcc]="the tests do not try this processor"
    [qemu-aarch64]="the tests run nothing on this processor"
    [libfuzzer]="make fuzz fails"
    [llvm-symbolizer]="a fuzzer's findings name no lines"
    [clang-format]="make lint fails"
    [clang-tidy]="make lint fails"
    [cppcheck]="make lint fails"
    [shellcheck]="make lint fails"
)

# ---- what is missing ----

missing=()
find_missing() {
    local need
    missing=()
    for need in "${required[@]}" "${optional[@]}"; do
        has "$need" || missing+=("$need")
    done
}

is_required() { [[ " ${required[*]} " == *" $1 "* ]]; }

# Says what is still missing and what that means. Fails if the build needs any of it.
report_missing() {
    local need failed=0
    for need in "${missing[@]}"; do
        if is_required "$need"; then
            echo "missing: ${packages[$need]} (required)" >&2
            failed=1
        else
            echo "missing: ${packages[$need]} (optional; without it, ${without[$need]})" >&2
        fi
    done
    return $failed
}

find_missing
if [ ${#missing[@]} -eq 0 ]; then
    echo "everything needed is installed"
    exit 0
fi
if ! has_command apt-get; then
    echo "this system has no apt-get; install in its own way what is missing, named here as Debian does" >&2
    report_missing
    exit
fi

# ---- apt ----

wanted=()
for need in "${missing[@]}"; do
    read -ra names <<<"${packages[$need]}"
    wanted+=("${names[@]}")
done

as_root=()
if [ "$(id -u)" -ne 0 ]; then
    if ! has_command sudo; then
        echo "installing needs root; as root, run" >&2
        echo "    apt-get update && apt-get install -y --no-install-recommends ${wanted[*]}" >&2
        report_missing
        exit
    fi
    as_root=(sudo)
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
# Prints apt's output only if apt fails. Waits for another apt to finish instead of failing.
apt_get() {
    local status=0
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=120 "$@" \
        >"$log" 2>&1 </dev/null || status=$?
    [ $status -eq 0 ] || { echo "apt-get $* failed:" >&2; tail -n 20 "$log" >&2; }
    return $status
}

echo "updating the list of packages"
apt_get update || true # an old list may be enough, and a missing package is reported below
available=()
for name in "${wanted[@]}"; do
    # Not every release has every library.
    if apt-cache show --no-all-versions "$name" >/dev/null 2>&1; then available+=("$name"); fi
done
if [ ${#available[@]} -gt 0 ]; then
    echo "installing ${available[*]}"
    apt_get install -y --no-install-recommends "${available[@]}" || exit 1
fi
find_missing
if [ ${#missing[@]} -eq 0 ]; then
    echo "everything needed is installed"
else
    report_missing
fi
