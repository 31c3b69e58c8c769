#!/bin/sh
# usage: OUT=DIR sh examples/methods.sh FLAGS...
# Trains a model by several methods with several seeds, on the same data for the same number
# of steps, and prints the table that compares them; FLAGS are those of `beamlora train` that
# all have in common. Needs the program (`make program`). Environment:
#   VARIANTS="lora paper gentle"    names below
#   SEEDS="1 2 3 4 5"
#   LRS="full=1e-3 adalora=3e-2"    learning rates of variants that want their own
#   JOBS=2                          runs at a time, one for each core
# Each run's folder is OUT/VARIANT-SEED. What is finished stays, so that more variants and
# seeds can be added; remove OUT to begin anew.
set -eu

program=$(dirname "$0")/../build/beamlora
variants=${VARIANTS:-lora paper gentle}
seeds=${SEEDS:-1 2 3 4 5}
jobs=${JOBS:-$(getconf _NPROCESSORS_ONLN 2> /dev/null || echo 2)}
OPENBLAS_NUM_THREADS=1 # models are small: a run for each core is faster
export OPENBLAS_NUM_THREADS

flags_of() {
    case $1 in
    full | lora | rslora | dora | adalora | beamlora+dora) echo "--method $1" ;;
    loraplus) echo "--method lora --b-lr-ratio 4" ;;
    paper) echo "--method beamlora" ;;
    published | tightening) echo "--method beamlora --preset $1" ;;
    scores) echo "--method beamlora --no-reallocation" ;;
    # scores move slowly, a rank counts by what it adds, a new one starts from nothing
    gentle) echo "--method beamlora --score-lr-ratio 0.03 --importance contribution" \
        "--expand fresh" ;;
    global) echo "--method beamlora-global" ;;
    global+dora) echo "--method beamlora-global+dora" ;;
    global-gentle) echo "--method beamlora-global --importance contribution --expand fresh" ;;
    *)
        echo "methods: no variant $1" >&2
        exit 2
        ;;
    esac
    for pair in ${LRS:-}; do
        if [ "${pair%%=*}" = "$1" ]; then echo "--lr ${pair#*=}"; fi
    done
}

# one VARIANT SEED FLAGS...: a run, its progress with its name in front. The variant's own
# flags come last, so they overrule the common ones.
one() {
    run=$1-$2 seed=$2 own=$(flags_of "$1")
    shift 2
    rm -f "$out/$run.ok"
    # shellcheck disable=SC2086
    {
        "$program" train --threads 1 "$@" $own --seed "$seed" --out "$out/$run" --overwrite \
            2>&1 > "$out/$run.txt" && : > "$out/$run.ok"
    } | while IFS= read -r line; do echo "$run: $line"; done >&2
    [ -f "$out/$run.ok" ]
}

# Takes the runs that nobody has begun, one after the other.
work() {
    for seed in $seeds; do
        for variant in $variants; do
            if [ ! -f "$out/$variant-$seed.ok" ] &&
                mkdir "$out/claims/$variant-$seed" 2> /dev/null; then
                one "$variant" "$seed" "$@" || return 1
            fi
        done
    done
}

out=${OUT:?names the folder for all runs}
mkdir -p "$out"
rm -rf "$out/claims"
mkdir "$out/claims"
runs=''
for variant in $variants; do
    flags_of "$variant" > "$out/claims/known"
    for seed in $seeds; do runs="$runs $out/$variant-$seed"; done
done
workers=''
for _ in $(seq "$jobs"); do
    work "$@" &
    workers="$workers $!"
done
status=0
for worker in $workers; do wait "$worker" || status=1; done
rm -rf "$out/claims"
[ $status = 0 ] || exit 1
# shellcheck disable=SC2086
"$program" compare $runs
