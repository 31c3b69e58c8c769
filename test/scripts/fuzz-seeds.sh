#!/bin/sh
# usage: fuzz-seeds.sh DIR BEAMLORA TINY_MODEL
# Inputs for the target `run`: what trainings of every kind leave behind, as one file each.
set -eu
dir=$1 program=$2 tiny=$3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$dir"
OPENBLAS_NUM_THREADS=1
export OPENBLAS_NUM_THREADS

"$tiny" "$work/model.bin"
awk 'BEGIN { for (i = 0; i < 40; i++) printf "line %d\n", i }' > "$work/train.txt"

# run NAME FLAGS...
run()
{
    name=$1
    shift
    "$program" train --model "$work/model.bin" --tokenizer bytes --data "$work/train.txt" \
        --eval-data "$work/train.txt" --context 8 --batch 2 --steps 9 --ranks-every 3 \
        --targets q_proj --rank 2 --out "$work/$name" "$@" > "$work/log" 2>&1 ||
        { cat "$work/log" >&2; exit 1; }
    for file in run.json log.jsonl ranks.jsonl plans.jsonl; do
        # names of no folder of this machine
        sed "s|$work|/w|g" "$work/$name/$file"
        echo @@
    done > "$dir/$name"
}

run lora --method lora
run dora --method dora
run adalora --method adalora --target-rank 1
run beamlora --period 3 --p-start 0.6
run joint --period 3 --p-start 0.6 --scope joint --expand none --score-lr-ratio 9
