#!/bin/sh
# usage: check-abi.sh check|baseline SHARED...
#
# check: compare the ABI of each library with test/abi/NAME.ARCH.abi. Only exit status 0 of
# abidiff passes: 4, "may be incompatible", is what reordered fields get. For the same
# reason the headers are given to abidw on both sides, there are no suppressions, and the
# comparison has to fail for a library that was broken on purpose.
# baseline: write those files.
set -u
mode=$1
shift
arch=$(uname -m)
dir=test/abi
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT

if [ "$arch" != x86_64 ] && [ "$mode" = check ]; then
    echo "abi: the baselines are those of x86_64, this is $arch: skipped"
    exit 0
fi
if ! command -v abidw > /dev/null || ! command -v abidiff > /dev/null; then
    echo "abi: no abidw and abidiff (abigail-tools): skipped"
    [ "$mode" = check ]
    exit
fi

# describe SHARED HEADERS > ABI
describe()
{
    abidw --headers-dir "$2" --drop-private-types --no-show-locs --no-corpus-path \
        --no-comp-dir-path "$1"
}

# Without debug information everything passes: be sure that there is some
has_types()
{
    case $1 in
    *-io*) grep -q "<function-decl name='bl_" "$2" ;;
    *) grep -q "class-decl name='bl_options'" "$2" ;;
    esac
}

status=0
for shared do
    name=$(basename "$shared" .so)
    old=$dir/$name.$arch.abi
    new=$tmp/$name.abi
    if ! describe "$shared" include > "$new" || ! has_types "$name" "$new"; then
        echo "abi: $shared has no debug information (-g)" >&2
        exit 1
    fi
    if [ "$mode" = baseline ]; then
        mkdir -p $dir
        mv "$new" "$old"
        echo "abi: wrote $old"
        continue
    fi
    if ! [ -f "$old" ]; then
        echo "abi: no $old: make abi-baseline" >&2
        status=1
        continue
    fi
    if abidiff --no-added-syms "$old" "$new" > "$tmp/diff" 2>&1; then
        echo "abi: $name ok"
    else
        cat "$tmp/diff" >&2
        echo "abi: $name differs from $old" >&2
        status=1
    fi
done
[ "$mode" = check ] || exit $status

# Nodes of a map that were released are frozen: each old map is how the new one begins
for old in "$dir"/*/*.map; do
    [ -f "$old" ] || continue
    new=$(find lib -name "$(basename "$old")")
    if ! head -c "$(wc -c < "$old")" "$new" | cmp -s - "$old"; then
        echo "abi: $new does not begin with $old" >&2
        status=1
    fi
done

# Two fields of one type change places: a library that is not compatible, and has to be seen
mkdir "$tmp/include"
cp include/*.h "$tmp/include"
awk '/^} bl_options;/ { inside = 0 }
     /^typedef struct bl_options/ { inside = 1 }
     inside && /^ *double +alpha;/ { held = $0; next }
     inside && held && /^ *double +dropout;/ { print; print held; held = ""; swapped = 1; next }
     { print }
     END { exit !swapped }' include/beamlora.h > "$tmp/include/beamlora.h" || {
    echo "abi: alpha and dropout are no longer neighbours in bl_options: choose others" >&2
    exit 1
}
cp -R lib "$tmp/lib"
# CC, CPPFLAGS and the CBLAS flags are lists of words
# shellcheck disable=SC2086
${CC:-cc} -std=c11 -g -O0 -fPIC -fvisibility=hidden -shared -w "-D_Static_assert(a,b)=" \
    -D_POSIX_C_SOURCE=200809L -I"$tmp/include" ${CBLAS_CFLAGS:-} ${CPPFLAGS:-} -o "$tmp/broken.so" "$tmp"/lib/*.c \
    -Wl,--version-script=lib/libbeamlora.map -Wl,-soname,"$(objdump -p "$1" |
        sed -n 's/^ *SONAME *//p')" ${CBLAS_LIBS:-} -lm || exit 1
describe "$tmp/broken.so" "$tmp/include" > "$tmp/broken.abi" || exit 1
if abidiff --no-added-syms "$dir/libbeamlora.$arch.abi" "$tmp/broken.abi" > "$tmp/diff" 2>&1
then
    echo "abi: a library with reordered fields passes: this check does not work" >&2
    exit 1
fi
if ! grep -q dropout "$tmp/diff"; then
    cat "$tmp/diff" >&2
    echo "abi: the broken library fails for another reason than its reordered fields" >&2
    exit 1
fi
echo "abi: a broken library is found out"
exit $status
