# bash completion for beamlora. All that it knows comes from the program: --help=table.

_beamlora()
{
    local program=${COMP_WORDS[0]/#\~\//$HOME/} command=${COMP_WORDS[1]}
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]}
    local name type choices words='' given wanted='' argument=''

    COMPREPLY=()
    type -P -- "$program" > /dev/null || program=beamlora
    given=" ${COMP_WORDS[*]:0:COMP_CWORD} "

    if [ "$COMP_CWORD" -eq 1 ] || [ "$command $COMP_CWORD" = 'help 2' ]; then
        words=$("$program" --help=table 2> /dev/null | cut -f 1)
        if [ "$COMP_CWORD" -eq 1 ]; then
            words="$words help --help --version"
        fi
        COMPREPLY=($(compgen -W "$words" -- "$current"))
        return
    fi

    # --flag=value is three words, the second of them "="
    if [ "$current" = '=' ]; then
        current=
    elif [ "$previous" = '=' ]; then
        previous=${COMP_WORDS[COMP_CWORD - 2]}
    fi

    while IFS=$'\t' read -r name type choices _; do
        case $name in
        -) ;;
        "$previous")
            wanted=$type
            [ "$type" = choice ] && words=${choices//|/ }
            [ "$type" = switch ] && wanted=
            ;;
        --*)
            case $given in
            *" $name "*) ;;
            *) [ -n "$wanted" ] || words="$words $name" ;;
            esac
            ;;
        *) argument=$type ;;
        esac
    done <<< "$("$program" "$command" --help=table 2> /dev/null)"

    if [ -z "$wanted" ] && [[ $current != -* ]]; then
        wanted=$argument
    fi
    case $wanted in
    '') COMPREPLY=($(compgen -W "$words --help" -- "$current")) ;;
    choice) COMPREPLY=($(compgen -W "$words" -- "$current")) ;;
    file) compopt -o default ;; # readline completes and quotes their names itself
    dir) compopt -o dirnames ;;
    esac
}

complete -F _beamlora beamlora
