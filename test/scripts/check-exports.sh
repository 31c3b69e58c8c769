#!/bin/sh
# usage: check-exports.sh HEADER MAP SHARED STATIC
# Three lists must be one: the names after BL_API in the header, the names in the map, and
# what the shared library exports. The static one may add internal names, prefixed too.
set -u
export LC_ALL=C
header=$1 map=$2 shared=$3 static=$4
nm=${NM:-nm}
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
status=0

# BL_API, type and name stand on one line
sed -n 's/^BL_API [^(]*[ *]\(bl_[a-z0-9_]*\)(.*/\1/p' "$header" | sort > "$tmp/header"
sed -n 's/^ *\(bl_[a-z0-9_]*\);.*/\1/p' "$map" | sort > "$tmp/map"
$nm -D --defined-only "$shared" | awk '$2 != "A" { sub(/@.*/, "", $3); print $3 }' |
    sort > "$tmp/shared"

if [ "$(grep -c '^BL_API' "$header")" -ne "$(wc -l < "$tmp/header")" ]; then
    echo "$header: a BL_API without a name on its line" >&2
    status=1
fi
if ! diff -u --label "$header" --label "$map" "$tmp/header" "$tmp/map" >&2; then
    status=1
fi
if ! diff -u --label "$map" --label "$shared" "$tmp/map" "$tmp/shared" >&2; then
    status=1
fi
$nm -g --defined-only "$static" | awk 'NF == 3 && $3 !~ /^bl_/ { print $3 }' > "$tmp/foreign"
if [ -s "$tmp/foreign" ]; then
    echo "$static: global names without bl_:" >&2
    cat "$tmp/foreign" >&2
    status=1
fi
if ! [ -s "$tmp/header" ]; then
    echo "$header: no BL_API at all" >&2
    status=1
fi

[ $status -eq 0 ] && echo "exports: ok, $(wc -l < "$tmp/header") of $header"
exit $status
