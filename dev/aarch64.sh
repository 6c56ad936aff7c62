#!/usr/bin/env bash
# aarch64.sh sysroot FOLDER        fetches Debian's arm64 libraries that the build needs, into a folder of their own
# aarch64.sh make FOLDER ARGUMENT...   runs make for aarch64 with these libraries
# aarch64.sh run FOLDER COMMAND...     runs an aarch64 program by qemu-user, with these libraries
#
# The machine itself stays as it is: apt works here with a list of packages of its own, and needs no root. It takes
# Debian's cross compiler (gcc-aarch64-linux-gnu), and qemu-user to run what it made; scripts/install_deps.sh
# --compilers installs both. MPI and CUDA are left out: ARGUMENTs such as ONEDNN=0 come after those given here.
set -euo pipefail

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; }
complain() { echo "aarch64.sh: $1" >&2; exit 2; }

packages=(libcjson-dev libxxhash-dev libdnnl-dev libutf8proc-dev zlib1g-dev libzstd-dev liblzma-dev libcmocka-dev)

# apt_arm64 ARGUMENT...: apt-get of an imagined arm64 machine with nothing installed.
apt_arm64() {
    apt-get -q -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Dir::State="$state" \
        -o Dir::State::status="$state/status" -o Dir::Cache="$state/cache" -o Debug::NoLocking=true "$@"
}

# The packages and the libraries that they are links to, as URLs.
list_urls() { apt_arm64 install --no-install-recommends --print-uris -y "${packages[@]}" | sed -n "s/^'\([^']*\)'.*/\1/p"; }

# Packages of the system proper come with the cross compiler; of an installation from nothing they would be most.
is_needed() { case $1 in */lib*dnnl* | */libcjson* | */libxxhash* | */libutf8proc* | */zlib1g* | */libzstd* | */liblzma* | */libcmocka*) ;; *) return 1 ;; esac; }

fetch_sysroot() {
    local root url names=()
    command -v apt-get >/dev/null || complain "sysroot: this machine has no apt-get"
    mkdir -p "$1"
    root=$(realpath "$1")
    state=$root/apt
    mkdir -p "$state/lists/partial" "$state/cache/archives/partial" "$state/debs"
    : >"$state/status"
    apt_arm64 update
    for url in $(list_urls); do
        is_needed "$url" || continue
        url=${url##*/}
        names+=("${url%%_*}")
    done
    [ ${#names[@]} -ge ${#packages[@]} ] || complain "sysroot: apt knows only ${names[*]:-nothing} of ${packages[*]} for arm64"
    (cd "$state/debs" && apt_arm64 download "${names[@]}")
    for url in "$state"/debs/*.deb; do dpkg -x "$url" "$root"; done
    rm -rf "$state"
}

libraries=usr/lib/aarch64-linux-gnu
[ $# -ge 2 ] || { usage >&2; exit 2; }
root=$(realpath -m "$2")
case $1 in
    sysroot)
        fetch_sysroot "$2"
        ;;
    make)
        [ -d "$root/usr/include" ] || complain "$2/usr/include is missing; aarch64.sh sysroot $2 makes it"
        exec make CC=aarch64-linux-gnu-gcc CXX=aarch64-linux-gnu-g++ ARCH=armv8-a CUDA=0 MPI=0 \
            CPPFLAGS="-isystem $root/usr/include" \
            LDFLAGS="-L$root/$libraries -L$root/lib/aarch64-linux-gnu -Wl,-rpath-link,$root/$libraries:$root/lib/aarch64-linux-gnu" \
            "${@:3}"
        ;;
    run)
        # qemu 7 takes /proc/self/exe for itself, so the programs must not execute themselves again (util/program.h).
        export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
        exec qemu-aarch64 -L /usr/aarch64-linux-gnu -E LD_LIBRARY_PATH="$root/$libraries:$root/lib/aarch64-linux-gnu" "${@:3}"
        ;;
    *) complain "unknown command $1; there are sysroot, make and run" ;;
esac
