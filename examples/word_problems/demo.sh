#!/bin/sh
# usage: sh examples/word_problems/demo.sh
# Fine-tunes the shipped model on word problems that it cannot solve: LoRA, BeamLoRA with
# the paper's settings and BeamLoRA with gentler ones, on the same data for the same number
# of steps, each with three seeds; then the table and the pictures. `make demo` builds what it
# needs first. Everything goes to build/demo; an earlier one is replaced.
#   SEEDS="1 2 3 4 5"   other seeds      JOBS=1   one run at a time
set -eu
cd "$(dirname "$0")/../.."

here=examples/word_problems
out=build/demo
base=$here/base
seeds=${SEEDS:-1 2 3}
jobs=${JOBS:-$(getconf _NPROCESSORS_ONLN 2> /dev/null || echo 2)}
OPENBLAS_NUM_THREADS=1 # matrices are small: a run for each core is faster
export OPENBLAS_NUM_THREADS

settings="--data $out/train.jsonl --eval-data $out/test.jsonl --context 127 --batch 16
    --steps 240 --eval-every 30 --lr 5e-3 --rank 8"
gentle="--score-lr-ratio 0.03 --importance contribution --expand fresh"

# One run, its progress with its name in front: demo.sh one NAME SEED FLAGS...
if [ "${1:-}" = one ]; then
    run=$2-$3
    shift 3
    {
        status=0
        # shellcheck disable=SC2086
        build/beamlora train --model $base $settings "$@" --seed "${run##*-}" \
            --out "$out/$run" --overwrite 2>&1 > "$out/$run.txt" || status=$?
        echo "$status" > "$out/$run.status"
    } | while IFS= read -r line; do echo "$run: $line"; done >&2
    exit "$(cat "$out/$run.status")"
fi

mkdir -p $out
build/word_problems train 8000 1 > $out/train.jsonl
build/word_problems test 500 1 > $out/test.jsonl
build/word_problems known 500 1 > $out/known.jsonl

for seed in $seeds; do
    echo "lora $seed --method lora"
    echo "paper $seed --method beamlora"
    echo "gentle $seed --method beamlora $gentle"
done > $out/list
count=$(wc -l < $out/list)
echo "demo: $((count)) runs, $jobs at a time" >&2
xargs -P "$jobs" -L 1 sh $here/demo.sh one < $out/list

runs=
for name in lora paper gentle; do
    for seed in $seeds; do runs="$runs $out/$name-$seed"; done
done
first=${seeds%% *}
# shellcheck disable=SC2086
build/beamlora plot $runs --out $out

echo
echo "The base on stories and sums like those it was trained on, and on the new task:"
build/beamlora eval --model $base --data $out/known.jsonl
build/beamlora eval --model $base --data $out/test.jsonl
echo
echo "After the same data and steps (see $here/README.md):"
# shellcheck disable=SC2086
build/beamlora compare $runs
echo
echo "A problem, by the base and by the paper's BeamLoRA, seed $first:"
problem="Tom has 7 pens, gets 5, doubles them. How many?"
build/beamlora generate --model $base --prompt "$problem" --temperature 0 --tokens 90
build/beamlora generate --model $base --prompt "$problem" --temperature 0 --tokens 90 \
    --adapter "$out/paper-$first"
echo
echo "Pictures: $out/loss.png, $out/paper-$first/importance.png (and .svg, and the others')"
