#!/usr/bin/env bash
# test_make.sh: tests of the Makefile's options: which compiler it takes, and that other options make other objects.
# Prints "N passed, N failed" at its end. One small object is all that is compiled.
# shellcheck source=dev/test/script_fixture.sh
source "$(dirname "$0")/../script_fixture.sh"

unset MAKEFLAGS MAKELEVEL CC CXX

# compile [OPTION...]: makes one object; prints the commands that ran for it.
compile() { make --no-print-directory V=1 BUILD="$here/build" BIN="$here/build" "$@" "$here/build/util/base.o" 2>&1; }

compiled() { compile "$@" | grep -c -e '-c util/base.c' || true; }

expect() { [ "$2" = "$3" ] || { echo "$1: $2, expected $3"; return 1; }; }

test_same_options_compile_once() {
    expect "the first time" "$(compiled CUDA=0)" 1
    expect "the second time" "$(compiled CUDA=0)" 0
}

test_other_options_compile_anew() {
    local option
    expect "the first time" "$(compiled CUDA=0)" 1
    for option in MPI=0 SANITIZE=undefined ONEDNN=0 CFLAGS=-DNOTHING ARCH=x86-64 ''; do
        # An unknown processor is an error of the compiler, which ran all the same.
        expect "with ${option:-no option}" "$(compiled CUDA=0 ${option:+"$option"})" 1
    done
    expect "without an option again" "$(compiled CUDA=0)" 0
}

test_what_changes_no_object() {
    expect "the first time" "$(compiled CUDA=0)" 1
    expect "with WERROR=1" "$(compiled CUDA=0 WERROR=1)" 0
    ln -s build "$here/other_name"
    make --no-print-directory V=1 CUDA=0 BUILD="$here/other_name" BIN="$here" "$here/other_name/util/base.o" >"$here/output" 2>&1
    lacks "$here/output" "-c util/base.c"
}

test_compiler_is_gcc_or_as_given() {
    compile CUDA=0 -n | grep '^gcc ' >/dev/null || { echo "the default is not gcc"; return 1; }
    CC=cc compile CUDA=0 -n | grep '^cc ' >/dev/null || { echo "CC of the environment is not used"; return 1; }
    compile CUDA=0 -n CC=cc | grep '^cc ' >/dev/null || { echo "CC of the command line is not used"; return 1; }
}

test_wrong_values_are_refused() {
    local wrong
    for wrong in MPI=no ONEDNN=2 CUDA=maybe EMU=yes WERROR=true NCCL=off; do
        ! compile "$wrong" >"$here/output" || return 1
        has "$here/output" "$wrong: expected 0 or 1"
    done
    ! compile "BIN=a folder" >"$here/output" || return 1
    has "$here/output" "BIN=a folder: expected a path without blanks"
    ! compile CC=no_such_compiler >"$here/output" || return 1
    has "$here/output" "CC=no_such_compiler: there is no program no_such_compiler"
    compile CUDA=0 "MPI=0 " -n >"$here/output"
    lacks "$here/output" mpicc
}

# Another version of a library is installed in the same place.
test_other_versions_of_headers_compile_anew() {
    make --no-print-directory CUDA=0 found 2>&1 | grep -q 'oneDNN *found' || return 0
    expect "the first time" "$(compiled CUDA=0)" 1
    mkdir -p "$here/include/oneapi/dnnl"
    printf '#include_next <oneapi/dnnl/dnnl_version.h>\n#undef DNNL_VERSION_PATCH\n#define DNNL_VERSION_PATCH 99\n' \
        >"$here/include/oneapi/dnnl/dnnl_version.h"
    expect "with another version" "$(CPATH=$here/include compiled CUDA=0)" 1
    expect "with it again" "$(CPATH=$here/include compiled CUDA=0)" 0
}

run_script_tests "$@"
