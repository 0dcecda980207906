#!/bin/sh
# A build system that knows nothing of instruction sets, or no build system at all, can compile the library: kernel files name
# their own. The compiler's words are the strict form: cc -O2 -Iinclude -Isrc -c src/*/*.c
. "$(dirname "$0")/common"
root=$(pwd)
ls "$root"/src/*/*.c >"$tmp/files"
(cd "$tmp" && xargs -P 2 -n 6 $CC -O2 -I"$root/include" -I"$root/src" -c <"$tmp/files") 2>"$tmp/errors" ||
    head -n 20 "$tmp/errors"
while read -r file; do
    check "$file compiles with plain $CC -O2 -c" test -f "$tmp/$(basename "$file" .c).o"
done <"$tmp/files"
check "files were compiled" test "$(wc -l <"$tmp/files")" -gt 80
empty "warnings" "$tmp/errors"

# And what is for every CPU holds no instruction of a set: no 256-bit register in the plain C files.
if have objdump && objdump -f "$tmp/gemm_scalar.o" | grep -q x86-64; then
    for file in "$tmp"/*_scalar.o "$tmp"/gemm_pack.o "$tmp"/isa*.o "$tmp"/cpu.o; do
        objdump -d "$file" | grep -qE '%[yz]mm' && basename "$file"
    done >"$tmp/wide"
    empty "files for every CPU with registers that not every CPU has" "$tmp/wide"
    check "the AVX-512 file has its registers" grep -q '%zmm' <<END
$(objdump -d "$tmp/gemm_avx512.o")
END
else
    skip "no objdump for x86-64"
fi
finish
