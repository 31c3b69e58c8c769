# The rows of `beamlora NAME --help=table` as the rest of a synopsis and a description, in
# mdoc. The first lines of text, up to an empty one, are the synopsis.

function escaped(s)
{
    gsub(/\\/, "\\e", s)
    s = " " s
    gsub(/ -/, " \\-", s) # a flag or a number, not a hyphen
    gsub(/\(-/, "(\\-", s)
    gsub(/\\--/, "\\-\\-", s)
    s = substr(s, 2)
    return s ~ /^[.']/ ? "\\&" s : s
}

# each on a line of its own
function sentences(s,    done)
{
    while (match(s, /[.:] +[A-Z]/)) {
        done = done substr(s, 1, RSTART) "\n"
        s = substr(s, RSTART + RLENGTH - 1)
    }
    return done s
}

# "beamlora plot RUN... [--out DIR]" as macros
function synopsis(s,    words, n, i, word, line, closing)
{
    n = split(s, words, " ")
    i = 1
    if (words[1] == "beamlora") {
        print ".Nm beamlora " words[2]
        i = 3
    }
    line = ""
    for (; i <= n; i++) {
        word = words[i]
        closing = ""
        while (word ~ /^\[/) {
            line = line " Oo"
            word = substr(word, 2)
        }
        while (word ~ /\]$/) {
            closing = closing " Oc"
            word = substr(word, 1, length(word) - 1)
        }
        sub(/\.\.\.$/, " ...", word)
        if (word ~ /^-/) {
            line = line " Fl " substr(word, 2)
        } else if (word ~ /^[a-z|]+$/ && word != "flags") {
            line = line " Cm " word
        } else {
            line = line " Ar " word
        }
        line = line closing
    }
    if (line != "") {
        print "." substr(line, 2)
    }
}

function open_list()
{
    if (!listing) {
        print ".Bl -tag -width Ds"
        listing = 1
    }
}

function close_list()
{
    if (listing) {
        print ".El"
        listing = 0
    }
}

BEGIN {
    place["string"] = " Ar VALUE"
    place["file"] = " Ar FILE"
    place["dir"] = " Ar DIR"
    place["integer"] = " Ar N"
    place["real"] = " Ar X"
}

$2 == "text" && !described && $4 != "" {
    synopsis($4)
    next
}

!described {
    described = 1
    fresh = 1
    print ".Sh DESCRIPTION"
}

$2 == "text" {
    if ($4 == "") {
        gap = !fresh
        next
    }
    if (gap) {
        print ".Pp"
        gap = 0
    }
    fresh = 0
    print sentences(escaped($4))
    next
}

$2 == "common" { next }

$2 == "heading" {
    close_list()
    headed = 1
    print ".Ss \"" $4 "\""
    next
}

{
    if (!listing && !headed) {
        print (fresh ? "" : ".Pp\n") "The flags are:"
    }
    open_list()
    if ($1 !~ /^-/) {
        print ".It Ar " $1 ($3 == "..." ? " ..." : "")
    } else if ($2 == "choice") {
        choices = $3
        gsub(/\|/, " | ", choices)
        print ".It Fl " substr($1, 2) " Cm " choices
    } else {
        print ".It Fl " substr($1, 2) place[$2]
    }
    print escaped($4)
}

END { close_list() }
