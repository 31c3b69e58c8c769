#!/bin/sh
# usage: run.sh LOGDIR NAME=COMMAND ...
# Run every command, its output in LOGDIR/NAME.log and shown only if it fails. One line for
# each, and as the last one "N passed, N failed". What counts is what a command says about
# itself: Check's "Checks: 7, Failures: 0, Errors: 0" or "7 passed, 0 failed"; one that
# says nothing counts as one test by its exit status. Fails if anything failed.
set -u
logs=$1
shift
mkdir -p "$logs"
passed=0 failed=0

for item do
    name=${item%%=*} command=${item#*=}
    log=$logs/$name.log
    start=$(date +%s)
    status=0
    sh -c "$command" > "$log" 2>&1 < /dev/null || status=$?
    seconds=$(($(date +%s) - start))

    # passed and failed, summed over all lines that tell
    counts=$(sed -n \
        -e 's/.*Checks: \([0-9]*\), Failures: \([0-9]*\), Errors: \([0-9]*\).*/c \1 \2 \3/p' \
        -e 's/^\([0-9]*\) passed, \([0-9]*\) failed$/p \1 \2/p' "$log" |
        awk '$1 == "c" { p += $2 - $3 - $4; f += $3 + $4 }
             $1 == "p" { p += $2; f += $3 }
             END { print (NR ? p + 0 : "none"), f + 0 }')
    p=${counts% *} f=${counts#* }
    if [ "$p" = none ]; then
        p=$((status == 0))
        f=0
    fi
    # crashed on the way, or failed without saying of what
    if [ "$status" -ne 0 ] && [ "$f" -eq 0 ]; then
        f=1
    fi
    passed=$((passed + p)) failed=$((failed + f))
    if [ "$f" -eq 0 ]; then
        printf '  ok    %-24s %5d  %3d s\n' "$name" "$p" "$seconds"
    else
        printf '  FAIL  %-24s %5d failed, exit status %d, log %s\n' "$name" "$f" "$status" \
            "$log"
        tail -n 60 "$log" | sed 's/^/        /'
    fi
done

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
