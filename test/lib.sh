# shellcheck shell=sh
# Sourced by the tests of the program, with its path as $1: counting, running, a random
# model of 6,000 weights with texts for it. Needs tiny_model beside the program in test/,
# or a compiler.
set -u

program=$1
case $program in */*) ;; *) program=./$program ;; esac
here=$(dirname "$0")
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
passed=0 failed=0
OPENBLAS_NUM_THREADS=1
export OPENBLAS_NUM_THREADS

pass() {
    passed=$((passed + 1))
}

fail() {
    failed=$((failed + 1))
    echo "FAIL: $*" >&2
    sed 's/^/    /' "$work/err" | tail -n 20 >&2
}

# Run the program; output in $work/out and $work/err, exit status in $status.
run() {
    status=0
    "$program" "$@" > "$work/out" 2> "$work/err" < /dev/null || status=$?
    if grep -q -e Sanitizer -e 'runtime error' "$work/err"; then
        status=sanitizer
    fi
}

# ok WHAT FLAGS...: exit status 0.
ok() {
    what=$1
    shift
    run "$@"
    if [ "$status" = 0 ]; then pass; else fail "$what: status $status, must be 0"; fi
}

# refused STATUS PATTERN FLAGS...: this status, a line "beamlora: ..." with the pattern,
# and nothing on stdout.
refused() {
    want=$1 pattern=$2
    shift 2
    run "$@"
    if [ "$status" != "$want" ]; then
        fail "$*: status $status, must be $want"
    elif ! grep '^beamlora: ' "$work/err" | grep -q -e "$pattern"; then
        fail "$*: no line with \"$pattern\""
    elif [ -s "$work/out" ]; then
        fail "$*: refused, but there is something on stdout"
    else
        pass
    fi
}

# is WHAT COMMAND...: the command succeeds.
is() {
    what=$1
    shift
    if "$@"; then pass; else fail "$what"; fi
}

# near WHAT A B TOLERANCE; less WHAT A B
near() {
    is "$1: $2 and $3" awk -v a="$2" -v b="$3" -v t="$4" \
        'BEGIN { exit !(a != "" && b != "" && a - b <= t && b - a <= t) }'
}
less() {
    is "$1: $2 must be below $3" awk -v a="$2" -v b="$3" \
        'BEGIN { exit !(a != "" && b != "" && a + 0 < b + 0) }'
}

# number KEY: from the last line of the last run's stdout
number() {
    tail -n 1 "$work/out" | sed -n "s/.*\"$1\": *\\([-+.0-9e]*\\)[,}].*/\\1/p"
}

# ----- a model and data -----

tiny=$(dirname "$program")/test/tiny_model
if [ ! -x "$tiny" ]; then
    tiny=$work/tiny_model
    ${CC:-cc} -std=c11 -o "$tiny" "$here/tiny_model.c" -lm || exit 1
fi
model=$work/model.bin
"$tiny" "$model" || exit 1
text() { # FROM TO
    awk -v i="$1" -v n="$2" \
        'BEGIN { for (; i < n; i++) printf "the quick fox leaps over %d dogs\n", i }'
}
text 0 90 > "$work/train.txt"
text 90 99 > "$work/eval.txt"
# the same as 16-bit ids
escapes=$(od -An -v -t o1 "$work/train.txt" |
    awk '{ for (i = 1; i <= NF; i++) printf "\\%s\\000", $i }')
# shellcheck disable=SC2059
printf "$escapes" > "$work/train.u16"

# shellcheck disable=SC2034 # for those that source this
{
    files_eval="--model $model --tokenizer bytes --data $work/eval.txt"
    files="--model $model --tokenizer bytes --data $work/train.txt"
    quick="$files --batch 4 --context 32 --steps 48 --lr 1e-2 --json"
    evaluation="--eval-data $work/eval.txt"
}

# summary NAME: the last line, and the script's exit status
summary() {
    echo "$1: $passed checks passed"
    echo "$passed passed, $failed failed"
    [ "$failed" -eq 0 ]
}
