#!/bin/sh
# usage: run_folder.sh BEAMLORA
# Run folders: what is in one, and that a training which is stopped at any moment, by a
# signal it can catch or one it cannot, goes on to the same files as one that is not.
# shellcheck source=test/lib.sh
. "$(dirname "$0")/lib.sh"

settings="$quick $evaluation --method beamlora --rank 4 --period 8 --p-start 0.6
    --accumulate ${ACCUMULATE:-10} --dropout 0.1 --eval-every 20 --checkpoint-every 5 --ranks-every 4"

# same WHAT DIR: all that must be equal to the run that nothing stopped
same() {
    for file in adapter_model.safetensors adapter_config.json log.jsonl ranks.jsonl \
        plans.jsonl checkpoint.safetensors; do
        is "$1: $file" cmp -s "$work/whole/$file" "$2/$file"
    done
    is "$1: nothing else is left" \
        [ "$(ls -A "$2")" = "$(ls -A "$work/whole")" ]
}

# ----- what is in it -----

ok "a run" train $settings --out "$work/whole"
final=$(number eval_loss)
for file in run.json log.jsonl ranks.jsonl plans.jsonl checkpoint.safetensors \
    adapter_config.json adapter_model.safetensors; do
    is "$file is there" [ -s "$work/whole/$file" ]
done
is "a line for every step" [ "$(grep -c '"loss":.*"lr"' "$work/whole/log.jsonl")" = 48 ]
is "evaluations before, between and after" \
    [ "$(grep -o '^{"step":[0-9]*,"eval"' "$work/whole/log.jsonl" | tr -dc '0-9\n' |
        tr '\n' ' ')" = "0 20 40 48 " ]
logged=$(tail -n 1 "$work/whole/log.jsonl" | sed 's/.*"loss":\([0-9.]*\).*/\1/')
near "the last evaluation is the report's" "$logged" "$final" 1e-7
is "every module has a name" \
    [ "$(head -n 1 "$work/whole/ranks.jsonl" | grep -o '"name"' | wc -l)" = 14 ]
is "no time of day" [ "$(grep -c -i time "$work/whole/log.jsonl")" = 0 ]
is "ranks moved" grep -q '"module":\[[0-9]' "$work/whole/plans.jsonl"
is "automatic values are worked out" grep -q '"alpha": 8.0' "$work/whole/run.json"
sleep 1
ok "the same again" train $settings --out "$work/second"
same "the same again" "$work/second"
ok "an adapter from a run" eval $files_eval --adapter "$work/whole" --context 32 \
    --batch 4 --json
near "its loss is the last evaluation's" "$(number loss)" "$final" 1e-5

# ----- a folder that is taken -----

refused 1 'holds a run' train $settings --out "$work/second"
same "a refused run" "$work/second"
refused 1 '.' train $settings --overwrite --out "$work/second" --alpha 1e40
same "an overwriting run that cannot begin" "$work/second"
ok "--overwrite" train $settings --out "$work/second" --overwrite --seed 1
is "--overwrite takes its place" \
    [ "$(cmp -s "$work/whole/log.jsonl" "$work/second/log.jsonl"; echo $?)" = 1 ]
refused 1 '.' train $settings --out "$work/new" --alpha 1e40
is "a run that cannot begin leaves nothing" [ ! -e "$work/new" ]
mkdir "$work/mine"
echo mine > "$work/mine/notes.txt"
refused 1 '.' train $settings --out "$work/mine" --alpha 1e40
is "somebody's folder stays as it was" [ "$(ls -A "$work/mine")" = notes.txt ]

# ----- resume -----

refused 1 'no run' train --resume "$work/none"
refused 1 'no run' train --resume "$work/mine"
refused 2 'cannot be given with --resume' train --resume "$work/whole" --steps 100
refused 2 'cannot be given with --resume' train --resume "$work/whole" --out "$work/x"
ok "a finished run resumes to itself" train --resume "$work/whole" --json
near "and reports the same" "$(number eval_loss)" "$final" 0

# background DIR: a run whose process is $process; kill and wait are the caller's
background() {
    rm -rf "$1"
    # shellcheck disable=SC2086
    "$program" train $settings --out "$1" > /dev/null 2>> "$work/err" &
    process=$!
}
# steps DIR: how many its log has
steps() {
    if [ -e "$1/log.jsonl" ]; then grep -c '"lr"' "$1/log.jsonl"; else echo 0; fi
}
# until_step N DIR: wait until its log has so many, or the run has ended
until_step() {
    while kill -0 "$process" 2> /dev/null && [ "$(steps "$2")" -lt "$1" ]; do
        sleep 0.01
    done
}

: > "$work/err"
for n in 0 1 4 5 7 16 33 47; do
    background "$work/killed"
    while [ ! -e "$work/killed/run.json" ] && kill -0 "$process" 2> /dev/null; do
        :
    done
    until_step "$n" "$work/killed"
    kill -9 "$process" 2> /dev/null
    wait "$process" 2> /dev/null
    ok "resume after kill -9 near step $n" train --resume "$work/killed"
    same "killed near step $n" "$work/killed"
done

# twice, and from elsewhere
background "$work/killed"
until_step 9 "$work/killed"
kill -9 "$process" 2> /dev/null
wait "$process" 2> /dev/null
cp -r "$work/killed" "$work/moved"
case $program in /*) absolute=$program ;; *) absolute=$PWD/$program ;; esac
is "resume of a folder that has moved, from elsewhere" \
    sh -c 'cd "$1" && "$2" train --resume moved > /dev/null 2>&1' sh "$work" "$absolute"
same "moved" "$work/moved"

# Ctrl-C: a checkpoint and the adapter so far, exit status 130
background "$work/stopped"
until_step 7 "$work/stopped"
kill -INT "$process" 2> /dev/null
wait "$process"
status=$?
if [ "$(steps "$work/stopped")" = 48 ]; then
    echo "run_folder: too fast to be interrupted, skipped"
else
    is "Ctrl-C: status $status" [ "$status" = 130 ]
    is "Ctrl-C: a checkpoint" [ -s "$work/stopped/checkpoint.safetensors" ]
    is "Ctrl-C: says how to go on" grep -q 'train --resume' "$work/err"
    ok "resume after Ctrl-C" train --resume "$work/stopped"
    same "after Ctrl-C" "$work/stopped"
fi

# ----- what a resume must not swallow -----

# torn DIR: a copy of a run that was stopped after step 9
torn() {
    rm -rf "$1"
    cp -r "$work/killed" "$1"
}
for bytes in 0 7 100 5000; do
    torn "$work/torn"
    head -c "$bytes" "$work/killed/checkpoint.safetensors" \
        > "$work/torn/checkpoint.safetensors"
    refused 1 'checkpoint' train --resume "$work/torn"
done
torn "$work/torn"
: > "$work/torn/log.jsonl"
refused 1 'log.jsonl: has 0 bytes' train --resume "$work/torn"
torn "$work/torn"
echo '{}' > "$work/torn/run.json"
refused 1 'does not say' train --resume "$work/torn"
torn "$work/torn"
printf 'half a line' >> "$work/torn/log.jsonl"
printf 'half a file' > "$work/torn/checkpoint.safetensors.tmp-1-1"
ok "half a line and half a file" train --resume "$work/torn"
same "half a line and half a file" "$work/torn"
cp "$work/train.txt" "$work/train.old"
text 1 91 > "$work/train.txt"
refused 1 'other data' train --resume "$work/killed"
cp "$work/train.old" "$work/train.txt"

# two at once
background "$work/busy"
until_step 2 "$work/busy"
kill -STOP "$process" 2> /dev/null
if [ "$(steps "$work/busy")" -lt 48 ]; then
    refused 1 'another process' train --resume "$work/busy"
fi
kill -CONT "$process" 2> /dev/null
wait "$process"
same "a run while another wanted it" "$work/busy"

# ----- beginning with an adapter -----

begun="$files --batch 4 --context 32 --steps 30 --accumulate ${ACCUMULATE:-10} --lr 1e-3 --p-start 0.6
    --checkpoint-every 5 $evaluation"
ok "begin with a run's adapter" train $begun --init-adapter "$work/whole" --rank 6 \
    --out "$work/begun" --json
near "it begins where that ended" "$(number eval_loss_before)" "$final" 1e-5
is "run.json has the adapter's alpha at the larger rank" \
    grep -q '"alpha": 6.0' "$work/begun/run.json"
rm -rf "$work/begun.killed"
"$program" train $begun --init-adapter "$work/whole" --rank 6 --out "$work/begun.killed" \
    > "$work/out" 2>&1 &
process=$!
until_step 9 "$work/begun.killed"
kill -9 "$process" 2> /dev/null
wait "$process" 2> /dev/null
ok "begun with an adapter: resume after kill -9" train --resume "$work/begun.killed"
for file in adapter_model.safetensors adapter_config.json log.jsonl ranks.jsonl \
    plans.jsonl checkpoint.safetensors; do
    is "begun with an adapter: $file" cmp -s "$work/begun/$file" "$work/begun.killed/$file"
done
refused 1 'would replace it' train $begun --init-adapter "$work/begun" \
    --out "$work/begun" --overwrite
is "what it would have replaced is there" [ -s "$work/begun/adapter_model.safetensors" ]
mv "$work/whole" "$work/whole.gone"
refused 1 'whole' train --resume "$work/begun.killed"
mv "$work/whole.gone" "$work/whole"

# --method full
full="$files --batch 4 --context 32 --steps 30 --accumulate ${ACCUMULATE:-10} --lr 1e-3 --method full
    --checkpoint-every 5"
ok "full" train $full --out "$work/full"
is "full: a model" [ -s "$work/full/model.safetensors" ]
rm -rf "$work/full.killed"
# shellcheck disable=SC2086
"$program" train $full --out "$work/full.killed" > /dev/null 2>> "$work/err" &
process=$!
until_step 12 "$work/full.killed"
kill -9 "$process" 2> /dev/null
wait "$process" 2> /dev/null
ok "full: resume" train --resume "$work/full.killed"
for file in model.safetensors config.json log.jsonl checkpoint.safetensors; do
    is "full: $file" cmp -s "$work/full/$file" "$work/full.killed/$file"
done

# AdaLoRA: killed between its masks
adalora="$files --batch 4 --context 32 --steps 30 --accumulate 10 --lr 1e-2 --rank 6
    --method adalora --tinit 4 --tfinal 6 --delta-t 4 --checkpoint-every 5"
ok "adalora" train $adalora --out "$work/adalora"
rm -rf "$work/adalora.killed"
# shellcheck disable=SC2086
"$program" train $adalora --out "$work/adalora.killed" > /dev/null 2>> "$work/err" &
process=$!
until_step 12 "$work/adalora.killed"
kill -9 "$process" 2> /dev/null
wait "$process" 2> /dev/null
ok "adalora: resume" train --resume "$work/adalora.killed"
for file in adapter_model.safetensors ranks.jsonl log.jsonl checkpoint.safetensors; do
    is "adalora: $file" cmp -s "$work/adalora/$file" "$work/adalora.killed/$file"
done

# Ranks that move between modules: killed between two reallocations
global="$files --batch 4 --context 32 --steps 30 --accumulate 10 --lr 1e-2 --rank 4
    --method beamlora-global --p-start 0.6 --period 4 --checkpoint-every 5"
ok "global" train $global --out "$work/global"
rm -rf "$work/global.killed"
# shellcheck disable=SC2086
"$program" train $global --out "$work/global.killed" > /dev/null 2>> "$work/err" &
process=$!
until_step 12 "$work/global.killed"
kill -9 "$process" 2> /dev/null
wait "$process" 2> /dev/null
ok "global: resume" train --resume "$work/global.killed"
for file in adapter_model.safetensors ranks.jsonl plans.jsonl log.jsonl \
    checkpoint.safetensors; do
    is "global: $file" cmp -s "$work/global/$file" "$work/global.killed/$file"
done
is "global: ranks were given up" grep -q '"given up"' "$work/global/plans.jsonl"

# DoRA: lengths of W are worked out again from what the checkpoint holds
dora="$files --batch 4 --context 32 --steps 30 --accumulate 10 --lr 1e-2 --dropout 0.1
    --method beamlora+dora --checkpoint-every 5"
ok "dora" train $dora --out "$work/dora"
rm -rf "$work/dora.killed"
# shellcheck disable=SC2086
"$program" train $dora --out "$work/dora.killed" > /dev/null 2>> "$work/err" &
process=$!
until_step 12 "$work/dora.killed"
kill -9 "$process" 2> /dev/null
wait "$process" 2> /dev/null
ok "dora: resume" train --resume "$work/dora.killed"
for file in adapter_model.safetensors adapter_config.json log.jsonl checkpoint.safetensors; do
    is "dora: $file" cmp -s "$work/dora/$file" "$work/dora.killed/$file"
done

summary run_folder
