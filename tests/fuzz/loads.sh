#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# loads.sh [-n LOADS] [-o OPERATIONS] [-t SECONDS] [-k FOLDER] [TARGET...]: fuzz the targets that load state (all of them,
# or those named) until each kind of state in them was loaded successfully LOADS times (a million), each time with OPERATIONS
# behind it (64), or for SECONDS each. Corpus and counts stay in FOLDER (build/fuzz/loads), where another run goes on. Prints
# counts and coverage. loads.sh -l: the names of all these targets.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
loads=1000000 operations=64 seconds=0 keep=$top/build/fuzz/loads chunk=60
all=$(sed -n 's/^ferry_fuzz_loads(\([a-z0-9]*\) .*/\1/p' "$here"/fuzz.cmake "$here"/../*.cmake | sort | tr '\n' ' ')

usage() {
    sed -n '3,6s/^# //p' "$0"
    exit 2
}

while getopts "ln:o:t:k:" option; do
    case $option in
    l) echo "$all"; exit ;;
    n) loads=$OPTARG ;;
    o) operations=$OPTARG ;;
    t) seconds=$OPTARG ;;
    k) keep=$OPTARG ;;
    *) usage ;;
    esac
done
shift $((OPTIND - 1))
[ $# -gt 0 ] || set -- $all

# The counts of a target are lines "KIND TRIED TAKEN OPERATIONS SECONDS": add those of a run's log.
add() { # add COUNTS LOG SECONDS
    local t
    t=$(mktemp)
    touch "$1"
    awk -v s="$3" '
        FILENAME == ARGV[1] { tried[$1] = $2; taken[$1] = $3; done[$1] = $4; time[$1] = $5; next }
        $1 == "loads:" { k = $2; sub(":", "", k); tried[k] += $3; taken[k] += $5; done[k] += $7; time[k] += s }
        END { for (k in tried) printf "%s %d %d %d %d\n", k, tried[k], taken[k], done[k], time[k] }' "$1" "$2" >"$t"
    mv "$t" "$1"
}

# Of a target with several kinds the number of the one that has the fewest loads, once there are counts of all.
fewest() { # fewest COUNTS LOG
    local kind
    [ -s "$1" ] || return 0
    kind=$(sort -n -k 3 "$1" | sed -n '1s/ .*//p')
    awk -v k="$kind:" '$1 == "loads:" { if ($2 == k) print n + 0; n++ }' "$2"
}

enough() { # enough COUNTS
    [ -s "$1" ] && awk -v n="$loads" '$3 < n { few = 1 } END { exit few }' "$1"
}

# Share of the edges of each source file that has any covered.
coverage() { # coverage TARGET CORPUS...
    "$1" -runs=0 -print_coverage=1 "${@:2}" 2>&1 | awk -v top="$top/" '
        /COVERED_FUNC:/ {
            split($0, part, "edges: "); split(part[2], e, /[\/ ]/)
            n = split($0, word, " "); file = word[n]; sub(/:[0-9]+.*/, "", file); sub(top, "", file)
            if (file ~ /^hv\//) { hit[file] += e[1]; of[file] += e[2] }
        }
        END { for (f in hit) if (hit[f]) printf "    %-32s %d of %d edges, %d %%\n", f, hit[f], of[f], 100 * hit[f] / of[f] }' | sort
}

load_until_enough() { # load_until_enough NAME
    local name=$1 target=$top/build/fuzz/tests/fuzz/fuzz_$1 mine=$keep/$1 begin=$SECONDS start run kind
    [ -x "$target" ] || { echo "$name: there is no $target (cmake --build --preset fuzz)"; return 1; }
    mkdir -p "$mine/corpus"
    while ! enough "$mine/counts"; do
        start=$SECONDS run=$chunk
        if [ "$seconds" -gt 0 ]; then
            [ $((SECONDS - begin)) -lt "$seconds" ] || break
            [ $((begin + seconds - SECONDS)) -ge "$run" ] || run=$((begin + seconds - SECONDS))
        fi
        # Without the schedule by rare features, which takes a third of the time here.
        kind=$(fewest "$mine/counts" "$mine/log")
        if ! env ASAN_OPTIONS="${ASAN_OPTIONS:-malloc_context_size=5}" ${kind:+FERRY_FUZZ_KIND=$kind} FERRY_FUZZ_OPERATIONS="$operations" "$target" -entropic=0 -max_total_time="$run" -timeout=10 -rss_limit_mb=2048 -len_control=0 -artifact_prefix="$mine/" \
            "$mine/corpus" "$here/corpus/$name" >"$mine/log" 2>&1; then
            tail -60 "$mine/log"
            echo "$name: FAILED; its input is in $mine"
            return 1
        fi
        add "$mine/counts" "$mine/log" $((SECONDS - start))
    done
    awk -v name="$name" '{ printf "%s: %s: %d loads of %d, %d operations on those, in %d s\n", name, $1, $3, $2, $4, $5 }' "$mine/counts"
    sed -n "s/.*DONE *\(cov: [0-9]* ft: [0-9]*\).*/$name: \1/p" "$mine/log" | tail -1
    coverage "$target" "$mine/corpus" "$here/corpus/$name"
    enough "$mine/counts" || echo "$name: fewer than $loads"
}

status=0
for name in "$@"; do
    load_until_enough "$name" || status=1
done
exit $status
