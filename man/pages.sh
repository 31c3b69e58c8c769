#!/bin/sh
# usage: pages.sh PROGRAM DIRECTORY
# Write the man pages: beamlora.1 from beamlora.1.in, and one for every command that the
# program has, from its own --help=table, so that no page can be out of date. What a page
# shows as examples is in COMMAND.examples, if there is one.
set -eu
program=$1 out=$2
case $program in */*) ;; *) program=./$program ;; esac
here=$(dirname "$0")
date='November 23, 2026' # of the last change here
version=$("$program" --version)
tab=$(printf '\t')

mkdir -p "$out"
rm -f "$out"/beamlora.1 "$out"/beamlora-*.1

# command NAME SUMMARY: its page
command_page()
{
    cat << END
.Dd $date
.Dt BEAMLORA-$(echo "$1" | tr '[:lower:]' '[:upper:]') 1
.Os $version
.Sh NAME
.Nm beamlora-$1
.Nd $2
.Sh SYNOPSIS
END
    "$program" "$1" --help=table > "$out/table"
    awk -F '\t' -v name="$1" -f "$here/page.awk" "$out/table"
    sed -n '/^\.Sh EXIT STATUS/,/^\.El/p' "$here/beamlora.1.in"
    if [ -f "$here/$1.examples" ]; then
        echo .Sh EXAMPLES
        cat "$here/$1.examples"
    fi
    cat << END
.Sh SEE ALSO
.Xr beamlora 1
END
}

"$program" --help=table > "$out/commands"
while IFS=$tab read -r name summary; do
    command_page "$name" "$summary" > "$out/beamlora-$name.1"
done < "$out/commands"

awk -F '\t' '{ printf ".It Cm %s\n%s\n", $1, $2 }' "$out/commands" > "$out/list"
sort "$out/commands" | awk '{ printf "%s.Xr beamlora-%s 1", (NR > 1 ? " ,\n" : ""), $1 }
    END { print "" }' > "$out/pages"
sed -e "s/@DATE@/$date/" -e "s/@VERSION@/$version/" \
    -e "/^@COMMANDS@\$/r $out/list" -e '/^@COMMANDS@$/d' \
    -e "/^@PAGES@\$/r $out/pages" -e '/^@PAGES@$/d' \
    "$here/beamlora.1.in" > "$out/beamlora.1"
rm "$out/table" "$out/commands" "$out/list" "$out/pages"
