#!/bin/sh
# usage: fuzz.sh DIR SECONDS NAME...
# Run the fuzzers DIR/NAME one after the other, each for so many seconds, from the inputs in
# test/fuzz/corpus/NAME, those in DIR/../seeds/NAME, which fuzz_seeds wrote, and those that
# earlier runs have left in DIR/corpus/NAME. One line for each; what makes one crash, and its
# log, stay in DIR.
set -u
dir=$1 seconds=$2
shift 2
status=0

# files of the targets are many and small: in memory where there is a place for that
base=${TMPDIR:-/tmp}
if [ -z "${TMPDIR:-}" ] && [ -w /dev/shm ]; then
    base=/dev/shm
fi
TMPDIR=$(mktemp -d "$base/bl-fuzz-XXXXXX") || exit 1
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT
trap 'exit 1' HUP INT TERM

OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1
export OPENBLAS_NUM_THREADS OMP_NUM_THREADS
# memory for what a hostile file asks for is refused, not an error
ASAN_OPTIONS="allocator_may_return_null=1:${ASAN_OPTIONS:-}"
export ASAN_OPTIONS

for name do
    mkdir -p "$dir/corpus/$name"
    seeds=$dir/../seeds/$name
    if [ ! -d "$seeds" ]; then
        seeds=
    fi
    # shellcheck disable=SC2086 # FUZZ_FLAGS is a list
    if "$dir/$name" -max_total_time="$seconds" -timeout=20 -max_len=8192 \
        -artifact_prefix="$dir/crash-$name-" -dict=test/fuzz/words -print_final_stats=1 \
        ${FUZZ_FLAGS:-} "$dir/corpus/$name" "test/fuzz/corpus/$name" ${seeds:+"$seeds"} \
        > "$dir/$name.log" 2>&1; then
        result=ok
    else
        result=FAIL
        status=1
    fi
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$dir/$name.log")
    printf '  %-4s  %-14s %9s runs\n' $result "$name" "${runs:-?}"
    if [ $result = FAIL ]; then
        grep -v '^#' "$dir/$name.log" | tail -n 40 | sed 's/^/        /'
    fi
done
exit $status
