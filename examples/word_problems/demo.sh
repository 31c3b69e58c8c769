#!/bin/sh
# usage: sh examples/word_problems/demo.sh
# Fine-tunes the shipped model on word problems that it cannot solve: LoRA, BeamLoRA with
# the paper's settings and BeamLoRA with gentler ones, on the same data for the same number
# of steps, each with three seeds; then the table and the pictures. `make demo` builds what
# it needs first. Everything goes to build/demo; an earlier one is replaced. Environment:
#   SEEDS="1 2 3"  VARIANTS="lora paper gentle" (examples/methods.sh knows more)
#   JOBS=runs at a time (a core each)  OUT=build/demo
set -eu
cd "$(dirname "$0")/../.."

base=examples/word_problems/base
out=${OUT:-build/demo}
seeds=${SEEDS:-1 2 3}
variants=${VARIANTS:-lora paper gentle}

settings="--data $out/train.jsonl --eval-data $out/test.jsonl --context 127 --batch 16
    --steps 240 --eval-every 30 --lr 5e-3 --rank 8"

mkdir -p "$out"
build/word_problems train 8000 1 > "$out/train.jsonl"
build/word_problems test 500 1 > "$out/test.jsonl"
build/word_problems known 500 1 > "$out/known.jsonl"

runs=''
for variant in $variants; do
    for seed in $seeds; do
        runs="$runs $out/$variant-$seed"
        rm -rf "$out/$variant-$seed.ok"
    done
done
# shellcheck disable=SC2086
OUT=$out VARIANTS=$variants SEEDS=$seeds sh examples/methods.sh --model $base $settings \
    > "$out/table.txt"
# shellcheck disable=SC2086
build/beamlora plot $runs --out "$out" > "$out/pictures.txt"

echo
echo "The base, on stories and sums like those it was trained on:"
build/beamlora eval --model $base --data "$out/known.jsonl"
echo "and on the new task:"
build/beamlora eval --model $base --data "$out/test.jsonl"
echo
echo "After the same data and steps:"
cat "$out/table.txt"
echo
problem="Tom has 7 pens, gets 5, doubles them. How many?"
# shellcheck disable=SC2086
set -- $runs
echo "A problem, by the base and by ${1##*/}:"
build/beamlora generate --model $base --prompt "$problem" --temperature 0 --tokens 80
build/beamlora generate --model $base --prompt "$problem" --temperature 0 --tokens 80 \
    --adapter "$1"
echo
echo "Pictures:"
sed -n 's/\.png$/&, .svg/p' "$out/pictures.txt"
