#!/bin/sh
# usage: bench.sh BENCH LIBRARY
# The benchmarks run: two subjects on a tiny layer, results that can be read, and a page
# docs/performance.md that is what bench/results say; with gnuplot pictures of both. No time
# is judged.
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

# serve LINES: in $work/out what is answered to them.
serve() {
    status=0
    printf "$1" | "$program" serve $tiny > "$work/out" 2> "$work/err" || status=$?
}

layer='{"kind": "dora", "inputs": 64, "outputs": 48, "n": 5, "rank": 3}\n'
serve "${layer}null\nnull\n"
is "layers for other programs" [ "$status" = 0 ]
is "null for a layer that is made" [ "$(grep -c '^null$' "$work/out")" = 1 ]
is "seconds for each run" [ "$(grep -c '^[0-9][0-9.e-]*$' "$work/out")" = 2 ]
other='{"kind": "other", "inputs": 64, "outputs": 48, "n": 5, "rank": 3}\n'
for line in 'null\n' 'none\n' '{"kind": "dora"}\n' "$other"; do
    serve "$line"
    is "no layer: $line" [ "$status" = 1 ]
done

run passes --shapes 64by48
is "a shape that is none" [ "$status" = 2 ]
run passes --n 0
is "no rows" [ "$status" = 2 ]
run nothing
is "no such subject" [ "$status" = 2 ]
run compare $tiny --library "$work/none.so" --base "$library"
is "no such library" [ "$status" != 0 ]

# page PICTURES...: docs/performance.md, made anew in $work/page
page() {
    "$(dirname "$program")/docs" "$here/../bench/results" \
        "$here/../bench/docs/performance.md.in" "$@" > "$work/page" 2> "$work/err"
}
is "a page" page
is "docs/performance.md is made from bench/results" \
    cmp -s "$work/page" "$here/../docs/performance.md"
for picture in $(sed -n 's/^!\[.*](\(.*\))$/\1/p' "$work/page"); do
    is "docs/$picture" [ -s "$here/../docs/$picture" ]
done

if command -v gnuplot > /dev/null; then
    is "no picture of compare" [ "$(echo "$work/results"/*.png)" = "$work/results/passes.png" ]
    mkdir "$work/pictures"
    is "a page with pictures" page "$work/pictures"
    for picture in results/passes pictures/passes pictures/growth; do
        is "$picture.png" [ "$(head -c 4 "$work/$picture.png" | tail -c 3)" = PNG ]
    done
else
    echo "bench: no gnuplot, skipped"
fi

mkdir "$work/empty"
status=0
PATH=$work/empty "$program" passes $tiny > "$work/out" 2> "$work/err" || status=$?
is "without gnuplot: status $status" [ "$status" = 0 ]
is "without gnuplot: it says so" grep -q '^  no picture: gnuplot is not' "$work/out"
is "without gnuplot: no old picture" [ ! -e "$work/results/passes.png" ]

summary bench
