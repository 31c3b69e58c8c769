#!/bin/sh
# usage: word_problems.sh GENERATOR
# The data of examples/word_problems: every answer is worked out again from the words,
# lines are JSON, tests are apart from what is trained on, and the bytes are those that
# the shipped base and the documented results were made with.
set -u

generator=$1
case $generator in */*) ;; *) generator=./$generator ;; esac
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
passed=0 failed=0
LC_ALL=C
export LC_ALL

# is WHAT COMMAND...: the command succeeds.
is() {
    what=$1
    shift
    if "$@" > "$work/out" 2>&1; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAIL: $what"
        head -n 5 "$work/out" | sed 's/^/    /'
    fi
}

# equal WHAT VALUE WANTED
equal() {
    is "$1 is $2, must be $3" test "$2" = "$3"
}

# refused PATTERN ARGUMENTS...: exit status 2, one line on stderr, nothing on stdout
refused() {
    pattern=$1
    shift
    status=0
    "$generator" "$@" > "$work/stdout" 2> "$work/err" || status=$?
    equal "exit status of $*" "$status" 2
    is "$*: no line with \"$pattern\"" grep -q -e "$pattern" "$work/err"
    equal "lines about $*" "$(cat "$work/stdout" "$work/err" | wc -l | tr -d ' ')" 1
}

# Fields are split at the quotes: a prompt is $4, its completion $8, a text $4.
check_answers='
function fail(why) { print FILENAME ":" FNR ": " why ": " $0; bad++ }
function number(word) {
    if (word !~ /^(0|[1-9][0-9]*)$/ || word + 0 > 30) { fail("number " word) }
    return word + 0
}
function sign(verb) {
    if (verb ~ /^(gets|finds|buys)$/) { return "+" }
    if (verb ~ /^(loses|gives|sells)$/) { return "-" }
    fail("verb " verb)
}
function result(a, op, b) { return op == "+" ? a + b : a - b }
function name(word) { if (word !~ /^(Tom|Ann|Bob|Eve|Sam|Mia)$/) { fail("name") } }
function item(word) { if (word !~ /^(pens|cups|hats|eggs|nuts|keys)$/) { fail("item") } }

# what must follow the prompt of a problem
function problem(prompt,   n, i, part, w, value, amount, op, sums) {
    if (!sub(/[.] How many[?]$/, "", prompt)) { fail("question") }
    n = split(prompt, part, ", ")
    if (split(part[1], w, " ") != 4 || w[2] != "has" || n != 3) { fail("beginning") }
    name(w[1]); item(w[4]); value = number(w[3])
    for (i = 2; i <= n; i++) {
        if (part[i] == "doubles them") {
            op = "+"; amount = value
        } else {
            split(part[i], w, " "); op = sign(w[1]); amount = number(w[2])
        }
        sums = sums " " value op amount "=" result(value, op, amount)
        value = number(result(value, op, amount))
    }
    return sums
}
function story(text,   n, i, part, w, who, what, value, op, amount, begin, sums) {
    n = split(text, part, /[.:]( |$)/)
    split(part[1], w, " ")
    who = w[1]; what = w[4]; value = number(w[3])
    name(who); item(what)
    begin = who " has " value " " what "."
    # as many steps as sums, before the beginning and the end, and nothing after the last "."
    for (i = 2; i <= (n - 1) / 2; i++) {
        split(part[i], w, " ")
        op = sign(w[2]); amount = number(w[3])
        begin = begin " " who " " w[2] " " amount (i + 1 <= (n - 1) / 2 ? "." : ":")
        sums = sums " " value op amount "=" result(value, op, amount) "."
        value = number(result(value, op, amount))
    }
    if (n != 5 && n != 7) { fail("steps") }
    return begin sums " " who " has " value " " what "."
}
function facts(text,   n, i, sum, w, op, all) {
    n = split(text, sum, " ")
    for (i = 1; i <= n; i++) {
        op = sum[i] ~ /[+]/ ? "+" : "-"
        split(sum[i], w, "[-+=]")
        all = all (i > 1 ? " " : "") number(w[1]) op number(w[2]) "=" \
            number(result(w[1], op, w[2]))
    }
    if (n != 4) { fail("sums") }
    return all
}
kind == "problem" { if ($8 != problem($4)) { fail("must be \"" problem($4) "\"") } }
kind == "known" {
    text = $4 $8
    want = text ~ / has / ? story(text) : facts(text)
    if (text != want) { fail("must be \"" want "\"") }
}
length($4 $8) > 126 { fail("longer than the context") }
END { exit bad > 0 || NR == 0 }'

make_data() {
    "$generator" corpus 30000 1 > "$work/corpus" && "$generator" known 3000 1 > "$work/known" &&
        "$generator" train 30000 1 > "$work/train" && "$generator" test 900 1 > "$work/test"
}
is "data" make_data

word='[-A-Za-z0-9 .,:?+=]*'
for kind in corpus known train test; do
    if [ $kind = corpus ]; then
        line="^{\"text\": \"$word\"}\$"
    else
        line="^{\"prompt\": \"$word\", \"completion\": \"$word\"}\$"
    fi
    equal "malformed lines of $kind" "$(grep -c -v -e "$line" "$work/$kind")" 0
done
for kind in corpus known; do
    is "answers of $kind" awk -F '"' -v kind=known "$check_answers" "$work/$kind"
done
for kind in train test; do
    is "answers of $kind" awk -F '"' -v kind=problem "$check_answers" "$work/$kind"
done

# the check is able to fail
sed 's/24"}$/25"}/' "$work/test" > "$work/wrong"
is "a wrong answer is not found" \
    sh -c '! awk -F "\"" -v kind=problem "$1" "$2"' - "$check_answers" "$work/wrong"

# tests differ from one another and from what is trained on: problems in their sums
awk -F '"' '{ print $8 }' "$work/test" | sort > "$work/test.sums"
awk -F '"' '{ print $8 }' "$work/train" | sort -u > "$work/train.sums"
awk -F '"' '{ print $4 $8 }' "$work/known" | sort > "$work/known.text"
awk -F '"' '{ print $4 }' "$work/corpus" | sort -u > "$work/corpus.text"
equal "tests that come twice" "$(uniq -d "$work/test.sums" | wc -l | tr -d ' ')" 0
equal "known that come twice" "$(uniq -d "$work/known.text" | wc -l | tr -d ' ')" 0
equal "tests in train" \
    "$(comm -12 "$work/test.sums" "$work/train.sums" | wc -l | tr -d ' ')" 0
equal "known in corpus" \
    "$(comm -12 "$work/known.text" "$work/corpus.text" | wc -l | tr -d ' ')" 0

# what the base is not told
equal "questions and doublings in the corpus" \
    "$(grep -c -e doubles -e '?' "$work/corpus")" 0

# the same bytes everywhere; a longer file begins with a shorter one
for want in corpus:2347270835 known:1257955901 \
    train:2541781209 test:1006323536; do
    kind=${want%%:*}
    equal "checksum of $kind" "$(head -n 900 "$work/$kind" | cksum | cut -d ' ' -f 1)" \
        "${want#*:}"
    "$generator" "$kind" 900 1 > "$work/short"
    equal "checksum of 900 lines of $kind" "$(cksum < "$work/short" | cut -d ' ' -f 1)" \
        "${want#*:}"
    "$generator" "$kind" 900 2 > "$work/other"
    is "$kind: another seed, the same data" sh -c '! cmp -s "$1" "$2"' - "$work/short" \
        "$work/other"
done

refused '^usage: ' corpus 10
refused 'kind is tests' tests 10 1
refused 'COUNT is -1' test -1 1
refused 'SEED is 1x' test 10 1x
refused 'COUNT is 5001, must be <= 5000' test 5001 1
is "more tests than there are" sh -c '! "$1" test 2000 1 2>&1 >/dev/null' - "$generator"
equal "bytes of no examples" "$("$generator" test 0 1 | wc -c | tr -d ' ')" 0

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
