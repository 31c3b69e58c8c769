#!/bin/sh
# usage: bench.sh BENCH LIBRARY
# The benchmarks run: two subjects on a tiny layer, results that can be read, and a page
# docs/performance.md that is what bench/results say. No time is judged.
# shellcheck source=test/lib.sh
. "$(dirname "$0")/lib.sh"
library=$2

tiny="--shapes 64x48 --n 1,5 --ranks 3 --pairs 6 --threads 2 --out $work/results"
ok "passes" passes $tiny
for against in bare floor; do
    is "a row for n 5 against $against" \
        grep -q "forward+backward *$against *64x48 *5 *3 " "$work/out"
done
ok "two builds" compare $tiny --library "$library" --base "$library"
for step in forward backward step reallocation; do
    is "a row for $step" grep -q "^  $step *base " "$work/out"
done
for subject in passes compare; do
    is "$subject.json" grep -q '"ratio": [0-9]' "$work/results/$subject.json"
done

run passes --shapes 64by48
is "a shape that is none" [ "$status" = 2 ]
run passes --n 0
is "no rows" [ "$status" = 2 ]
run nothing
is "no such subject" [ "$status" = 2 ]
run compare $tiny --library "$work/none.so" --base "$library"
is "no such library" [ "$status" != 0 ]

"$(dirname "$program")/docs" "$here/../bench/results" "$here/../bench/docs/performance.md.in" \
    > "$work/out" 2> "$work/err"
is "docs/performance.md is made from bench/results" \
    cmp -s "$work/out" "$here/../docs/performance.md"

summary bench
