#!/bin/sh
# The library never prints, exits, aborts, reads the environment or calls the C library's allocator, but for the places that
# are there for it; and what review cannot be bothered with.
. "$(dirname "$0")/common"

# Code without comments and strings, each line with its file's name before it. Not the assertions of checked builds, which
# print and trap: that the library has none of them is seen below.
for file in $(ls src/*/*.c src/*/*.h | grep -v '^src/core/assert\.c$'); do
    without_comments <"$file" | sed 's/"[^"]*"/""/g' | sed "s|^|$file: |"
done >"$tmp/code"
check "there is code to look at" test "$(wc -l <"$tmp/code")" -gt 5000

# calls "what it is" "allowed files" "names": a call of one of the names, that is not a member's.
calls() {
    grep -E "(^|[^A-Za-z0-9_.>])($3)[[:space:]]*\\(" "$tmp/code" | grep -vE "^($2):" >"$tmp/calls"
    empty "$1" "$tmp/calls"
}
# assert.c is of checked builds only.
calls "printing" 'src/core/assert.c' 'printf|fprintf|vprintf|vfprintf|dprintf|puts|fputs|putchar|putc|fputc|fwrite|perror'
calls "leaving" 'src/core/assert.c' 'exit|_exit|_Exit|quick_exit|atexit|abort|assert|raise|kill|longjmp|setjmp|__builtin_trap'
calls "the C library's allocator" 'src/api/api_context.c' 'malloc|calloc|realloc|reallocarray|aligned_alloc|posix_memalign|memalign|valloc|free|strdup|strndup|alloca|mmap|munmap|brk'
calls "the environment" 'src/api/api_context.c' 'getenv|secure_getenv'
calls "changing the process" none 'setenv|putenv|unsetenv|setlocale|signal|sigaction|system|popen|fork|chdir|umask|srand|rand|random|fesetround|feenableexcept|_mm_setcsr|_mm_getcsr'
# One clock: how long regions take decides how many lanes pay, and nothing else (src/core/contention.h).
calls "threads and clocks" none 'pthread_create|thrd_create|time|clock|clock_gettime|timespec_get|gettimeofday|sleep|usleep|nanosleep|omp_set_num_threads'
calls "the clock" 'src/core/parallel.c' 'omp_get_wtime'
# process.c reads what the system says of this process: fork and CPU quotas.
calls "files" 'src/io/file_(posix|windows).c|src/core/process.c' 'fopen|fclose|open|openat|close|unlink|rename|fsync|lseek|read|fstat'
# One call of the environment, for the documented variable.
check "only DQT_ISA is read from the environment" test \
    "$(grep -c 'getenv(' src/api/api_context.c)" -eq 1 -a "$(grep -c 'getenv("DQT_ISA")' src/api/api_context.c)" -eq 1

# The linked library agrees: what it takes from outside.
nm -D --undefined-only "$OUTDIR/libdqt.so" | awk '{ sub(/@.*/, "", $NF); print $NF }' |
    grep -E '^(v?f?printf|puts|putchar|perror|_?exit|abort|__assert_fail|malloc|calloc|realloc|strdup|pthread_create|rand|srand|time|signal|setenv|system)$' >"$tmp/undefined"
empty "the shared library calls what it must not" "$tmp/undefined"
nm "$OUTDIR/libdqt.a" | awk '/ assert_failed$/' >"$tmp/assertions"
empty "assertions in a library that is not a checked build" "$tmp/assertions"

find src -name '*.[ch]' -exec awk 'END { if (NR > 600) print FILENAME, NR }' {} \; >"$tmp/long"
empty "source files of more than 600 lines" "$tmp/long"
# functions FILES ...: "file line name lines" of each function: from the line that begins it, which ends in " {" and has a
# parenthesis, to the brace in the first column.
functions() {
    awk 'FNR == 1 { at = 0 }
        !at && /^[A-Za-z_].*\(/ { first = FNR; head = $0 }
        !at && /^[A-Za-z_ ].*\) \{$/ { at = first; name = head; sub(/\(.*/, "", name); sub(/.*[ *]/, "", name) }
        /^}/ && at { print FILENAME, at, name, FNR - at + 1; at = 0 }' "$@"
}
functions src/*/*.[ch] >"$tmp/functions"
check "there are functions" test "$(wc -l <"$tmp/functions")" -gt 500
awk '$4 > 80' "$tmp/functions" >"$tmp/long"
empty "functions of more than 80 lines" "$tmp/long"
grep -nwE 'TODO|FIXME|XXX|HACK' src/*/* include/* tests/*.[ch] examples/*.c examples/*/*.* >"$tmp/todo"
empty "things left to do" "$tmp/todo"
grep -nE "$(printf '\t')|$(printf '\r')|[[:space:]]$" src/*/*.[ch] include/* tests/*.[ch] >"$tmp/blank"
empty "tabs, carriage returns or blanks at the end of a line" "$tmp/blank"

# A file of one instruction set is empty on other architectures.
for file in src/kernels/*_avx2.c src/isa/*_avx2.c src/*/*_avx512.c src/*/*_vnni.c src/*/*_amx.c; do
    [ -f "$file" ] && ! grep -q '^#if defined(__x86_64__)' "$file" && echo "$file"
done >"$tmp/unguarded"
for file in src/*/*_neon.c src/*/*_dotprod.c src/*/*_i8mm.c; do
    [ -f "$file" ] && ! grep -q '^#if defined(__aarch64__)' "$file" && echo "$file"
done >>"$tmp/unguarded"
empty "kernels that are not wholly inside their architecture's #if" "$tmp/unguarded"

# Every header has a guard of its own, but templates, which are included several times.
for file in include/*.h $(ls src/*/*.h | grep -v '_template\.h$'); do
    guard=$(sed -n 's/^#ifndef \([A-Z0-9_]*_H\)$/\1/p' "$file" | head -n 1)
    grep -q "^#define $guard\$" "$file" && [ -n "$guard" ] || echo "$file"
    echo "$guard" >>"$tmp/guards"
done >"$tmp/guardless"
empty "headers without a guard" "$tmp/guardless"
sort "$tmp/guards" | uniq -d >"$tmp/same"
empty "guards that two headers share" "$tmp/same"
finish
