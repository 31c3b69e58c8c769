#!/bin/sh
# usage: probe-cblas.sh DIR CC CFLAGS LIBS
# Can a program with cblas_sgemm be built, and does this CBLAS count with `int`?
set -u
dir=$1 cc=$2 cflags=$3 libs=$4
mkdir -p "$dir"
probe=$dir/cblas_probe

cat > "$probe.c" <<'END'
#include <cblas.h>
int main(void)
{
    float a = 2, b = 3, c = 1;
#ifdef CHECK_INT
    _Static_assert(_Generic(&cblas_sdot,
                            float (*)(int, const float *, int, const float *, int): 1,
                            default: 0), "cblas_sdot takes other integers than int");
#endif
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, 1, 1, 1, 1, &a, 1, &b, 1, 0, &c, 1);
    return c != 6;
}
END

# $cc, $cflags and $libs are lists of words
# shellcheck disable=SC2086
if ! $cc $cflags -std=c11 -o "$probe" "$probe.c" $libs > "$probe.log" 2>&1; then
    sed 's/^/    /' "$probe.log" >&2
    echo "no CBLAS: a program with cblas_sgemm does not build with CBLAS_CFLAGS='$cflags'" \
        "CBLAS_LIBS='$libs'; install one (libopenblas-dev) or set these two" >&2
    exit 1
fi
# shellcheck disable=SC2086
if ! $cc $cflags -std=c11 -DCHECK_INT -fsyntax-only "$probe.c" > "$probe.log" 2>&1; then
    echo "the CBLAS of CBLAS_CFLAGS='$cflags' has 64-bit integers; one with 32-bit integers" \
        "is needed" >&2
    exit 1
fi
rm -f "$probe" "$probe.c" "$probe.log"
