#!/bin/sh
# usage: faults.sh BEAMLORA [ROUNDS]
# Every writer of the program is killed, and has its disk fill up, before each of its calls
# that change files, and killed ROUNDS times (20) at a random moment: the old file or the new
# one is whole, never neither, and what can go on goes on to the same end. Needs test/fault.so
# and test/shards beside the program.

# files are many and each is brought to the disk: in memory where there is a place for that
if [ -z "${TMPDIR:-}" ] && [ -w /dev/shm ]; then
    TMPDIR=/dev/shm
    export TMPDIR
fi
# shellcheck source=test/lib.sh
. "$(dirname "$0")/lib.sh"

rounds=${2:-20}
fault=$(dirname "$program")/test/fault.so
shards=$(dirname "$program")/test/shards
case $fault in /*) ;; *) fault=$PWD/$fault ;; esac
small="$files --batch 2 --context 32 --lr 1e-2"
settings="$small --steps 24 --method beamlora --period 8 --p-start 0.6"

# with FAULT ARGUMENTS...: run the program; its exit status in $status
with() {
    status=0
    FAULT=$1
    shift
    # a sanitizer's library need not come first
    FAULT=$FAULT LD_PRELOAD=$fault \
        ASAN_OPTIONS="verify_asan_link_order=0:${ASAN_OPTIONS:-}" \
        "$program" "$@" > "$work/out" 2> "$work/err" < /dev/null || status=$?
}

# ----- the writers: arguments, prepare, and whether what is there is whole -----

# arguments_of WRITER
arguments_of() {
    case $1 in
    gguf) echo "export $work/new --format gguf --overwrite --out $work/it/adapter.gguf" ;;
    peft) echo "export $work/new --format peft --overwrite --out $work/it" ;;
    merged) echo "export $work/new --model $work/sharded --format merged --out $work/it" ;;
    init) echo "init --config $work/config.json --out $work/it" ;;
    train) echo "train $small --steps 9 --method beamlora --period 4 --p-start 0.6" \
        "--checkpoint-every 3 --out $work/it" ;;
    full) echo "train $small --steps 4 --method full --checkpoint-every 2 --out $work/it" ;;
    esac
}

# old_or_new FILE OLD NEW
old_or_new() {
    cmp -s "$1" "$2" || cmp -s "$1" "$3"
}
# clean DIR: nothing unfinished is left in it
clean() {
    [ -z "$(find "$1" -name '*.tmp*')" ]
}

gguf_prepare() {
    rm -rf "$work/it"
    mkdir "$work/it"
    cp "$work/old.gguf" "$work/it/adapter.gguf"
}
gguf_whole() {
    old_or_new "$work/it/adapter.gguf" "$work/old.gguf" "$work/new.gguf"
}

peft_prepare() {
    rm -rf "$work/it"
    cp -r "$work/old.peft" "$work/it"
}
peft_whole() {
    old_or_new "$work/it/adapter_model.safetensors" \
        "$work/old.peft/adapter_model.safetensors" \
        "$work/new.peft/adapter_model.safetensors" &&
        cmp -s "$work/it/adapter_config.json" "$work/new.peft/adapter_config.json" &&
        "$program" inspect "$work/it" > "$work/out" 2>> "$work/err"
}

# a model that was not finished has no config.json, and the same command writes it then
merged_prepare() {
    rm -rf "$work/it"
}
merged_whole() {
    if [ ! -e "$work/it/config.json" ]; then
        run export "$work/new" --model "$work/sharded" --format merged --out "$work/it"
    fi
    for file in "$work"/new.merged/*; do
        cmp -s "$work/it/${file##*/}" "$file" || return 1
    done
}

init_prepare() {
    rm -rf "$work/it"
}
init_whole() {
    if [ ! -e "$work/it/config.json" ]; then
        # weights of a killed one are whole, and never taken for somebody's
        if [ -e "$work/it/model.safetensors" ]; then
            run init --config "$work/config.json" --out "$work/it"
            [ "$status" = 1 ] && grep -q 'init that was killed' "$work/err" || return 1
            cmp -s "$work/it/model.safetensors" "$work/new.init/model.safetensors" ||
                return 1
            rm "$work/it/model.safetensors"
        fi
        run init --config "$work/config.json" --out "$work/it"
    fi
    cmp -s "$work/it/model.safetensors" "$work/new.init/model.safetensors" &&
        cmp -s "$work/it/config.json" "$work/new.init/config.json"
}

# a training of its own, which ends with the same files or never began
train_prepare() {
    rm -rf "$work/it"
}
train_whole() {
    if [ -e "$work/it/run.json" ]; then
        run train --resume "$work/it"
    else
        # shellcheck disable=SC2046
        run $(arguments_of train)
    fi
    for file in "$work"/new.train/*; do
        case $file in */run.json) continue ;; esac
        cmp -s "$work/it/${file##*/}" "$file" || return 1
    done
    clean "$work/it"
}

full_prepare() {
    rm -rf "$work/it"
}
full_whole() {
    if [ -e "$work/it/run.json" ]; then
        run train --resume "$work/it"
    else
        # shellcheck disable=SC2046
        run $(arguments_of full)
    fi
    for file in "$work"/new.full/*; do
        case $file in */run.json) continue ;; esac
        cmp -s "$work/it/${file##*/}" "$file" || return 1
    done
    clean "$work/it"
}

# ----- what they write when nothing happens -----

# shellcheck disable=SC2086
{
    ok "a run" train $settings --out "$work/old"
    ok "another" train $settings --seed 1 --out "$work/new"
    for name in old new; do
        ok "gguf of $name" export "$work/$name" --format gguf --out "$work/$name.gguf"
        ok "peft of $name" export "$work/$name" --format peft --out "$work/$name.peft"
    done
    cat > "$work/config.json" << 'END'
{"model_type": "llama", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
 "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 256,
 "max_position_embeddings": 64}
END
    ok "init" init --config "$work/config.json" --out "$work/new.init"
    ok "a Hugging Face base" export "$work/old" --format merged --out "$work/base"
    mkdir "$work/sharded"
    is "in three shards" "$shards" "$work/base" "$work/sharded" 3
    ok "merged" export "$work/new" --model "$work/sharded" --format merged \
        --out "$work/new.merged"
    is "merged has three shards" [ "$(find "$work/new.merged" -name 'model-*' | wc -l)" = 3 ]
    for name in train full; do
        arguments=$(arguments_of "$name")
        ok "$name" $arguments
        mv "$work/it" "$work/new.$name"
    done
}

# ----- each call, until one run sees none of it -----

# is it there at all? a sanitizer that is linked into the program hides calls from it
with kill:1 export "$work/new" --format gguf --out "$work/probe.gguf"
if [ "$status" != 137 ]; then
    echo "faults: calls cannot be looked at here, skipped"
    summary faults
    exit
fi

stride=${STRIDE:-1} most=1000
for writer in gguf peft merged init train full; do
    arguments=$(arguments_of "$writer")
    call=1 whole=0 killed=0
    while [ "$call" -lt "$most" ]; do
        "${writer}_prepare"
        # shellcheck disable=SC2086
        with "kill:$call" $arguments
        [ "$status" = 137 ] || break
        killed=$((killed + 1))
        if "${writer}_whole"; then
            whole=$((whole + 1))
        else
            echo "$writer, killed before call $call: neither old nor new" >> "$work/err"
        fi
        call=$((call + stride))
    done
    is "$writer, killed before each of its calls: whole $whole of $killed" \
        [ "$whole" = "$killed" ] && [ "$killed" -gt 2 ]
    is "$writer, not killed: status $status" [ "$status" = 0 ]
done

# a call that fails: one line that names the file, nothing unfinished is left
for writer in gguf peft merged init train full; do
    arguments=$(arguments_of "$writer")
    for error in ENOSPC EIO; do
        call=1 good=0 failed_calls=0
        case $error in EIO) text='Input/output error' ;; *) text='No space left' ;; esac
        while [ "$call" -lt "$most" ]; do
            "${writer}_prepare"
            # shellcheck disable=SC2086
            with "$error:$call" $arguments
            [ "$status" != 0 ] || break
            failed_calls=$((failed_calls + 1))
            if [ "$status" = 1 ] && grep -q "^beamlora: .*/.*: .*$text" "$work/err" &&
                { [ ! -e "$work/it" ] || clean "$work/it"; } && "${writer}_whole"; then
                good=$((good + 1))
            else
                echo "$writer, $error at call $call, status $status" >> "$work/err"
                sed "s/^/    /" "$work/err" >&2
            fi
            call=$((call + stride))
        done
        is "$writer, $error at each call: told, and whole, $good of $failed_calls" \
            [ "$good" = "$failed_calls" ] && [ "$failed_calls" -gt 2 ]
    done
done

# ----- a file that may not grow further, as a process sees a full disk -----

for writer in gguf peft merged init train full; do
    arguments=$(arguments_of "$writer")
    "${writer}_prepare"
    status=0
    # blocks of 512 bytes; run.json and the lines fit
    # shellcheck disable=SC2086
    (ulimit -f 8 && exec "$program" $arguments) > "$work/out" 2> "$work/err" || status=$?
    is "$writer, no file above 4096 bytes: status $status" [ "$status" = 1 ]
    is "$writer, no file above 4096 bytes: the line" \
        grep -q '^beamlora: .*/.*: .*File too large' "$work/err"
    is "$writer, no file above 4096 bytes: nothing unfinished" \
        [ -z "$(find "$work/it" -name '*.tmp*' 2> /dev/null)" ]
    is "$writer, no file above 4096 bytes: the old one, or the same again" "${writer}_whole"
done

# ----- at random moments -----

seed=$(date +%s)
for writer in gguf peft merged train; do
    arguments=$(arguments_of "$writer")
    microseconds=1000000
    for _ in 1 2 3; do
        "${writer}_prepare"
        from=$(date +%s%N)
        # shellcheck disable=SC2086
        with kill:0 $arguments
        took=$((($(date +%s%N) - from) / 1000))
        if [ "$took" -lt "$microseconds" ]; then microseconds=$took; fi
    done
    whole=0 killed=0 round=0
    while [ "$round" -lt "$rounds" ]; do
        round=$((round + 1))
        seed=$(((seed * 1103515245 + 12345) % 2147483648))
        "${writer}_prepare"
        # shellcheck disable=SC2086
        with "after:$((seed % microseconds))" $arguments
        [ "$status" != 137 ] || killed=$((killed + 1))
        if "${writer}_whole"; then
            whole=$((whole + 1))
        fi
    done
    is "$writer, killed at $killed of $rounds random moments: whole $whole" \
        [ "$whole" = "$rounds" ]
    echo "$writer: $killed of $rounds runs were killed before their end"
done

summary faults
