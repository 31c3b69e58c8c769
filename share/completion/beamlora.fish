# fish completion for beamlora. All that it knows comes from the program: --help=table.

function __beamlora_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    set -l program $words[1]
    set -l previous $words[-1]
    set -l prefix ''
    set -l wanted ''
    set -l argument ''
    set -l rows

    if test (count $words) -eq 1; or test "$words[2..-1]" = help
        $program --help=table 2>/dev/null
        test (count $words) -eq 1; and printf 'help\twhat a command does\n'
        return
    end

    if string match -q -- '--*=*' $current
        set previous (string split -m 1 = -- $current)[1]
        set prefix $previous=
        set current (string split -m 1 = -- $current)[2]
    end
    for row in ($program $words[2] --help=table 2>/dev/null)
        set -l column (string split \t -- $row)
        if test $column[1] = "$previous"; and test $column[2] != switch
            set wanted $column[2]
            set rows $prefix(string split '|' -- $column[3])
            break
        else if string match -q -- '--*' $column[1]
            contains -- $column[1] $words; or set -a rows $column[1]\t$column[4]
        else if test $column[1] != -
            set argument $column[2]
        end
    end

    if test -z "$wanted"; and not string match -q -- '-*' $current
        set wanted $argument
    end
    switch "$wanted"
        case '' choice
            printf '%s\n' $rows
        case file
            printf '%s\n' $prefix(__fish_complete_path $current)
        case dir
            printf '%s\n' $prefix(__fish_complete_directories $current)
    end
end

complete -c beamlora -f -a '(__beamlora_complete)'
