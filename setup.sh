#!/bin/sh
# usage: sh setup.sh demo     install what is missing, build, fine-tune the shipped model
#        sh setup.sh check    install what is missing, build, run all tests
# Installs with apt on Debian and Ubuntu, as root or through sudo; elsewhere it says what
# is missing. Where nothing is missing, neither root nor a network is needed.
set -eu
cd "$(dirname "$0")"

usage() {
    sed -n 's/^# usage: /usage: /p; s/^#        sh/       sh/p' setup.sh >&2
    exit 2
}
[ $# = 1 ] || usage
job=$1
case $job in demo | check) ;; *) usage ;; esac

has() {
    command -v "$1" > /dev/null 2>&1
}

has_library() {
    for name in "$@"; do
        if pkg-config --exists "$name" 2> /dev/null; then return 0; fi
    done
    return 1
}

compiles() {
    has "${CC:-cc}" && printf '#include <stdio.h>\nint main(void) { return 0; }\n' |
        "${CC:-cc}" -x c -o /dev/null - 2> /dev/null
}

# A line for everything that is missing: Debian's package, what it is.
missing() {
    compiles || echo "gcc libc6-dev: a C compiler with its headers"
    has make || echo "make: GNU make"
    has pkg-config || echo "pkg-config: pkg-config or pkgconf"
    has_library openblas cblas blas blas-netlib blis ||
        echo "libopenblas-dev: a CBLAS with headers: OpenBLAS, BLIS or the reference BLAS"
    has_library jansson || echo "libjansson-dev: jansson with headers"
    if [ "$job" = check ]; then
        has_library check || echo "check: Check, the C test framework"
    fi
    has gnuplot || echo "gnuplot-nox: gnuplot, for the pictures"
}

install_missing() {
    list=$(missing)
    [ -n "$list" ] || return 0
    packages=$(echo "$list" | sed 's/:.*//' | tr '\n' ' ')
    if ! has apt-get; then
        echo "setup: missing, please install:" >&2
        echo "$list" | sed 's/^[^:]*: /    /' >&2
        exit 1
    fi
    sudo=
    if [ "$(id -u)" != 0 ]; then
        if ! has sudo; then
            echo "setup: missing; as root:  apt-get install $packages" >&2
            exit 1
        fi
        sudo=sudo
    fi
    echo "setup: installing $packages"
    # shellcheck disable=SC2086  # a list of words
    { $sudo apt-get -qq update &&
        $sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y \
            --no-install-recommends $packages > /dev/null; } || {
        echo "setup: apt-get could not install $packages" >&2
        exit 1
    }
    list=$(missing)
    if [ -n "$list" ]; then
        echo "setup: installed, but still missing:" >&2
        echo "$list" | sed 's/^/    /' >&2
        exit 1
    fi
}

jobs=$(getconf _NPROCESSORS_ONLN 2> /dev/null || echo 2)
install_missing
echo "setup: building"
case $job in
demo)
    exec make -s -j"$jobs" demo
    ;;
check)
    make -s -j"$jobs" all tests
    exec make --no-print-directory check
    ;;
esac
