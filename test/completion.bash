# usage: completion.bash PROGRAM SCRIPT COMMANDS DIRECTORY
# Completion in bash: everything in the program's own tables, COMMANDS and
# DIRECTORY/<command>.table, is offered.
set -u
program=$1 tables=$4 failed=0
# shellcheck source=/dev/null
source "$2"

# readline is not there: what it is asked for is kept
compopt()
{
    options="$*"
}

# offers WANTED WORDS...: completing the last word offers just this, sorted
offers()
{
    local wanted=$1 got
    shift
    COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=(left over) options=
    _beamlora
    got=$(printf '%s\n' ${COMPREPLY[@]+"${COMPREPLY[@]}"} | sort | tr '\n' ' ')
    got="${got# }$options"
    if [ "$got" != "$wanted" ]; then
        echo "bash: $*: offers \"$got\", must be \"$wanted\"" >&2
        failed=1
    fi
}

# sorted, with a space behind each
sorted()
{
    printf '%s\n' "$@" | sort | tr '\n' ' '
}

commands=$(cut -f 1 "$3")
offers "$(sorted $commands help --help --version)" "$program" ''
offers "$(sorted $commands)" "$program" help ''
offers 'train ' "$program" tr
offers '' "$program" zzz
offers '--help ' "$program" zzz --

for command in $commands; do
    flags=$(sed -n $'s/^\(--[^\t]*\).*/\\1/p' "$tables/$command.table")
    offers "$(sorted $flags --help)" "$program" "$command" --
    while IFS=$'\t' read -r name type choices _; do
        case $type in
        choice)
            offers "$(sorted ${choices//|/ })" "$program" "$command" "$name" ''
            offers "$(sorted ${choices//|/ })" "$program" "$command" "$name" =
            offers "${choices%%|*} " "$program" "$command" "$name" = "${choices%%|*}"
            ;;
        switch)
            offers "$(sorted $(echo "$flags" | grep -v -x -e "$name") --help)" "$program" \
                "$command" "$name" --
            ;;
        file) offers '-o default' "$program" "$command" "$name" x ;;
        dir) offers '-o dirnames' "$program" "$command" "$name" = x ;;
        string | integer | real) offers '' "$program" "$command" "$name" '' ;;
        esac
    done < <(grep -e '^--' "$tables/$command.table")
    case $(sed -n $'/^-/!s/^[^\t]*\t\([a-z]*\).*/\\1/p' "$tables/$command.table") in
    file) offers '-o default' "$program" "$command" x ;;
    dir) offers '-o dirnames' "$program" "$command" x ;;
    *) offers "$(sorted $flags --help)" "$program" "$command" '' ;;
    esac
done
[ "$failed" = 0 ]
