#!/bin/sh
# usage: train-base.sh
# Trains examples/word_problems/base anew, as build/base, and tests it on what it should
# know and on the task that it should not. Takes two to three minutes on one core.
set -eu
cd "$(dirname "$0")/../.."
OPENBLAS_NUM_THREADS=1
export OPENBLAS_NUM_THREADS

make -s all build/word_problems
build/word_problems corpus 100000 1 > build/base.jsonl
build/word_problems known 500 1 > build/known.jsonl
build/word_problems test 500 1 > build/test.jsonl

rm -rf build/base-init build/base
build/beamlora init --config examples/word_problems/base.json --seed 1 \
    --out build/base-init
build/beamlora train --model build/base-init --method full --data build/base.jsonl \
    --eval-data build/known.jsonl --eval-every 500 --steps 3000 --batch 16 \
    --lr 3e-3 --warmup 0.03 --lr-schedule cosine --beta2 0.99 --clip 1 --seed 1 \
    --out build/base

build/beamlora eval --model build/base --data build/known.jsonl
build/beamlora eval --model build/base --data build/test.jsonl
