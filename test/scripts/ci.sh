#!/bin/sh
# Everything that continuous integration runs, one stage after the other, to the end even if
# one fails. The output of a stage is in $BUILD/ci/ and shown if it fails. The last line is
# that of `make check`, with every other stage that failed counted as one failure more.
set -u
make="${MAKE:-make} --no-print-directory -j$(getconf _NPROCESSORS_ONLN)"
WERROR=1
export WERROR
logs=${BUILD:-build}/ci
mkdir -p "$logs"
failed=

# stage NAME COMMAND...
stage()
{
    name=$1
    shift
    start=$(date +%s)
    if "$@" > "$logs/$name.log" 2>&1; then
        result=ok
    else
        result=FAIL
        failed="$failed $name"
    fi
    printf '%-4s  %-14s %4d s\n' $result "$name" $(($(date +%s) - start))
    if [ $result = FAIL ]; then
        tail -n 100 "$logs/$name.log" | sed 's/^/    /'
    fi
}

# what was left out for want of a tool must not look like a success
skips()
{
    grep -h skipped "$logs"/*.log | sed 's/^/note: /'
}

# shellcheck disable=SC2086 # a command and its arguments
{
    stage all $make all
    # the README's own command
    stage check sh setup.sh check
    for name in header exports abi install format scripts asan-ubsan tsan clang blas \
        sentencepiece interop-files valgrind; do
        stage $name $make check-$name
    done
}
skips

summary=$(grep '^[0-9][0-9]* passed, [0-9][0-9]* failed$' "$logs/check.log" | tail -n 1)
n=0
for name in $failed; do
    case $name in
    check) ;;
    *) n=$((n + 1)) ;;
    esac
done
if [ -z "$summary" ]; then
    summary="0 passed, 1 failed"
fi
if [ -n "$failed" ]; then
    echo "failed stages:$failed"
    p=${summary%% *} f=${summary#* passed, }
    summary="$p passed, $((${f%% *} + n)) failed"
fi
echo "$summary" | tee "$logs/summary"
[ -z "$failed" ]
