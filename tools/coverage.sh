#!/bin/sh
# The share of src/'s lines that ran, from a build with --coverage whose tests have run; make coverage does both. Code that
# is compiled several times (templates, inline functions) counts once and has run if one of its copies has.
# usage: tools/coverage.sh BUILD [LEAST]: BUILD is the folder of the objects; exit status 1 below LEAST percent.
# Prints the share of each file with its uncovered lines, what is left out and why, and the total.
build=$1 least=${2:-0}
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT

# Files of instruction sets that this CPU has not: their kernels cannot run.
flags=" $(sed -n 's/^flags[^:]*: *//p; s/^Features[^:]*: *//p' /proc/cpuinfo | head -n 1) "
absent() { # "flag of /proc/cpuinfo" "ending of file names" what else is for them alone
    case "$flags" in *" $1 "*) ;; *) ls src/kernels/*_"$2".[ch] $3 2>/dev/null ;; esac
}
{
    absent avx2 avx2
    absent avx_vnni avxvnni
    absent avx512f avx512
    absent avx512_vnni vnni
    absent avx512_bf16 bf16
    absent amx_tile amx src/ops/attention_bf16.c
    absent asimd neon
    absent asimddp dotprod
    absent i8mm i8mm
} | sort -u >"$work/absent"

find "$build" -path '*/src/*.gcno' | sort | while read -r notes; do
    ${GCOV:-gcov} -t "$notes" 2>/dev/null
done | awk -v absent="$work/absent" -v least="$least" '
    BEGIN { while ((getline file < absent) > 0) out[file] = 1 }
    {
        count = $0; sub(/:.*/, "", count); gsub(/[ *]/, "", count)
        rest = $0; sub(/^[^:]*:/, "", rest); line = rest; sub(/:.*/, "", line); line += 0
    }
    line == 0 {
        if (rest ~ /^ *0:Source:/) { source = rest; sub(/^ *0:Source:/, "", source); sub(/^\.\//, "", source) }
        next
    }
    source !~ /^src\// || count == "-" || count == "" { next }
    {
        key = source SUBSEP line
        if (!(key in ran)) { ran[key] = 0; lines[source]++; if (line > last[source]) last[source] = line }
        if (count ~ /^[0-9]/ && !ran[key]) { ran[key] = 1; hit[source]++ }
    }
    END {
        for (source in lines) names[++n] = source
        for (i = 2; i <= n; i++) # by name
            for (j = i; j > 1 && names[j] < names[j - 1]; j--) { t = names[j]; names[j] = names[j - 1]; names[j - 1] = t }
        for (i = 1; i <= n; i++) {
            source = names[i]
            if (source in out) { left = left " " source; continue }
            all += lines[source]; good += hit[source]
            if (hit[source] == lines[source]) continue
            text = ""
            for (l = 1; l <= last[source]; l++)
                if ((source SUBSEP l) in ran && !ran[source SUBSEP l]) text = text " " l
            printf "%s: %.1f %% of %d lines; not run:%s\n", source, 100 * hit[source] / lines[source], lines[source], text
        }
        if (left != "") printf "left out, for this CPU has not their instruction sets:%s\n", left
        if (!all) { print "coverage: nothing was measured"; exit 1 }
        printf "coverage: %.2f %% of %d lines\n", 100 * good / all, all
        exit good / all * 100 < least
    }'
