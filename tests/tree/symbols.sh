#!/bin/sh
# The interface is the same everywhere: functions declared in dqt.h, src/dqt.map, docs/symbols-in-versions, and what the
# shared library exports; each is used by a test; and the library needs and holds nothing else.
. "$(dirname "$0")/common"
LC_ALL=C
export LC_ALL
so=$OUTDIR/libdqt.so

# Declarations, comments gone: what stands between the visibility attribute and the first parenthesis.
$CC -DDQT_EXPERIMENTAL -E -P include/dqt.h | tr '\n' ' ' | grep -o '(visibility("default"))) [^;(]*(' |
    sed 's/.*[ *]\(dqt_[a-z0-9_]*\) *($/\1/' | sort >"$tmp/header"
sed -n '/global:/,/local:/s/^ *\([a-z0-9_]*\);.*/\1/p' src/dqt.map | sort >"$tmp/map"
awk '/^#/ { functions = /^# .*functions$/; next } functions && NF { print $1 }' docs/symbols-in-versions | sort >"$tmp/docs"
nm -D --defined-only "$so" | awk '$2 != "A" { sub(/@.*/, "", $3); print $3 }' | sort >"$tmp/exported"

check "dqt.h declares functions" test "$(wc -l <"$tmp/header")" -gt 50
for list in map docs exported; do
    comm -23 "$tmp/header" "$tmp/$list" >"$tmp/missing"
    empty "in dqt.h but not in: $list" "$tmp/missing"
    comm -13 "$tmp/header" "$tmp/$list" >"$tmp/more"
    empty "not in dqt.h but in: $list" "$tmp/more"
done
nm -D --defined-only "$so" | awk '$2 != "A" && $2 != "T"' >"$tmp/data"
empty "exported symbols that are not functions" "$tmp/data"

# Every symbol has a version that has been, and each is listed once.
major=$(sed -n 's/^#define DQT_VERSION_MAJOR //p' include/dqt.h)
minor=$(sed -n 's/^#define DQT_VERSION_MINOR //p' include/dqt.h)
grep -v '^#' docs/symbols-in-versions |
    awk -v major="$major" -v minor="$minor" 'NF && (NF != 2 || split($2, v, ".") != 2 || v[1] > major ||
        (v[1] == major && v[2] > minor))' >"$tmp/versions"
empty "lines of docs/symbols-in-versions without a version up to $major.$minor" "$tmp/versions"
uniq -d "$tmp/docs" >"$tmp/twice"
empty "listed twice in docs/symbols-in-versions" "$tmp/twice"

cat tests/*.c | grep -o 'dqt_[a-z0-9_]*(' | tr -d '(' | sort -u >"$tmp/tested"
comm -23 "$tmp/header" "$tmp/tested" >"$tmp/untested"
empty "functions that no test calls" "$tmp/untested"

# The library itself: its name, the libraries it needs, no writable data of its own but the last errors of each thread
# and which lanes stand by for it (core/parallel.c), a counter of contexts that tells them apart, and which process this
# is (core/process.c).
if have readelf; then
    soversion=$($MAKE -s print-SOVERSION)
    check "the SONAME is libdqt.so.$soversion" sh -c "readelf -d $so | grep -q 'SONAME.*\[libdqt.so.$soversion\]'"
    readelf -d "$so" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' |
        grep -Ev '^(libc|libm|libgomp|libomp|libgcc_s|ld-linux.*)\.so' >"$tmp/needed"
    empty "needs other libraries" "$tmp/needed"
else
    skip "no readelf"
fi
if have size; then
    size -A "$OUTDIR/libdqt.a" >"$tmp/sizes"
    check "the library has objects" test "$(grep -c ' (ex ' "$tmp/sizes")" -gt 50
    awk '/\(ex / { object = $1 } $1 ~ /^\.(data|bss|tdata|tbss)$/ && $2 > 0 { print object, $1, $2 }' "$tmp/sizes" |
        grep -Ev '^(status.o .tbss|parallel.o .tbss 8$|status.o .bss 8$|process.o .bss 8$)' >"$tmp/state"
    empty "writable data" "$tmp/state"
else
    skip "no size"
fi
finish
