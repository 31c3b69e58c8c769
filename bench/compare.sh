#!/bin/sh
# compare.sh BASE [flags]: this tree's library against that of commit BASE, in one process
set -eu
base=${1:?say against which commit: make bench-compare BASE=rev}
shift
build=${BUILD:-build}
tree=$build/bench/base
commit=$(git rev-parse --verify --short "$base^{commit}")
rm -rf "$tree"
mkdir -p "$tree"
git archive "$commit" | tar -x -C "$tree"
"${MAKE:-make}" -s -C "$tree" BUILD=build build/libbeamlora.so
printf 'this tree against %s\n' "$commit"
"$build/bench/bench" compare --library "$build/libbeamlora.so" \
    --base "$tree/build/libbeamlora.so" --out "$build/bench" "$@"
