#!/bin/sh
# usage: export.sh BEAMLORA
# `beamlora export`: what it writes computes what the run does, whichever way it takes;
# what it refuses; and that a file is never torn, whenever it is killed.
# shellcheck source=test/lib.sh
. "$(dirname "$0")/lib.sh"

settings="$quick --method beamlora --rank 3 --period 8 --p-start 0.6"
loss="--tokenizer bytes --data $work/eval.txt --context 32 --batch 4 --json"

# loss_of FLAGS...: eval's
loss_of() {
    # shellcheck disable=SC2086
    run eval $loss "$@"
    number loss
}
# same WHAT A B
same() {
    is "$1" cmp -s "$2" "$3"
}
# empty WHAT PATH: it is not there
empty() {
    is "$1" [ ! -e "$2" ]
}

ok "a run" train $settings $evaluation --out "$work/run"
ok "another" train $settings --seed 1 --out "$work/other"
want=$(loss_of --model "$model" --adapter "$work/run")
bare=$(loss_of --model "$model")
is "it has learnt something" [ "$want" != "$bare" ]

# ----- PEFT -----

ok "peft" export "$work/run" --format peft --out "$work/peft"
for file in adapter_model.safetensors adapter_config.json; do
    same "peft from the checkpoint is the run's adapter: $file" \
        "$work/peft/$file" "$work/run/$file"
done
ok "peft again, from a directory" export "$work/peft" --format peft --out "$work/peft2"
same "which changes nothing" "$work/peft/adapter_model.safetensors" \
    "$work/peft2/adapter_model.safetensors"
ok "published" export "$work/run" --format published --out "$work/published"
ok "published is read" eval $files_eval --adapter "$work/published" --context 32 --json
published=$(number loss)
ok "as the run" eval $files_eval --adapter "$work/run" --context 32 --json
near "published computes the same" "$published" "$(number loss)" 1e-6

ok "peft-compact" export "$work/run" --format peft-compact --out "$work/compact"
near "peft-compact computes the same" \
    "$(loss_of --model "$model" --adapter "$work/compact")" "$want" 1e-6
for dtype in f16 bf16; do
    ok "peft in $dtype" export "$work/run" --format peft --dtype $dtype \
        --out "$work/peft.$dtype"
    near "peft in $dtype: its loss" \
        "$(loss_of --model "$model" --adapter "$work/peft.$dtype")" "$want" 1e-2
    less "peft in $dtype: bytes" "$(wc -c < "$work/peft.$dtype/adapter_model.safetensors")" \
        "$(wc -c < "$work/peft/adapter_model.safetensors")"
done

# a checkpoint knows what the adapter files of an unfinished run cannot
rm -rf "$work/half"
cp -r "$work/run" "$work/half"
rm "$work/half/adapter_config.json" "$work/half/adapter_model.safetensors"
ok "a run without adapter files" export "$work/half" --format peft --out "$work/peft3"
same "from its checkpoint" "$work/peft/adapter_model.safetensors" \
    "$work/peft3/adapter_model.safetensors"

# rsLoRA's other scale
ok "an rsLoRA run" train $quick --method rslora --rank 3 --out "$work/rs"
ok "rsLoRA" export "$work/rs" --format peft --out "$work/peft.rs"
same "rsLoRA: its adapter" "$work/peft.rs/adapter_model.safetensors" \
    "$work/rs/adapter_model.safetensors"

# ----- merged -----

ok "merged" export "$work/run" --format merged --out "$work/merged"
near "merged computes the same" "$(loss_of --model "$work/merged")" "$want" 1e-5
is "merged: nothing but a model" \
    [ "$(ls -A "$work/merged" | tr '\n' ' ')" = "config.json model.safetensors " ]
for dtype in f16 bf16; do
    ok "merged in $dtype" export "$work/run" --format merged --dtype $dtype \
        --out "$work/merged.$dtype"
    near "merged in $dtype: its loss" "$(loss_of --model "$work/merged.$dtype")" \
        "$want" 2e-2
done
is "its type is in config.json" grep -q '"float16"' "$work/merged.f16/config.json"

# a base in Hugging Face's order: this adapter does nothing, so the merged model is it
ok "a run that does nothing" train $files --batch 1 --context 32 --steps 1 --lr 0 \
    --method lora --out "$work/nothing"
ok "a Hugging Face base" export "$work/nothing" --format merged --out "$work/hf"
near "it is the base" "$(loss_of --model "$work/hf")" "$bare" 1e-6
echo '{"a": "tokenizer"}' > "$work/hf/tokenizer_config.json"
echo mine > "$work/hf/notes.txt"
ok "an adapter on another base" export "$work/peft" --model "$work/hf" --format merged \
    --out "$work/hf.merged"
near "computes the same" "$(loss_of --model "$work/hf.merged")" "$want" 1e-5
for file in config.json tokenizer_config.json; do
    same "copied as it is: $file" "$work/hf/$file" "$work/hf.merged/$file"
done
empty "other files are not copied" "$work/hf.merged/notes.txt"
ok "in another type" export "$work/peft" --model "$work/hf" --format merged --dtype bf16 \
    --out "$work/hf.bf16"
near "which computes nearly the same" "$(loss_of --model "$work/hf.bf16")" "$want" 2e-2
is "config.json says so" grep -q '"torch_dtype": "bfloat16"' "$work/hf.bf16/config.json"

# ----- GGUF -----

for dtype in f32 f16 bf16; do
    ok "gguf in $dtype" export "$work/run" --format gguf --dtype $dtype \
        --out "$work/$dtype.gguf"
    is "gguf in $dtype: its beginning" [ "$(head -c 4 "$work/$dtype.gguf")" = GGUF ]
done
less "gguf in f16 is smaller" "$(wc -c < "$work/f16.gguf")" "$(wc -c < "$work/f32.gguf")"
# rows of q and k: llama2.c's order is GGUF's, Hugging Face's is not
ok "gguf by way of Hugging Face's order" export "$work/peft" --model "$work/hf" \
    --format gguf --out "$work/by.gguf"
same "is the same file" "$work/f32.gguf" "$work/by.gguf"

# ----- refused -----

refused 2 'format' export "$work/run" --out "$work/x"
refused 2 'out' export "$work/run" --format peft
refused 2 'format' export "$work/run" --format pdf --out "$work/x"
refused 1 'neither a run folder' export "$work" --format peft --out "$work/x"
refused 1 'overwrite replaces it' export "$work/run" --format peft --out "$work/peft"
refused 1 'overwrite replaces it' export "$work/run" --format gguf --out "$work/f32.gguf"
refused 1 'is a directory' export "$work/run" --format gguf --out "$work/peft"
refused 1 'is a file' export "$work/run" --format peft --out "$work/f32.gguf"
refused 1 'has a config.json already' export "$work/run" --format merged --out "$work/hf"
refused 1 'has a config.json already' export "$work/run" --format merged --out "$work/hf" \
    --overwrite
refused 1 'has an adapter' export "$work/run" --format merged --out "$work/peft"
refused 1 'cannot open\|No such file' export "$work/run" --format peft --out "$work/x" \
    --model "$work/none"
cp -r "$work/peft" "$work/lost"
sed 's|"base_model_name_or_path": .*|"base_model_name_or_path": "someone/model",|' \
    "$work/peft/adapter_config.json" > "$work/lost/adapter_config.json"
refused 1 'someone/model is not there: give --model' export "$work/lost" --format peft \
    --out "$work/x"
ok "which helps" export "$work/lost" --format peft --out "$work/found" --model "$model"
rm "$work/half/checkpoint.safetensors"
refused 1 'checkpoint.safetensors' export "$work/half" --format peft --out "$work/x"
head -c 5000 "$work/run/checkpoint.safetensors" > "$work/half/checkpoint.safetensors"
refused 1 'checkpoint.safetensors' export "$work/half" --format peft --out "$work/x"
cp "$work/peft/adapter_model.safetensors" "$work/half/checkpoint.safetensors"
refused 1 'is no checkpoint' export "$work/half" --format peft --out "$work/x"
cp "$work/run/checkpoint.safetensors" "$work/half/checkpoint.safetensors"
for method in lora dora beamlora+dora adalora; do
    sed "s/\"method\": \"beamlora\"/\"method\": \"$method\"/" "$work/run/run.json" \
        > "$work/half/run.json"
    refused 1 'of another method\|of the shape that run.json' export "$work/half" \
        --format peft --out "$work/x"
done
ok "full" train $files --batch 1 --context 32 --steps 1 --method full --out "$work/full"
refused 1 'method full, which has no adapter' export "$work/full" --format peft \
    --out "$work/x"
empty "nothing is left of what was refused" "$work/x"

# too large for half precision
ok "a large adapter" train $files --batch 1 --context 32 --steps 3 --lr 300 --clip 0 \
    --method lora --alpha 1e6 --out "$work/large"
refused 1 'too large for F16' export "$work/large" --format gguf --dtype f16 \
    --out "$work/x"
refused 1 'tensor .* too large for F16' export "$work/large" --format merged --dtype f16 \
    --out "$work/large.f16"
empty "merged: no config.json" "$work/large.f16/config.json"
empty "and no weights" "$work/large.f16/model.safetensors"

# ----- kill -9 -----

# background FLAGS...: export; it is $process
background() {
    "$program" export "$@" > /dev/null 2>> "$work/err" &
    process=$!
}
# kill_after N: the sooner the smaller
kill_after() {
    left=$1
    while [ "$left" -gt 0 ]; do
        left=$((left - 1))
    done
    kill -9 "$process" 2> /dev/null
    wait "$process" 2> /dev/null
}

: > "$work/err"
ok "one file" export "$work/run" --format gguf --out "$work/one.gguf"
ok "another" export "$work/other" --format gguf --out "$work/two.gguf"
cp "$work/one.gguf" "$work/it.gguf"
whole=0
for n in 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19; do
    from=run
    if [ $((n % 2)) = 0 ]; then from=other; fi
    background "$work/$from" --format gguf --out "$work/it.gguf" --overwrite
    kill_after $((n * 600))
    if cmp -s "$work/it.gguf" "$work/one.gguf" || cmp -s "$work/it.gguf" "$work/two.gguf"
    then
        whole=$((whole + 1))
    fi
done
is "after 20 kills the file is the old one or the new: $whole times" [ "$whole" = 20 ]

whole=0
for n in 0 1 2 3 4 5 6 7 8 9; do
    background "$work/run" --format merged --out "$work/it"
    kill_after $((n * 1200))
    if [ ! -e "$work/it/config.json" ]; then
        run export "$work/run" --format merged --out "$work/it"
    fi
    if cmp -s "$work/it/model.safetensors" "$work/merged/model.safetensors" &&
        cmp -s "$work/it/config.json" "$work/merged/config.json"; then
        whole=$((whole + 1))
    fi
    rm -rf "$work/it"
done
is "a merged model that was killed can be written again: $whole of 10" [ "$whole" = 10 ]

refused 1 'dtype' export "$work/run" --format published --dtype f16 --out "$work/half"

# ----- DoRA: its weight is no sum of the base and a plain LoRA -----

ok "a run with DoRA" train $quick --method beamlora+dora --out "$work/dora"
want=$(loss_of --model "$model" --adapter "$work/dora")
ok "peft of it" export "$work/dora" --format peft --out "$work/dora.peft"
same "is the run's adapter" "$work/dora.peft/adapter_model.safetensors" \
    "$work/dora/adapter_model.safetensors"
ok "merged" export "$work/dora" --format merged --out "$work/dora.merged"
near "merged computes the same" "$(loss_of --model "$work/dora.merged")" "$want" 1e-5
refused 1 'magnitudes' export "$work/dora" --format gguf --out "$work/dora.gguf"
empty "and nothing is written" "$work/dora.gguf"
refused 1 'magnitudes' export "$work/dora" --format published --out "$work/dora.published"

# ----- AdaLoRA: masked ranks are rows of zeros -----

ok "a run with AdaLoRA" train $quick --method adalora --rank 6 --target-rank 2 \
    --out "$work/ada"
want=$(loss_of --model "$model" --adapter "$work/ada")
ok "peft of it" export "$work/ada" --format peft --out "$work/ada.peft"
same "is the run's adapter" "$work/ada.peft/adapter_model.safetensors" \
    "$work/ada/adapter_model.safetensors"
ok "peft-compact" export "$work/ada" --format peft-compact --out "$work/ada.compact"
near "without masked ranks the same" \
    "$(loss_of --model "$model" --adapter "$work/ada.compact")" "$want" 1e-5
ok "gguf" export "$work/ada" --format gguf --out "$work/ada.gguf"
ok "merged" export "$work/ada" --format merged --out "$work/ada.merged"
near "merged computes the same" "$(loss_of --model "$work/ada.merged")" "$want" 1e-5
refused 1 'no scores' export "$work/ada" --format published --out "$work/ada.published"

# ----- ranks that moved between modules -----

ok "a run whose ranks moved" train $quick $evaluation --method beamlora-global --rank 4 \
    --p-start 0.6 --out "$work/global"
is "they differ" grep -q '"given up"' "$work/global/plans.jsonl"
want=$(number eval_loss)
for format in peft peft-compact published merged; do
    ok "$format of it" export "$work/global" --format $format --out "$work/global.$format"
done
ok "gguf of it" export "$work/global" --format gguf --out "$work/global.gguf"
same "peft of it is the run's adapter" "$work/global.peft/adapter_model.safetensors" \
    "$work/global/adapter_model.safetensors"
near "merged computes the same" "$(loss_of --model "$work/global.merged")" "$want" 1e-5
for format in peft-compact published; do
    near "$format too" "$(loss_of --model "$model" --adapter "$work/global.$format")" \
        "$want" 1e-5
done

# ----- ranks of their own: a run that began with such an adapter -----

ok "a run that begins with ranks that differ" train $quick $evaluation --method lora \
    --init-adapter "$work/ada.compact" --out "$work/begun"
is "they differ" grep -q '"rank_pattern": {$' "$work/ada.compact/adapter_config.json"
want=$(number eval_loss)
for format in peft peft-compact merged; do
    ok "$format of it" export "$work/begun" --format $format --out "$work/begun.$format"
done
ok "gguf of it" export "$work/begun" --format gguf --out "$work/begun.gguf"
same "peft of it is the run's adapter" "$work/begun.peft/adapter_model.safetensors" \
    "$work/begun/adapter_model.safetensors"
near "merged computes the same" "$(loss_of --model "$work/begun.merged")" "$want" 1e-5
near "peft-compact too" \
    "$(loss_of --model "$model" --adapter "$work/begun.peft-compact")" "$want" 1e-5
# modules of a few projections only, without --targets
ok "a run of two projections" train $quick --method dora --targets q_proj,down_proj \
    --out "$work/two"
ok "one that begins with it" train $quick $evaluation --method dora \
    --init-adapter "$work/two" --out "$work/two.begun"
want=$(number eval_loss)
ok "merged of that" export "$work/two.begun" --format merged --out "$work/two.merged"
near "computes the same" "$(loss_of --model "$work/two.merged")" "$want" 1e-5

summary export
