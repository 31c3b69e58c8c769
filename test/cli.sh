#!/bin/sh
# usage: cli.sh BEAMLORA
# The program's habits on a command line, for every command that it has: help that fits a
# screen, completion, man pages, output to pipes and terminals. What other tools it takes
# for that and are not there is left out with a line.
set -u

program=$1
case $program in */*) ;; *) program=./$program ;; esac
here=$(dirname "$0")
share=$here/../share/completion
man=$(dirname "$program")/man
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
passed=0 failed=0
tab=$(printf '\t')
OPENBLAS_NUM_THREADS=1
export OPENBLAS_NUM_THREADS

# is WHAT COMMAND...: the command succeeds.
is() {
    what=$1
    shift
    if "$@"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAIL: $what" >&2
    fi
}

# Run the program; output in $work/out and $work/err, exit status in $status.
run() {
    status=0
    "$program" "$@" > "$work/out" 2> "$work/err" < /dev/null || status=$?
}

# helps ARGUMENTS...: help on stdout, nothing on stderr
helps() {
    run "$@"
    is "$*: exit status $status" [ "$status" = 0 ]
    is "$*: stdout" [ -s "$work/out" ]
    is "$*: stderr" [ ! -s "$work/err" ]
    is "$*: 80 columns" awk 'length($0) > 80 { exit 1 }' "$work/out"
}

# refused PATTERN ARGUMENTS...
refused() {
    pattern=$1
    shift
    run "$@"
    is "$*: exit status $status" [ "$status" = 2 ]
    is "$*: says $pattern" grep -q "^beamlora: .*$pattern" "$work/err"
    is "$*: nothing on stdout" [ ! -s "$work/out" ]
}

skip() {
    echo "cli: no $1, skipped"
}

# ----- help -----

screen() {
    is "$*: 24 lines" [ "$(wc -l < "$work/out")" -le 24 ]
}

helps --help
screen --help
cp "$work/out" "$work/help"
for same in -h help; do
    helps $same
    is "$same is --help" cmp -s "$work/out" "$work/help"
done
run
is "no command: exit status $status" [ "$status" = 2 ]
is "no command: the help on stderr" cmp -s "$work/err" "$work/help"
is "no command: nothing on stdout" [ ! -s "$work/out" ]
refused 'did you mean train?' trian
refused 'did you mean generate?' help generat
refused 'unknown command "zzzzzzzzz"; beamlora --help' zzzzzzzzz
refused 'unexpected argument "eval"' help train eval

run --help=table
cp "$work/out" "$work/commands"
is "there are commands" [ -s "$work/commands" ]
is "commands have a name and a summary" awk -F '\t' \
    'NF != 2 || $1 !~ /^[a-z-]+$/ || $2 == "" { exit 1 }' "$work/commands"
commands=$(cut -f 1 "$work/commands")

for command in $commands; do
    is "--help has $command" grep -q "^  $command " "$work/help"
    helps "$command" --help
    screen "$command" --help
    cp "$work/out" "$work/short"
    is "$command --help says how to use it" grep -q "^usage: beamlora $command " "$work/short"
    for same in "$command -h" "help $command" "$command --zzz --help"; do
        # shellcheck disable=SC2086
        helps $same
        is "$same is $command --help" cmp -s "$work/out" "$work/short"
    done
    helps "$command" --help=all
    cp "$work/out" "$work/all"

    run "$command" --help=table
    cp "$work/out" "$work/$command.table"
    is "$command: rows of the table" awk -F '\t' '
        NF != 4 || $1 == "" || $3 == "" { exit 1 }
        $2 !~ /^(text|common|heading|string|file|dir|integer|real|choice|switch)$/ { exit 1 }
        $1 ~ /^--/ && $4 == "" { exit 1 }
        ($2 == "choice") != ($3 != "-" && $3 != "...") { exit 1 }' "$work/out"
    for flag in $(sed -n "s/^\\(--[^$tab]*\\).*/\\1/p" "$work/out"); do
        is "$command --help=all has $flag" grep -q -e "^  $flag\( \|\$\)" "$work/all"
    done
    for name in $(sed -n "s/^-${tab}common$tab-$tab//p" "$work/out"); do
        is "$command --help has --$name" grep -q -e "^  --$name\( \|\$\)" "$work/short"
    done
done
run train --help
is "train --help is not all" grep -q -e '^--help=all lists' "$work/out"
run generate --prompt -h
is "a flag's value is no question for help" [ "$status" = 2 ]
refused '--help=all lists them' train --zzzzzzzzzzzzzzz 1

# ----- completion -----

if command -v bash > /dev/null; then
    is "bash" bash "$here/completion.bash" "$program" "$share/beamlora.bash" "$work/commands" \
        "$work"
else
    skip bash
fi

# zsh's own functions print what they are called with
cat > "$work/try.zsh" << 'END'
_arguments() { shift; print -l -- "$@" }
_describe() { print -l -- "${(P@)2}" }
script=$1
shift
words=("$@")
CURRENT=$#
source "$script"
END
if command -v zsh > /dev/null; then
    zsh -f "$work/try.zsh" "$share/_beamlora" "$program" '' > "$work/out" 2>&1
    for command in $commands; do
        is "zsh: $command" grep -q "^$command:" "$work/out"
    done
    for command in $commands; do
        zsh -f "$work/try.zsh" "$share/_beamlora" "$program" "$command" '' > "$work/out" 2>&1
        for flag in $(sed -n "s/^\\(--[^$tab]*\\).*/\\1/p" "$work/$command.table"); do
            is "zsh: $command $flag" grep -q -e "^$flag=\\{0,1\\}\\[" "$work/out"
        done
    done
    zsh -f "$work/try.zsh" "$share/_beamlora" "$program" train '' > "$work/out" 2>&1
    is "zsh: choices" grep -q -e '--scope=\[.*\]:value:(module joint global)$' "$work/out"
    is "zsh: files" grep -q -e '--data=\[.*\]:file:_files$' "$work/out"
    is "zsh: directories" grep -q -e '--out=\[.*\]:directory:_files -/$' "$work/out"
else
    skip zsh
fi

if command -v fish > /dev/null; then
    fish_offers() { # LINE
        HOME=$work fish --no-config -c \
            'source $argv[1]; complete -C $argv[2]' "$share/beamlora.fish" "$1" > "$work/out" 2>&1
    }
    PATH=$(cd "$(dirname "$program")" && pwd):$PATH
    fish_offers 'beamlora '
    for command in $commands; do
        is "fish: $command" grep -q "^$command$tab" "$work/out"
    done
    for command in $commands; do
        fish_offers "beamlora $command --"
        for flag in $(sed -n "s/^\\(--[^$tab]*\\).*/\\1/p" "$work/$command.table"); do
            is "fish: $command $flag" grep -q -e "^$flag$tab" "$work/out"
        done
    done
    fish_offers 'beamlora train --scope '
    is "fish: choices" [ "$(sort "$work/out" | tr '\n' ' ')" = 'global joint module ' ]
    fish_offers 'beamlora train --scope=j'
    is "fish: choices behind =" [ "$(cat "$work/out")" = '--scope=joint' ]
else
    skip fish
fi

# ----- man pages -----

lint() { # PAGE
    if command -v mandoc > /dev/null; then
        mandoc -T lint -W warning "$1"
    else
        [ -z "$(groff -mandoc -ww -z -Tascii "$1" 2>&1)" ]
    fi
}
for name in beamlora $(sed 's/^/beamlora-/; s/\t.*//' "$work/commands"); do
    is "a page for $name" [ -s "$man/$name.1" ]
    if command -v mandoc > /dev/null || command -v groff > /dev/null; then
        is "$name.1 is well-formed" lint "$man/$name.1"
    fi
done
command -v mandoc > /dev/null || command -v groff > /dev/null || skip 'mandoc or groff'
is "no page without a command" [ "$(find "$man" -name 'beamlora-*.1' | wc -l)" = \
    "$(wc -l < "$work/commands")" ]
for command in $commands; do
    sed -n "s/^\\(--[^$tab]*\\).*/\\1/p" "$work/$command.table" | sort > "$work/flags"
    sed -n 's/^\.It Fl -\([^ ]*\).*/--\1/p' "$man/beamlora-$command.1" | sort > "$work/page"
    is "beamlora-$command.1 has all flags" cmp "$work/flags" "$work/page"
done
# examples are of commands and flags that exist; lines that end in \e go on in the next
for page in "$here"/../man/*.examples "$here"/../man/beamlora.1.in; do
    name=${page##*/}
    case $name in
    *.examples)
        is "$name belongs to a command" grep -q "^${name%.examples}$tab" "$work/commands" ;;
    esac
    sed -e ':a' -e '/\\e$/{N;s/\\e\n//;ba' -e '}' "$page" | awk '$1 == "beamlora" {
        for (i = 3; i <= NF; i++) {
            if ($i ~ /^--/) { sub(/=.*/, "", $i); print $2, $i }
        }
    }' | sort -u > "$work/used"
    is "$name: has examples" [ -s "$work/used" ]
    while read -r command flag; do
        is "$name: $command $flag" grep -q -e "^$flag$tab" "$work/$command.table"
    done < "$work/used"
done

# ----- pipes -----

# closed FLAGS...: a reader that has left is no reason for a message. The gate is opened
# when it has.
mkfifo "$work/gate" || exit 1
closed() {
    {
        read -r _ < "$work/gate"
        status=0
        "$program" "$@" 2> "$work/err" < /dev/null || status=$?
        echo "$status" > "$work/status"
    } | {
        exec < /dev/null
        echo > "$work/gate"
    }
    status=$(cat "$work/status")
    if [ "$status" = 141 ]; then
        is "$*, a closed pipe: quiet" [ ! -s "$work/err" ]
    else # where SIGPIPE is ignored, it is an error as any other
        is "$*, a closed pipe: exit status $status" [ "$status" = 1 ]
        is "$*, a closed pipe: line" grep -q '^beamlora: cannot write' "$work/err"
    fi
}
closed --help
closed train --help=all

# ----- terminals -----

tiny=$(dirname "$program")/test/tiny_model
if [ ! -x "$tiny" ]; then
    tiny=$work/tiny_model
    ${CC:-cc} -std=c11 -o "$tiny" "$here/tiny_model.c" -lm || exit 1
fi
"$tiny" "$work/model.bin" || exit 1
awk 'BEGIN { for (; i < 40; i++) printf "the quick fox leaps over %d dogs\n", i }' \
    > "$work/data.txt"
train="train --model $work/model.bin --tokenizer bytes --data $work/data.txt --batch 2
    --context 16 --steps 36"
escape=$(printf '\033') return=$(printf '\r')

# shellcheck disable=SC2086
run $train
is "not a terminal: exit status $status" [ "$status" = 0 ]
is "not a terminal: the line is whole" grep -q \
    '^step 36/36  loss [0-9.]*  [0-9]* tokens/s  0:00:00 left$' "$work/err"
is "not a terminal: no codes" sh -c '! grep -q "[$1$2]" "$3" "$4"' sh "$escape" "$return" \
    "$work/out" "$work/err"

# on_terminal ENVIRONMENT: the training on a terminal of 30 columns. Lines end with a
# carriage return there, which is taken away; those that are left redraw.
on_terminal() {
    echo "stty cols 30; $1 $program" $train > "$work/script"
    script -q -e -c "sh $work/script" /dev/null < /dev/null > "$work/raw" 2>&1 || return 1
    sed "s/$return\$//" "$work/raw" > "$work/out"
}
if script -q -e -c true /dev/null < /dev/null > "$work/out" 2>&1; then
    is "terminal" on_terminal 'TERM=xterm'
    is "terminal: redrawn" grep -q "^\\(.*$return\\)step 36/36  loss [0-9.]*" "$work/out"
    is "terminal: no codes" sh -c '! grep -q "$1" "$2"' sh "$escape" "$work/out"
    grep "$return" "$work/out" | tr "$return" '\n' > "$work/drawn"
    is "terminal: nothing wraps" awk 'length($0) > 29 { exit 1 }' "$work/drawn"
    is "dumb terminal" on_terminal 'TERM=dumb'
    is "dumb terminal: a plain line" grep -q '^step 36/36  loss .* left$' "$work/out"
    is "dumb terminal: not redrawn" sh -c '! grep -q "$1" "$2"' sh "$return" "$work/out"
else
    skip script
fi

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
