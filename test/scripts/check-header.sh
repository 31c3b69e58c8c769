#!/bin/sh
# The public headers compile alone, in C99 and C++11 and later, by every compiler there is,
# with no warning; their structs have no hidden padding; they include nothing but
# <stddef.h>, <stdint.h> and each other.
set -u
passed=0 failed=0

try()
{
    if "$@"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "failed: $*" >&2
    fi
}

strict='-fsyntax-only -Iinclude -pedantic -Wall -Wextra -Wpadded -Wundef -Werror'
for source in test/header_*.c; do
    case $source in
    *_io.c) test -f include/beamlora_io.h || continue ;;
    esac
    for cc in ${CC:-cc} gcc clang; do
        command -v "${cc%% *}" > /dev/null || continue
        for std in c99 c11; do
            # shellcheck disable=SC2086
            try $cc -std=$std $strict -Wstrict-prototypes "$source"
        done
    done
    for cxx in g++ clang++; do
        command -v $cxx > /dev/null || continue
        for std in c++11 c++17; do
            # shellcheck disable=SC2086
            try $cxx -x c++ -std=$std $strict "$source"
        done
    done
done

for header in include/*.h; do
    others=$(grep -h '^ *# *include' "$header" |
        grep -v -e '<stddef.h>' -e '<stdint.h>' -e '"beamlora.h"')
    try test -z "$others"
done

echo "header: $passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
