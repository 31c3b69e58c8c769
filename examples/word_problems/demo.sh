#!/bin/sh
# usage: sh examples/word_problems/demo.sh
# Fine-tunes the shipped model on word problems that it cannot solve: LoRA, BeamLoRA with
# the paper's settings and BeamLoRA with gentler ones, on the same data for the same number
# of steps, each with three seeds; then the table and the pictures. `make demo` builds what
# it needs first. Everything goes to build/demo; an earlier one is replaced. Environment:
#   SEEDS="1 2 3"  VARIANTS="lora paper gentle"  JOBS=runs at a time (a core each)
#   OUT=build/demo
set -eu
cd "$(dirname "$0")/../.."

base=examples/word_problems/base
out=${OUT:-build/demo}
seeds=${SEEDS:-1 2 3}
variants=${VARIANTS:-lora paper gentle}
jobs=${JOBS:-$(getconf _NPROCESSORS_ONLN 2> /dev/null || echo 2)}
OPENBLAS_NUM_THREADS=1 # matrices are small: a run for each core is faster
export OPENBLAS_NUM_THREADS

settings="--data $out/train.jsonl --eval-data $out/test.jsonl --context 127 --batch 16
    --steps 240 --eval-every 30 --lr 5e-3 --rank 8"

flags_of() {
    case $1 in
    lora | rslora | dora | beamlora+dora | adalora) echo "--method $1" ;;
    paper) echo "--method beamlora" ;;
    published | tightening) echo "--method beamlora --preset $1" ;;
    scores) echo "--method beamlora --no-reallocation" ;;
    # scores move slowly, a rank counts by what it adds, a new one starts from nothing
    gentle) echo "--method beamlora --score-lr-ratio 0.03 --importance contribution" \
        "--expand fresh" ;;
    *)
        echo "demo: no variant $1" >&2
        exit 2
        ;;
    esac
}

# One run, its progress with its name in front: demo.sh one NAME SEED FLAGS...
if [ "${1:-}" = one ]; then
    run=$2-$3 seed=$3
    shift 3
    {
        status=0
        # shellcheck disable=SC2086
        build/beamlora train --model $base $settings "$@" --seed "$seed" \
            --out "$out/$run" --overwrite 2>&1 > "$out/$run.txt" || status=$?
        echo "$status" > "$out/$run.status"
    } | while IFS= read -r line; do echo "$run: $line"; done >&2
    exit "$(cat "$out/$run.status")"
fi

mkdir -p "$out"
build/word_problems train 8000 1 > "$out/train.jsonl"
build/word_problems test 500 1 > "$out/test.jsonl"
build/word_problems known 500 1 > "$out/known.jsonl"

runs='' list=''
for variant in $variants; do
    for seed in $seeds; do runs="$runs $out/$variant-$seed"; done
done
for seed in $seeds; do
    for variant in $variants; do
        list="$list$variant $seed $(flags_of "$variant")
"
    done
done
printf '%s' "$list" | xargs -P "$jobs" -L 1 sh examples/word_problems/demo.sh one
# shellcheck disable=SC2086
build/beamlora plot $runs --out "$out" > "$out/pictures.txt"

echo
echo "The base, on stories and sums like those it was trained on:"
build/beamlora eval --model $base --data "$out/known.jsonl"
echo "and on the new task:"
build/beamlora eval --model $base --data "$out/test.jsonl"
echo
echo "After the same data and steps:"
# shellcheck disable=SC2086
build/beamlora compare $runs
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
