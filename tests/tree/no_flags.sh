#!/bin/sh
# A build system that knows nothing of instruction sets can compile the library: each kernel file names its own.
. "$(dirname "$0")/common"
root=$(pwd)
ls src/kernels/*.c src/isa/*.c src/core/cpu.c >"$tmp/files"
count=0
while read -r file; do
    if (cd "$tmp" && $CC -I"$root/include" -I"$root/src" -c "$root/$file" -o "$(basename "$file" .c).o") 2>"$tmp/errors"; then
        count=$((count + 1))
    else
        head -n 5 "$tmp/errors"
        fail "$file does not compile with plain $CC -c"
    fi
done <"$tmp/files"
check "files were compiled" test "$count" -gt 20

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
