#!/bin/sh
# `make check-numbers` with every CBLAS that is installed: OpenBLAS, with each of its kernels
# that have ways of their own in the library, the reference BLAS, BLIS. Each is named by its
# own directory, and found there at run time too, whatever the system's default is. In
# $BUILD/blas-NAME.
set -u
make=${MAKE:-make}
build=${BUILD:-build}
cc=${CC:-cc}
multiarch=$($cc -print-multiarch 2>/dev/null)
status=0 tried=0

# first FILE...: the first that exists
first()
{
    for f do
        if [ -e "$f" ]; then
            echo "$f"
            return
        fi
    done
    return 1
}

# run NAME HEADER LIBRARY [CORE...]: with the kernels that OpenBLAS takes, or those for CORE
run()
{
    name=$1 header=$2 library=$3
    shift 3
    dir=$build/blas-$name
    libdir=${library%/*}
    base=${library##*/}
    base=${base#lib}
    # one header of the right name, whatever it is called here
    mkdir -p "$dir/include"
    echo "#include \"$header\"" > "$dir/include/cblas.h"
    echo "== $name: $library"
    tried=$((tried + 1))
    for core in "${@:-}"; do
        if [ -n "$core" ]; then
            echo "== $name: kernels for $core"
            OPENBLAS_CORETYPE=$core
            export OPENBLAS_CORETYPE
        fi
        $make --no-print-directory check-numbers BUILD="$dir" \
            CBLAS_CFLAGS="-I$dir/include -I${header%/*}" \
            CBLAS_LIBS="-L$libdir -l${base%.so} -Wl,-rpath,$libdir" || status=1
    done
    unset OPENBLAS_CORETYPE
    # was it this one that ran?
    if ! ldd "$dir/libbeamlora.so" | grep -q -F " => $libdir/"; then
        echo "$dir/libbeamlora.so does not use a library of $libdir" >&2
        status=1
    fi
}

inc="/usr/include/$multiarch"
lib="/usr/lib/$multiarch"

if h=$(first "$inc"/openblas-*/cblas.h /usr/include/openblas/cblas.h) &&
    l=$(first "$lib"/openblas-*/libopenblas.so /usr/lib64/libopenblas.so); then
    # the second copies no small operands, see lib/product.c
    if grep -q avx512vl /proc/cpuinfo 2> /dev/null; then
        run openblas "$h" "$l" Haswell SkylakeX
    else
        run openblas "$h" "$l"
    fi
else
    echo "== openblas: not installed, skipped"
fi
if h=$(first "$inc/cblas-netlib.h" /usr/include/cblas/cblas.h) &&
    l=$(first "$lib/blas/libblas.so" /usr/lib64/libcblas.so); then
    run reference "$h" "$l"
else
    echo "== reference: not installed, skipped"
fi
if h=$(first "$inc"/blis-*/cblas.h /usr/include/blis/cblas.h) &&
    l=$(first "$lib"/blis-*/libblis.so /usr/lib64/libblis.so); then
    run blis "$h" "$l"
else
    echo "== blis: not installed, skipped"
fi

[ "$tried" -gt 0 ] || echo "blas: none found" >&2
[ "$tried" -gt 0 ] && exit $status
