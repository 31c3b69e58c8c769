#!/bin/sh
# usage: check-docs.sh BUILD
# The first C block of README.md is a whole program that builds and runs; every C block in
# docs/*.md below a line <!-- examples/NN_x.c --> stands in that file as it is.
set -u
build=$1
cc=${CC:-cc}
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
passed=0 failed=0

good()
{
    passed=$((passed + 1))
}

bad()
{
    failed=$((failed + 1))
    echo "$*"
}

if [ -f README.md ]; then
    awk '/^```c$/ && !n { n = 1; next } /^```/ && n == 1 { n = 2 } n == 1' README.md \
        > "$tmp/readme.c"
    # examples are built in every configuration; so is this
    # shellcheck disable=SC2086
    if ! [ -s "$tmp/readme.c" ]; then
        bad "README.md: no C block"
    elif ! $cc -std=c11 -Wall -Wextra -Werror ${SANITIZE:-} ${CPPFLAGS:-} ${CFLAGS:-} -Iinclude \
        -o "$tmp/readme" "$tmp/readme.c" -L"$build" -lbeamlora -lm \
        -Wl,-rpath,"$PWD/$build" ${LDFLAGS:-}; then
        bad "README.md: the example does not build"
    elif ! "$tmp/readme" > "$tmp/out" 2>&1; then
        cat "$tmp/out"
        bad "README.md: the example fails"
    else
        good
    fi
fi

# verbatim FILE BLOCK: BLOCK's lines stand in FILE, one after the other, equally indented
verbatim()
{
    awk 'function bare(s) { sub(/^ +/, "", s); sub(/[ \t]+$/, "", s); return s }
         NR == FNR { want[++n] = bare($0); next }
         { have[++m] = bare($0) }
         END {
             for (i = 1; i + n - 1 <= m; i++) {
                 for (j = 1; j <= n && have[i + j - 1] == want[j]; j++) { }
                 if (j > n) { exit 0 }
             }
             exit 1
         }' "$2" "$1"
}

for page in docs/*.md; do
    [ -f "$page" ] || continue
    # every marked block to a file of its own, named by the example and the line
    rm -f "$tmp"/block.*
    awk -v dir="$tmp" '
        /^<!-- examples\/[^ ]* -->$/ { name = $2; sub(/.*\//, "", name); next }
        /^```c$/ && name { file = dir "/block." NR "." name; printf "" > file; next }
        /^```/ && file { close(file); file = ""; name = ""; next }
        file { print > file; next }
        NF { name = "" }' "$page"
    for block in "$tmp"/block.*; do
        [ -f "$block" ] || continue
        rest=${block##*/block.}
        line=${rest%%.*} example=examples/${rest#*.}
        if ! [ -f "$example" ]; then
            bad "$page:$line: no $example"
        elif ! [ -s "$block" ]; then
            bad "$page:$line: an empty block"
        elif ! verbatim "$example" "$block"; then
            bad "$page:$line: does not stand like this in $example"
        else
            good
        fi
    done
done

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
