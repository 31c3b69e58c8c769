#!/bin/sh
# usage: prune.sh BEAMLORA
# Adapters with some of their ranks: `eval --keep-ranks` and `prune`. What is kept must be
# what a run's scores say, all ranks are the whole adapter, none the bare model.
# shellcheck source=test/lib.sh
. "$(dirname "$0")/lib.sh"

# 258 ids: bytes with BOS and EOS
"$tiny" "$work/small.bin" 1 258 || exit 1
for i in 0 1 2 3 4 5 6 7; do
    echo "{\"prompt\": \"$i+1=\", \"completion\": \"$((i + 1))\"}"
done > "$work/sums.jsonl"
small="--model $work/small.bin --tokenizer bytes"
training="$small --data $work/sums.jsonl --eval-data $work/sums.jsonl --batch 4
    --context 16 --lr 3e-2"
ok "a run with scores" train $training --steps 60 --rank 4 --out "$work/run"
ok "a run without" train $training --steps 60 --rank 4 --method lora \
    --out "$work/lora"
sums="eval $small --data $work/sums.jsonl --context 16 --batch 4 --json"

# ----- eval --keep-ranks -----

run $sums
bare=$(number loss)
run $sums --adapter "$work/run"
whole=$(number loss)
less "the adapter has learnt" "$whole" "$bare"
for kind in top bottom random; do
    ok "$kind:0" $sums --adapter "$work/run" --keep-ranks $kind:0
    is "$kind:0 is the bare model, bit for bit" [ "$(number loss)" = "$bare" ]
    for all in 100% 4; do
        ok "$kind:$all" $sums --adapter "$work/run" --keep-ranks $kind:$all
        is "$kind:$all is the whole adapter, bit for bit" [ "$(number loss)" = "$whole" ]
    done
done
near "all ranks" "$(number kept)" 56 0
ok "top" $sums --adapter "$work/run" --keep-ranks top:50%
near "half of them" "$(number kept)" 28 0
is "by importance" grep -q '"kept_by": "importance"' "$work/out"
top=$(number loss)
run $sums --adapter "$work/run" --keep-ranks=bottom:2
bottom=$(number loss)
is "the best are not the worst" [ "$top" != "$bottom" ]
for seed in 1 2 1; do
    run $sums --adapter "$work/run" --keep-ranks random:50%:$seed
    number loss
done > "$work/random"
is "a seed is always the same" \
    [ "$(sed -n 1p "$work/random")" = "$(sed -n 3p "$work/random")" ]
is "another is another" [ "$(sed -n 1p "$work/random")" != "$(sed -n 2p "$work/random")" ]
run $sums --adapter "$work/lora" --keep-ranks top:50%
is "without scores by norm" grep -q '"kept_by": "norm"' "$work/out"
is "that is no surprise" [ ! -s "$work/err" ]
run $sums --adapter "$work/run" --keep-ranks top:3 --keep-scope joint
near "ranks of all modules" "$(number kept)" 3 0
run eval $small --data "$work/sums.jsonl" --adapter "$work/run" --keep-ranks random:25%
is "in words" grep -q '^ranks 14 of 56 kept, by random$' "$work/out"

# the scores decide: turned round, the worst are the best
cp -r "$work/run" "$work/turned"
awk '{ line[NR] = $0 } END {
    for (i = 1; i < NR; i++) print line[i]
    last = line[NR]
    norms = substr(last, index(last, "\"norm\""))
    rest = substr(last, index(last, "[") + 1)
    rest = substr(rest, 1, index(rest, "\"norm\"") - 1)
    printf "%s", substr(last, 1, index(last, "["))
    while (match(rest, /[0-9.][-+0-9.e]*/)) {
        printf "%s%.9g", substr(rest, 1, RSTART - 1), 10 - substr(rest, RSTART, RLENGTH)
        rest = substr(rest, RSTART + RLENGTH)
    }
    printf "%s%s\n", rest, norms
}' "$work/run/ranks.jsonl" > "$work/turned/ranks.jsonl"
run $sums --adapter "$work/turned" --keep-ranks top:2
is "turned round" [ "$(number loss)" = "$bottom" ]
run $sums --adapter "$work/turned" --keep-ranks top:2 --keep-by norm
norm=$(number loss)
run $sums --adapter "$work/run" --keep-ranks top:2 --keep-by norm
is "norms are the adapter's" [ "$(number loss)" = "$norm" ]

# scores of another adapter
mkdir "$work/other"
cp "$work/run/run.json" "$work/run/ranks.jsonl" "$work/run/log.jsonl" "$work/other"
cp "$work/lora/adapter_model.safetensors" "$work/lora/adapter_config.json" "$work/other"
ok "other scores" $sums --adapter "$work/other" --keep-ranks top:2
is "are told" grep -q 'by norm, since .*ranks.jsonl: is not of this adapter' "$work/err"
refused 1 'is not of this adapter' $sums --adapter "$work/other" --keep-ranks top:2 \
    --keep-by importance
refused 1 'has no scores' $sums --adapter "$work/lora" --keep-ranks top:2 \
    --keep-by importance
for text in 50% best:50% top:101% top:-1 top:50%:3 random:2:x ''; do
    refused 2 'keep-ranks' $sums --adapter "$work/run" --keep-ranks "$text"
done
refused 2 'needs --adapter' $sums --keep-ranks top:50%
refused 1 'no module has more than 4' $sums --adapter "$work/run" --keep-ranks top:5
ok "flags without effect" $sums --adapter "$work/run" --keep-by norm
is "are told" grep -q 'no effect without --keep-ranks' "$work/err"

# ----- prune -----

# value KEEP KEPT KEY: of a line in pruning.jsonl
value() {
    sed -n "s/.*\"keep\":\"$1\",\"kept\":$2,.*\"$3\":\\([-0-9.e]*\\)[,}].*/\\1/p" \
        "$work/out.d/pruning.jsonl"
}
# rows: how many ranks those of the table are of
rows() {
    sed -n -e '/^$/q' -e 's/^  \([0-9][0-9]*\) .*/\1/p' "$work/out" | tr '\n' ' '
}
ls -A "$work/run" > "$work/before"
# model, data, tokenizer, context and batch are the run's
ok "a study" prune "$work/run" --out "$work/out.d" --seeds 2 --format none
is "nothing is in the run's folder" [ "$(ls -A "$work/run")" = "$(cat "$work/before")" ]
is "nothing is drawn" [ "$(ls -A "$work/out.d")" = pruning.jsonl ]
is "80 columns" awk 'length($0) > 80 { exit 1 }' "$work/out"
is "a row for every number of ranks" \
    [ "$(rows)" = '0 14 28 42 56 ' ]
is "a line for every evaluation" [ "$(wc -l < "$work/out.d/pruning.jsonl")" = 15 ]
near "none" "$(value none 0 loss)" "$bare" 1e-7
near "all" "$(value all 56 loss)" "$whole" 1e-7
near "top" "$(value top 28 loss)" "$top" 1e-7
near "bottom" "$(value bottom 28 loss)" "$bottom" 1e-7
near "random" "$(value random 28 loss | tail -n 1)" "$(sed -n 1p "$work/random")" 1e-7
near "examples" "$(value top 28 examples)" 8 0
mean=$(value random 28 loss | awk '{ n += $1 } END { print n / NR }')
deviation=$(value random 28 loss | awk '{ x[NR] = $1 } END {
    d = x[1] - x[2]; print (d < 0 ? -d : d) / sqrt(2) }')
near "the table's mean" "$(awk '$1 == 28 { print $7 }' "$work/out")" "$mean" 1e-3
near "the table's deviation" "$(awk '$1 == 28 { print $8 }' "$work/out")" \
    "$deviation" 1e-3
cp "$work/out.d/pruning.jsonl" "$work/first.jsonl"
ok "the same again" prune "$work/run" --out "$work/out.d" --seeds 2 --format none --json
is "the same file" cmp -s "$work/first.jsonl" "$work/out.d/pruning.jsonl"
is "one JSON object" [ "$(wc -l < "$work/out")" = 1 ]
is "with all points" [ "$(grep -o '"keep"' "$work/out" | wc -l)" = 14 ]
ok "shares of all ranks" prune "$work/lora" --out "$work/out.d" --seeds 1 --format none \
    --shares 3 --keep-scope joint --data "$work/eval.txt"
is "in words" grep -q 'largest norm .*, of all modules together' "$work/out"
is "shares" [ "$(rows)" = '0 19 37 56 ' ]
is "text has no examples" [ "$(grep -c exact "$work/out")" = 0 ]

# an adapter alone says nothing of a model
mkdir "$work/adapter"
cp "$work/run"/adapter* "$work/adapter"
refused 2 '--model is required' prune "$work/adapter"
refused 2 '--data is required' prune "$work/adapter" --model "$work/small.bin"
ok "an adapter alone" prune "$work/adapter" $small --data "$work/sums.jsonl" --seeds 1 \
    --shares 2 --format none
is "by norm" grep -q 'of largest norm' "$work/out"
is "the file is beside it" [ -s "$work/adapter/pruning.jsonl" ]
refused 1 'no scores' prune "$work/adapter" $small --data "$work/sums.jsonl" \
    --keep-by importance
ok "a run without --eval-data" train $small --data "$work/sums.jsonl" --batch 4 \
    --context 16 --steps 36 --rank 2 --out "$work/blind"
refused 2 '--data is required: the run does not say it' prune "$work/blind"
ok "a run of all weights" train $training --steps 2 --method full --out "$work/full"
refused 1 'has no ranks' prune "$work/full"
refused 1 'none: No such file' prune "$work/none"
refused 1 'must be a directory' prune "$work/adapter/adapter_model.safetensors"
refused 1 'none/out' prune "$work/run" --out "$work/none/out"
refused 2 'seeds' prune "$work/run" --seeds 0
refused 2 'shares' prune "$work/run" --shares 0

# a run that is overwritten leaves no study behind
ok "a study in the run's folder" prune "$work/lora" --seeds 1 --shares 1 --format none
is "is there" [ -s "$work/lora/pruning.jsonl" ]
ok "overwritten" train $training --steps 36 --rank 2 --out "$work/lora" \
    --overwrite
is "the study is gone" [ ! -e "$work/lora/pruning.jsonl" ]

# ----- the picture -----

PATH_WITHOUT=$work/empty
mkdir "$PATH_WITHOUT"
status=0
PATH=$PATH_WITHOUT "$program" prune "$work/run" --out "$work/plain" --seeds 1 \
    > "$work/out" 2> "$work/err" || status=$?
is "without gnuplot: status $status" [ "$status" = 1 ]
is "without gnuplot: it says so" grep -q '^beamlora: gnuplot is not installed' "$work/err"
is "without gnuplot: the results are there" [ -s "$work/plain/pruning.jsonl" ]
is "without gnuplot: the table, too" grep -q '^  56 ' "$work/out"
if command -v gnuplot > /dev/null; then
    ok "the picture" prune "$work/run" --out "$work/out.d" --seeds 3
    is "a PNG" [ "$(head -c 4 "$work/out.d/pruning.png" | tail -c 3)" = PNG ]
    is "an SVG" grep -q '<svg' "$work/out.d/pruning.svg"
    for text in 'best first' 'worst first' 'at random' 'ranks kept (% of 56)' \
        'mean of 3 seeds' 'importance g' 'completed exactly'; do
        is "the picture says $text" grep -q -F "$text" "$work/out.d/pruning.svg"
    done
    is "their names" [ "$(grep -c 'out.d/pruning\.[ps][nv]g$' "$work/out")" = 2 ]
    is "gnuplot has nothing to say" [ "$(grep -c gnuplot "$work/err")" = 0 ]
    rm "$work/out.d"/pruning.*
    ok "of a text, one seed" prune "$work/run" --out "$work/out.d" --seeds 1 \
        --data "$work/eval.txt" --format svg --json
    is "an SVG alone" [ "$(ls "$work/out.d" | tr '\n' ' ')" = \
        'pruning.jsonl pruning.svg ' ]
    is "nothing but JSON on stdout" [ "$(wc -l < "$work/out")" = 1 ]
else
    echo "prune: no gnuplot, skipped"
fi

summary prune
