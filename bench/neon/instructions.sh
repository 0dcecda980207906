#!/bin/sh
# Multiplications an instruction of NEON's kernels of few tokens, loops and loads and all: instructions that qemu lists for 4096
# columns less those for 2048. pack: codes an instruction that are packed into panels.
# usage: bench/neon/instructions.sh; wants aarch64-linux-gnu-gcc and qemu-aarch64
cd "$(dirname "$0")/../.." || exit 1
out=build/neon
make -s -j2 CC=aarch64-linux-gnu-gcc OPENMP=0 B=$out CFLAGS='-O3 -Wno-stringop-overflow' $out/lib/libdqt.a >/dev/null &&
    aarch64-linux-gnu-gcc -std=c11 -O2 -Wall -Wextra -static -Iinclude -Isrc -Itests bench/neon/instructions.c \
        $out/lib/libdqt.a -lm -o $out/instructions || exit 1
count() {
    qemu-aarch64 -cpu max -singlestep -d exec,nochain -D $out/log $out/instructions "$@" && wc -l <$out/log
}
# usage: line ISA KERNEL FORMAT GROUP MULTIPLICATIONS-A-COLUMN
line() {
    few=$(count "$1" "$2" "$3" 2048 "$4") && many=$(count "$1" "$2" "$3" 4096 "$4") || exit 1
    awk -v n=$((many - few)) -v m=$((2048 * $5)) -v what="$1 $2 format $3 ${4:+group $4}" \
        'BEGIN { printf "%-36s %6d instructions, %.2f\n", what, n, m / n }'
}
for isa in neon dotprod i8mm; do
    for format in 7 4 3; do
        line $isa token $format "" 4
        line $isa tokens $format "" 16
        line $isa pack $format "" 16
    done
    line $isa groups 7 256 4
    line $isa groups 4 32 4
    line $isa groups 3 32 4
done
line neon code 3 "" 1
line neon bf16 3 "" 1
line neon code_tile 3 "" 12
rm -f $out/log
