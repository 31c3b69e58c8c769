#!/bin/sh
# usage: program.sh BEAMLORA
# The program from end to end, on a random model of 6,000 weights: trainings that must
# learn, results that must agree, and files and flags that must be refused with a line
# and the right exit status. Needs tiny_model beside the program in test/, or a compiler.
# shellcheck source=test/lib.sh
. "$(dirname "$0")/lib.sh"

# ----- usage -----

ok "--version" --version
is "--version" grep -q '^beamlora [0-9]*\.[0-9]*\.[0-9]*$' "$work/out"
ok "--help" --help
run
is "no command is wrong usage" [ "$status" = 2 ]
refused 2 'unknown command' trian
for command in init train eval generate; do
    ok "$command --help" $command --help
    is "$command --help is on stdout" [ -s "$work/out" ]
    is "$command --help is 90 columns" awk 'length($0) > 90 { exit 1 }' "$work/out"
    refused 2 'required' $command
done
run train --help
is "a group of train --help fits a screen" \
    awk 'NF { n++ } !NF { n = 0 } n > 23 { exit 1 }' "$work/out"

refused 2 'did you mean --steps' train $files --step 3
refused 2 'unknown flag' train $files --zzzzzzzzzzzz 3
refused 2 'given twice' train $files --steps 3 --steps=4
refused 2 'needs a value' train $files --steps
refused 2 'needs a value' train $files --steps --rank 4
refused 2 'takes no value' train $files --json=1
refused 2 'unexpected argument' train $files stray
refused 2 'unexpected argument' train $files -x
for value in 0 -1 1.5 3x 0x10 ' 3' '' 1e3 99999999999999999999; do
    refused 2 'steps' train $files --steps "$value"
done
for value in nan inf -1 1e999 1,5 1e ' 1' ''; do
    refused 2 'lr' train $files --lr "$value"
done
refused 2 'seed' train $files --seed -1
refused 2 'must be one of: lora, rslora, dora, adalora, beamlora, beamlora+dora, beamlora-global' \
    train $files --method pissa
refused 2 'must be one of: paper' train $files --preset tuned
refused 2 'rank' train $files --rank 0
refused 1 'the machine has' train $files --rank 2000000000
refused 2 'no target' train $files --targets q_proj,zz_proj
refused 2 'no target' train $files --targets ''
refused 2 'no target' train $files --targets q_proj,
refused 2 'twice' train $files --targets q_proj,v_proj,q_proj

# ----- settings that contradict each other: the library's own words -----

refused 1 'beta1' train $quick --beta1 1
refused 1 'dropout' train $quick --dropout 1
refused 1 'epsilon' train $quick --epsilon 0
refused 1 'tinit' train $files --context 32 --steps 48 --method adalora --tinit 48
refused 1 'target_rank' train $quick --method adalora --rank 4 --target-rank 5
refused 1 'sensitivity_beta' train $quick --method adalora --sensitivity-beta 0
refused 2 'delta-t' train $quick --method adalora --delta-t 0
refused 1 'p_start' train $quick --p-start 0
refused 1 'capacity' train $quick --method beamlora-global --rank 4 --capacity 3
refused 1 'budget' train $quick --method beamlora-global --budget 100
refused 1 'contradicts' train $quick --method beamlora-global --scope joint
refused 1 'reallocat' train $files --context 32 --steps 48 --period 48
refused 1 'reallocat' train $files --context 32 --steps 48 --p-start 1 --p-end 1

# ----- trainings -----

# learns NAME FLAGS...: the loss on other text falls, and eval finds the same loss in the
# adapter that was written.
learns() {
    name=$1
    shift
    ok "train $name" train $quick $evaluation --out "$work/$name" "$@"
    before=$(number eval_loss_before) after=$(number eval_loss)
    less "$name learns" "$after" "$before"
    less "$name: training loss" "$(number train_loss)" "$before"
    is "$name: config" [ -s "$work/$name/adapter_config.json" ]
    is "$name: weights" [ -s "$work/$name/adapter_model.safetensors" ]
    ok "eval $name" eval --model "$model" --tokenizer bytes --data "$work/eval.txt" \
        --context 32 --json --adapter "$work/$name"
    near "$name: loss of the written adapter" "$(number loss)" "$after" 1e-4
}

learns lora --method lora
learns rslora --method rslora --rank 4
learns dora --method dora --weight-decay 0.01
learns dora_dropout --method dora --dropout 0.1
learns beamlora_dora --method beamlora+dora
learns adalora --method adalora --rank 6 --target-rank 2 --tinit 6 --tfinal 12 --delta-t 3
is "the budget is kept" [ "$(tail -n 1 "$work/adalora/ranks.jsonl" |
    sed 's/.*"kept":\[\([0-9,]*\)\].*/\1/' |
    awk -F , '{ for (i = 1; i <= NF; i++) n += $i; print n - 2 * NF }')" = 0 ]
is "the penalty is in the log" grep -q '"penalty":[0-9.]*[1-9]' "$work/adalora/log.jsonl"
ok "inspect of it" inspect "$work/adalora"
is "the budget over time" grep -q 'ranks that the newest mask left' "$work/out"
ok "inspect --json of it" inspect "$work/adalora" --json
is "ranks kept of a module" grep -q '"kept": [0-9]' "$work/out"
ok "compare with it" compare "$work/adalora" "$work/lora"
learns adalora_dropout --method adalora --dropout 0.1 --orth-reg-weight 0 --alpha 4 \
    --score-lr-ratio 2 --sensitivity-beta 0.7 --uncertainty-beta 0.6
run train $quick --method adalora
is "the budget is reported" grep -q '"kept_ranks":[1-9]' "$work/out"
# budget_of RUN: what inspect says it is; moves_within RUN BUDGET CAPACITY: its table of ranks
# over time keeps to both, no module is left without a rank, and ranks did move
budget_of() {
    "$program" inspect "$work/$1" | sed -n 's/^Budget: \([0-9]*\) parameters.*/\1/p'
}
moves_within() {
    "$program" inspect "$work/$1" | awk -v budget="$2" -v most="$3" '
        $1 == "step" && $NF == "parameters" { table = 1; next }
        table && NF != 5 { table = 0 }
        table { lines++; bad += $3 < 1 || $4 > most || $5 > budget || $5 <= 0
                moved += lines > 1 && $2 $3 $4 != last; last = $2 $3 $4 }
        END { exit !(lines > 1 && moved > 0 && bad == 0) }'
}
learns global --method beamlora-global --rank 4 --p-start 0.6
budget=$(budget_of global)
is "ranks move within the budget" moves_within global "$budget" 8
ok "inspect --json of it" inspect "$work/global" --json
ok "compare with it" compare "$work/global" "$work/lora"
learns global_dora --method beamlora-global+dora --rank 4 --p-start 0.6 --capacity 5 \
    --dropout 0.1 --expand fresh --importance contribution
is "ranks move within its budget" moves_within global_dora "$(budget_of global_dora)" 5
learns global_slack --method beamlora --scope global --rank 2 --capacity 6 \
    --budget $((budget * 2)) --p-start 1
is "more budget than ranks at first: they grow" moves_within global_slack \
    $((budget * 2)) 6
run train $quick --method beamlora-global
is "the ranks are reported" grep -q '^ranks  *[0-9]* of [0-9]*, [0-9]* to [0-9]* in an adapter$' \
    "$work/out"
run train $quick --method lora --target-rank 2
is "a budget has no effect with lora" grep -q 'target-rank has no effect' "$work/err"
learns beamlora
run train $quick
is "a line for each reallocation that moved something" \
    [ "$(sed -n 's/.*reallocation at p .*: \([0-9]*\) ranks moved.*/\1/p' "$work/err" |
        awk '{ n += $1 } END { print n }')" = "$(number reallocated_ranks)" ]
less "there were some" 0 "$(number reallocations)"
is "without --out it says so" grep -q 'nothing is kept' "$work/err"
learns published --preset published
learns tightening --preset tightening
learns scores --no-reallocation
learns accumulate --accumulate 3
learns dropout --dropout 0.1
learns constant --lr-schedule constant --warmup 0 --clip 0
learns linear --lr-schedule linear --weight-decay 0.01 --clip 0.5
learns targets --targets q_proj,v_proj,down_proj
learns fresh --expand fresh --importance contribution --score-transfer preserve \
    --score-lr-ratio 0.03 --idle 0.9 --temperature 0.1
learns pruning --expand none --fixed-count 2
learns current --expand current --moments zero --pairing ordered --scope joint \
    --crossing pruned --select random --max-prune-fraction 0.25
learns history --history-depth 3 --history-interval 2 --history-phase 1 --history-age 3 \
    --history-dtype bf16 --moments keep --period 6 --start 6 --p-start 0.5 --p-end 0.9 --p-curve linear \
    --p-steps 30
learns optimizer --beta1 0.8 --beta2 0.99 --epsilon 1e-6 --b-lr-ratio 4 --alpha 8 --seed 7
learns large_rank --rank 64

# weights of 16 bits are handed to DoRA in blocks
ok "a model of 16 bits" train $quick --method full --save-dtype bf16 \
    --out "$work/half"
ok "DoRA on it" train --model "$work/half" --tokenizer bytes --data "$work/train.txt" \
    --batch 4 --context 32 --steps 12 --lr 1e-2 --method dora --json \
    $evaluation --out "$work/half.dora"
after=$(number eval_loss)
ok "eval of it" eval --model "$work/half" --tokenizer bytes --data "$work/eval.txt" \
    --context 32 --json --adapter "$work/half.dora"
near "its loss" "$(number loss)" "$after" 1e-4
ok "generate with it" generate --model "$work/half" --tokenizer bytes --tokens 8 \
    --adapter "$work/half.dora" --prompt 'the '
ok "inspect of it" inspect "$work/half.dora"
cp -r "$work/half.dora" "$work/half.plain"
sed 's/"use_dora": true/"use_dora": false/' "$work/half.dora/adapter_config.json" \
    > "$work/half.plain/adapter_config.json"
refused 1 'does not set use_dora' eval --model "$work/half" --tokenizer bytes \
    --data "$work/eval.txt" --adapter "$work/half.plain"

ok "eval of the bare model" eval --model "$model" --tokenizer bytes \
    --data "$work/eval.txt" --context 32 --json
near "the bare model's loss" "$(number loss)" "$before" 1e-6

ok "a flag without effect" train $quick --method lora --scope joint
is "is told" grep -q -- '--scope has no effect' "$work/err"

# ----- the same again, and otherwise -----

run train $quick --seed 3
first=$(number train_loss)
run train $quick --seed=3
is "the same seed, the same bits" [ "$first" = "$(number train_loss)" ]
run train $quick --seed 4
is "another seed, other numbers" [ "$first" != "$(number train_loss)" ]
run train --model "$model" --tokenizer bytes --data "$work/train.u16" --batch 4 \
    --context 32 --steps 48 --lr 1e-2 --json --seed 3
is "raw ids, the same bits" [ "$first" = "$(number train_loss)" ]
run train $files --batch 6 --context 32 --steps 12 --method lora --json
whole=$(number train_loss)
run train $files --batch 2 --accumulate 3 --context 32 --steps 12 --method lora --json
near "accumulated batches are one batch" "$(number train_loss)" "$whole" 1e-3

# logits, of as many windows as there are
ok "eval --dump-logits" eval $files_eval --context 32 --batch 5 --json \
    --dump-logits "$work/logits"
is "logits: rows of the vocabulary" \
    grep -q -a '"logits":{"dtype":"F32","shape":\[160,256\]' "$work/logits"
refused 1 'No such file' eval $files_eval --context 32 --dump-logits "$work/none/logits"

ok "without --json" train $files --steps 36 --batch 2 --context 16 $evaluation
is "results are on stdout" grep -q '^evaluation loss ' "$work/out"
is "the last step is told" grep -q '^step 36/36 ' "$work/err"

# ----- the gradients' file -----

ok "--dump-gradients" train $quick --dump-gradients "$work/dump.safetensors"
near "training goes on as without" "$(number steps)" 48 0
for name in input_ids target_ids loss row_order \
    base_model.model.model.layers.1.mlp.down_proj.lora_A.weight \
    base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight \
    grad.base_model.model.model.layers.0.self_attn.k_proj.lora_B.weight \
    grad.base_model.model.model.layers.1.mlp.up_proj.lora_gate; do
    is "the dump has $name" grep -q -a -F "\"$name\":" "$work/dump.safetensors"
done
run train $quick
undumped=$(number train_loss)
run train $quick --dump-gradients "$work/again.safetensors"
is "dumping changes nothing" [ "$undumped" = "$(number train_loss)" ]
is "the same dump again" cmp -s "$work/dump.safetensors" "$work/again.safetensors"
ok "--dump-gradients of lora" train $quick --method lora \
    --dump-gradients "$work/lora.safetensors"
is "lora has no scores" \
    sh -c '! grep -q -a lora_gate "$1"' sh "$work/lora.safetensors"
refused 1 'none/x' train $quick --dump-gradients "$work/none/x"

# ----- a model from nothing -----

config='"model_type":"llama","hidden_size":24,"num_hidden_layers":2,"vocab_size":257,
    "num_attention_heads":4,"num_key_value_heads":2,"tokenizer":"bytes"'
echo "{$config,\"intermediate_size\":40}" > "$work/tiny.json"
ok "init" init --config "$work/tiny.json" --out "$work/tiny"
is "it tells the parameters" grep -q ': 21672 parameters in 21 tensors' "$work/out"
ok "init, the same seed" init --config "$work/tiny.json" --out "$work/again" --seed=0
is "the same model" cmp -s "$work/tiny/model.safetensors" "$work/again/model.safetensors"
ok "init, another seed" init --config "$work/tiny.json" --out "$work/other" --seed 1
is "another model" \
    sh -c '! cmp -s "$1" "$2"' sh "$work/tiny/model.safetensors" "$work/other/model.safetensors"
sum=$(tail -c $((21672 * 4)) "$work/tiny/model.safetensors" | cksum)
is "the weights are those of every machine: $sum" [ "$sum" = "336050479 86688" ]
ok "init: evaluation" eval --model "$work/tiny" --tokenizer bytes --data "$work/eval.txt" \
    --context 32 --json
near "it knows nothing: ln 257" "$(number loss)" 5.549 0.05

# ----- memory, threads, activations worked out again -----

echo '{"model_type":"llama","vocab_size":258,"hidden_size":128,"num_hidden_layers":3,
"num_attention_heads":4,"intermediate_size":256,"tokenizer":"bytes"}' > "$work/wide.json"
ok "a wider model" init --config "$work/wide.json" --out "$work/wide"
wide="--model $work/wide --data $work/train.txt --context 128 --steps 3 --json"
long="--model $work/wide --data $work/train.txt --context 128 --steps 40 --batch 4"
refused 1 'the machine has' train --model $work/wide --data $work/train.txt --context 2000 --batch 65536 --out "$work/new"
is "and leaves nothing" [ ! -e "$work/new" ]
for flags in "--method lora" "--method lora --threads 2 --rank 32" "--method dora" \
    "--method lora --checkpoint-activations" "--method full" \
    "--method lora $evaluation"; do
    # shellcheck disable=SC2086
    ok "$flags" train $wide --batch 24 $flags
    # the sanitizers have memory of their own
    grep -q -e __asan_init -e __tsan_init "$program" ||
        near "memory of $flags" "$(number memory_predicted)" "$(number memory_peak)" \
            "$(number memory_peak | awk '{ print $1 * 0.06 }')"
done
ok "on two threads" train $long --dropout 0.1 \
    --threads 2 --out "$work/kept"
ok "activations worked out again" train $long \
    --dropout 0.1 --threads 2 --checkpoint-activations --out "$work/again2"
is "to the same bits" cmp -s "$work/kept/adapter_model.safetensors" \
    "$work/again2/adapter_model.safetensors"
refused 1 'tiny/config.json: is there already' init --config "$work/tiny.json" \
    --out "$work/tiny"
refused 1 'none' init --config "$work/none" --out "$work/new"
refused 1 'none/new' init --config "$work/tiny.json" --out "$work/none/new"
for value in 0 -0.1 2 '"0.02"'; do
    echo "{$config,\"intermediate_size\":40,\"initializer_range\":$value}" > "$work/bad.json"
    refused 1 'bad.json: initializer_range' init --config "$work/bad.json" --out "$work/new"
done
echo "{$config,\"intermediate_size\":2000000000}" > "$work/bad.json"
refused 1 'the machine has' init --config "$work/bad.json" --out "$work/new"
echo "{$config,\"hidden_act\":\"gelu\"}" > "$work/bad.json"
refused 1 'hidden_act' init --config "$work/bad.json" --out "$work/new"
is "nothing is left of what was refused" [ ! -e "$work/new" ]

# ----- generation -----

ok "generate" generate --model "$model" --tokenizer bytes --prompt 'the quick ' \
    --tokens 40 --temperature 0 --adapter "$work/lora"
is "it continues the prompt" grep -q '^the quick ' "$work/out"
cp "$work/out" "$work/generated"
run generate --model "$model" --tokenizer bytes --prompt 'the quick ' --tokens 40 \
    --temperature 0 --adapter "$work/lora"
is "the same again" cmp -s "$work/out" "$work/generated"

# ----- beginning with an adapter -----

begin="$files --batch 4 --context 32 --steps 24 --lr 1e-3 $evaluation --json"
ok "eval" eval --model "$model" --tokenizer bytes --data "$work/eval.txt" --context 32 \
    --adapter "$work/targets" --json
ended=$(number loss)
for method in lora rslora beamlora; do
    ok "$method begins with an adapter" train $begin --init-adapter "$work/targets" \
        --method $method --out "$work/begun_$method"
    near "$method begins where it ended" "$(number eval_loss_before)" "$ended" 1e-5
    less "$method learns on" "$(number eval_loss)" "$ended"
    is "$method: its modules alone" \
        [ "$(head -n 1 "$work/begun_$method/ranks.jsonl" | grep -o '"name"' | wc -l)" = 6 ]
done
ok "flags that agree" train $begin --init-adapter "$work/targets" --rank 12 --alpha 12 \
    --targets down_proj,q_proj,v_proj
near "ranks added change nothing" "$(number eval_loss_before)" "$ended" 1e-5
refused 1 '--rank 4: the adapter in .* has rank 8 in model' train $begin \
    --init-adapter "$work/targets" --rank 4
refused 1 '--alpha 16: with rank 8 .* has alpha 8' train $begin \
    --init-adapter "$work/targets" --alpha 16
refused 1 '--targets q_proj: .* is for q_proj,v_proj,down_proj' train $begin \
    --init-adapter "$work/targets" --targets q_proj
refused 2 'not for --method full' train $begin --init-adapter "$work/targets" --method full
refused 2 'not for --method adalora' train $begin --init-adapter "$work/targets" \
    --method adalora
refused 1 'none' train $begin --init-adapter "$work/none"
# tensors alone
weights=$work/targets/adapter_model.safetensors
cp "$weights" "$work/bare.safetensors"
refused 1 '--alpha must say' train $begin --init-adapter "$work/bare.safetensors"
ok "begin with tensors alone" train $begin --init-adapter "$work/bare.safetensors" --alpha 8
near "alpha is told" "$(number eval_loss_before)" "$ended" 1e-5
adapted="--model $model --tokenizer bytes --data $work/eval.txt --context 32 --json"
refused 1 'alpha must be given' eval $adapted --adapter "$work/bare.safetensors"
ok "eval with tensors alone" eval $adapted --adapter "$work/bare.safetensors" \
    --adapter-alpha 8
near "the same loss" "$(number loss)" "$ended" 1e-5
refused 1 'has its own' eval $adapted --adapter "$work/targets" --adapter-alpha 8
refused 1 'has no scores' eval $adapted --adapter "$work/targets" --score-temperature 0.05

# ----- examples: JSON lines -----

# 258 ids: bytes with BOS and EOS
"$tiny" "$work/small.bin" 1 258 || exit 1
small="--model $work/small.bin --tokenizer bytes"
cat > "$work/sums.jsonl" << 'EOF'
{"prompt": "1+1=", "completion": "2"}
{"question": "2+1=", "answer": "three", "source": {"page": 7}}

{"prompt": "2+2=", "completion": "4", "text": "not this"}
{"text": "0"}
EOF
learning="--batch 4 --context 16 --steps 200 --lr 3e-2 --rank 16 --method lora --json"
ok "train on JSON lines" train $small --data "$work/sums.jsonl" $learning \
    --out "$work/sums"
first=$(number train_loss)
ok "eval of JSON lines, before" eval $small --data "$work/sums.jsonl" --json
before=$(number loss)
near "examples" "$(number examples)" 4 0
near "none is completed" "$(number exact)" 0 0
near "completions, texts and EOS are predicted" "$(number tokens)" 12 0
adapted="$small --adapter $work/sums"
ok "eval of JSON lines" eval $adapted --data "$work/sums.jsonl" --json
less "the examples are learnt" "$(number loss)" "$before"
near "all are completed" "$(number exact)" 4 0
all=$(number loss)
for batch in 1 3; do
    run eval $adapted --data "$work/sums.jsonl" --json --batch $batch
    near "eval in batches of $batch" "$(number loss)" "$all" 1e-6
    near "eval in batches of $batch: exact" "$(number exact)" 4 0
done
run eval $adapted --data "$work/sums.jsonl"
is "accuracy is told" \
    grep -q -F 'accuracy 100.0 % (4 of 4 completed exactly)' "$work/out"
for sum in 1+1=2 2+1=three 2+2=4; do
    run generate $adapted --temperature 0 --prompt "${sum%=*}="
    is "generation gives $sum and stops at EOS" [ "$(cat "$work/out")" = "$sum" ]
done
awk '{ printf "%s\r\n", $0 }' "$work/sums.jsonl" > "$work/crlf.jsonl"
run eval $adapted --data "$work/crlf.jsonl" --json
is "carriage returns change nothing" [ "$(number loss)" = "$all" ]
{ printf '\357\273\277'; printf '%s' "$(cat "$work/sums.jsonl")"; } > "$work/bom.json"
run eval $adapted --data "$work/bom.json" --json
is "nor do a byte order mark and no final newline" [ "$(number loss)" = "$all" ]
run train $small --data "$work/crlf.jsonl" $learning
is "the same examples, the same bits" [ "$first" = "$(number train_loss)" ]
run eval $small --data "$work/sums.jsonl" --context 5 --json
near "cut examples lose targets" "$(number tokens)" 5 0
is "cut examples are told" grep -q -F '3 of 4 examples are cut' "$work/err"

{ cat "$work/sums.jsonl"; echo '{"prompt": "3+3="}'; } > "$work/bad.jsonl"
refused 1 'bad.jsonl:6: has only "prompt"' eval $small --data "$work/bad.jsonl"
refused 1 'bad.jsonl:6: has only "prompt"' train $small --data "$work/bad.jsonl" \
    --out "$work/bad.out"
is "a bad line is refused before anything is made" [ ! -e "$work/bad.out" ]
refused 1 'bad.jsonl:6: ' train $small --data "$work/sums.jsonl" \
    --eval-data "$work/bad.jsonl" --steps 36 --context 16
printf '{"text": "\377"}\n' > "$work/bad.jsonl"
refused 1 'bad.jsonl:1: not JSON' eval $small --data "$work/bad.jsonl"
: > "$work/bad.jsonl"
refused 1 'is empty' eval $small --data "$work/bad.jsonl"
echo '{"prompt": "1+1=", "completion": "2"}' > "$work/bad.jsonl"
refused 1 'needs --context 5' eval $small --data "$work/bad.jsonl" --context 4
# text is bytes, whatever they are
printf 'caf\351 \377\376\r\nno end' > "$work/latin.txt"
ok "text that is no UTF-8" eval $small --data "$work/latin.txt" --json
near "is bytes" "$(number tokens)" 14 0

# ----- which tokenizer -----

refused 1 '--tokenizer bytes' eval --model "$model" --data "$work/eval.txt"
refused 1 '--tokenizer bytes' generate --model "$model"
ok "ids need no tokenizer" eval --model "$model" --data "$work/train.u16"

# ----- where results go -----

if [ -c /dev/full ]; then
    status=0
    "$program" --version > /dev/full 2> "$work/err" || status=$?
    is "a full disk: status" [ "$status" = 1 ]
    is "a full disk: line" grep -q '^beamlora: ' "$work/err"
    status=0
    "$program" eval --model "$model" --tokenizer bytes --data "$work/eval.txt" \
        > /dev/full 2> "$work/err" || status=$?
    is "a full disk: eval" [ "$status" = 1 ]
fi
: > "$work/file"
refused 1 'file' train $quick --out "$work/file"
refused 1 'none/out' train $quick --out "$work/none/out"
refused 1 'not finite' train $files --batch 4 --context 32 --steps 48 --lr 1e37 \
    --warmup 0 --clip 0 --out "$work/diverged"
is "five steps are enough" [ "$(grep -c 'skipped' "$work/err")" = 5 ]
is "a failed training leaves its log" grep -q skipped "$work/diverged/log.jsonl"
is "a failed training leaves no adapter" \
    [ ! -e "$work/diverged/adapter_model.safetensors" ]

# ----- files that are not what they should be -----

train_with() { # MODEL TOKENIZER DATA
    refused 1 '.' train --model "$1" --tokenizer "$2" --data "$3" --steps 36 --batch 2 \
        --context 16
}
printf '\001' > "$work/odd.u16"
printf '\001\000\377\377' > "$work/large.u16"
printf 'short' > "$work/short.txt"
for data in "$work/none" "$work" "$work/file" "$work/odd.u16" "$work/large.u16" \
    "$work/short.txt"; do
    train_with "$model" bytes "$data"
done
refused 1 'id 1 is 65535' train --model "$model" --tokenizer bytes \
    --data "$work/large.u16"
refused 1 'holds 5 ids' train --model "$model" --tokenizer bytes --data "$work/short.txt"
refused 1 'none' train $quick --eval-data "$work/none"

size=$(wc -c < "$model")
for bytes in 0 1 27 28 29 100 $((size / 2)) $((size - 4)) $((size - 1)); do
    head -c "$bytes" "$model" > "$work/bad.bin"
    train_with "$work/bad.bin" bytes "$work/train.txt"
done
{ cat "$model"; printf 'x'; } > "$work/bad.bin"
train_with "$work/bad.bin" bytes "$work/train.txt"
train_with "$work/none" bytes "$work/train.txt"
train_with "$work" bytes "$work/train.txt"
train_with "$work/train.txt" bytes "$work/train.txt"
# each number of the header: zero, negative, huge
for field in 0 4 8 12 16 20 24; do
    for number in '\000\000\000\000' '\377\377\377\377' '\000\000\000\200' \
        '\377\377\377\177' '\000\000\001\000' '\003\000\000\000'; do
        {
            head -c "$field" "$model"
            # shellcheck disable=SC2059
            printf "$number"
            tail -c +$((field + 5)) "$model"
        } > "$work/bad.bin"
        train_with "$work/bad.bin" bytes "$work/train.txt"
    done
done

for tokenizer in "$work/none" "$work" "$work/file" "$work/short.txt" "$work/train.txt" \
    "$model"; do
    train_with "$model" "$tokenizer" "$work/train.txt"
    refused 1 '.' generate --model "$model" --tokenizer "$tokenizer"
done

# broken FILE: eval refuses the adapter in $work/bad
broken() {
    refused 1 '.' eval --model "$model" --tokenizer bytes --data "$work/eval.txt" \
        --adapter "$work/bad"
}
fresh() {
    rm -rf "$work/bad"
    cp -r "$work/targets" "$work/bad"
}
weights=$work/targets/adapter_model.safetensors
size=$(wc -c < "$weights")
for bytes in 0 7 8 9 100 $((size / 2)) $((size - 1)); do
    fresh
    head -c "$bytes" "$weights" > "$work/bad/adapter_model.safetensors"
    broken
done
fresh
printf '\377\377\377\377\377\377\377\377{}' > "$work/bad/adapter_model.safetensors"
broken
fresh
rm "$work/bad/adapter_model.safetensors"
broken
fresh
rm "$work/bad/adapter_config.json"
broken
for text in '' '{' '[]' '{}' 'null' '{"peft_type":"LORA","r":-1}' \
    '{"peft_type":"IA3","r":8,"lora_alpha":8,"target_modules":["q_proj"]}'; do
    fresh
    printf '%s' "$text" > "$work/bad/adapter_config.json"
    broken
done
# names of another model
fresh
sed 's/layers\.1\./layers.7./g' "$weights" > "$work/bad/adapter_model.safetensors"
broken
rm -rf "$work/bad"
broken

summary program
