#!/bin/bash
# Other CPUs, C libraries and compilers: builds the library with its assertions, runs a part of the C tests (under an
# emulator where it must), and compares the files of tests/consumers/portable.c with those of the usual build.
# usage: tests/platforms.sh NAME ... | tests/platforms.sh --list
set -u
cd "$(dirname "$0")/.." || exit 1

# Every part of the library, in seconds under an emulator; what runs at full speed takes more.
few="api api_models api_use durability file_faults files gemm_kernels gradient groups isa ops rng safetensors_order"
few="$few tensor tensor_quantize"
more="$few attention batch checkpoint checkpoint_hostile context fpenv golden integer_backward paths safetensors session sessions"
more="$more search_kernels updater_formulas vector_kernels"
# 64-bit Arm has kernels of its own: those of each of its sets by name, the other programs with the best, i8mm.
kernels="$few attention context gemm gemm_groups golden integer_backward search_kernels session updater_formulas vector_kernels"
# Windows has no fork, no mmap, no system calls to replace and, here, no AMX; tests/test_paths.c is of its files.
windows="allocations api api_models api_use attention batch golden gradient groups ops options paths rng segments"
windows="$windows session sessions tensor tensor_quantize updater_formulas updater_rounding"

# Warnings that are left out are of macros in system headers (mingw-w64's isfinite; gcc's intrinsics without optimisation) and
# of gcc's guesses across files or calls, which do not see that a failure returns or how few bytes are written. 64-bit Arm is built as `make` does.
# name|compiler|flags|flags of the linker|emulator|tests. Where files can be large, 32-bit programs are to say so: qemu gives
# them the 64-bit positions of its host's folders.
table="
i686|i686-linux-gnu-gcc|-O2 -D_FILE_OFFSET_BITS=64|-static||$more
armv7|arm-linux-gnueabihf-gcc|-O2 -D_FILE_OFFSET_BITS=64|-static|qemu-arm|$few
aarch64|aarch64-linux-gnu-gcc|-O3 -Wno-stringop-overflow|-static|qemu-aarch64 -cpu max|$kernels
riscv64|riscv64-linux-gnu-gcc|-O2|-static|qemu-riscv64|$few
s390x|s390x-linux-gnu-gcc|-O2|-static|qemu-s390x|$few
windows|x86_64-w64-mingw32-gcc|-O2 -Wno-float-conversion|-static -pthread|wine|$windows
musl|musl-gcc|-O2|-static||$more
lto|gcc|-O2 -flto=2 -Wno-maybe-uninitialized|||golden session
unoptimised|gcc|-O0 -Wno-sign-conversion|||$few
"

# usage: portable FOLDER COMMAND ...: trains there, resumes there what the usual build saved, and the other way round.
portable() {
    local out=$1/portable usual=build/portable
    shift
    "$usual" "$out.usual" && "$usual" "$out.usual" "$out.usual-resumed" &&
        "$@" "$out.here" && "$@" "$out.usual" "$out.here-resumed" && "$usual" "$out.here" "$out.back" &&
        cmp "$out.usual" "$out.here" && cmp "$out.usual-resumed" "$out.here-resumed" && cmp "$out.usual-resumed" "$out.back"
}

# dqt.dll exports what src/dqt.map lists, and nothing else.
windows_exports() {
    x86_64-w64-mingw32-objdump -p build/windows/lib/dqt.dll |
        awk '/\[Ordinal\/Name Pointer\]/ { on = 1; next } /^$/ { on = 0 } on { print $NF }' | sort >build/windows/exports
    sed -n 's/^ *\(dqt_[a-z0-9_]*\);$/\1/p' src/dqt.map | sort | diff - build/windows/exports
}

# Arm's CPUs by what they have: each takes the kernels of its sets and no other's, which qemu would end with SIGILL.
arm_cpus() {
    local cpu sets tests=build/aarch64/tests
    while read -r cpu sets; do
        qemu-aarch64 -cpu "$cpu" $tests/test_isa >build/aarch64/sets &&
            grep -qx "instruction sets run on this CPU: $sets" build/aarch64/sets &&
            RUN="qemu-aarch64 -cpu $cpu" tests/run.sh $tests/test_gemm_kernels $tests/test_ops || return 1
    done <<END
cortex-a53 scalar neon
cortex-a76 scalar neon dotprod
max scalar neon dotprod i8mm
END
}

platform() {
    local name cc cflags ldflags run tests test
    IFS='|' read -r name cc cflags ldflags run tests <<<"$(printf '%s' "$table" | grep "^$1|")"
    local with=(CC="$cc" CHECKED=1 OPENMP=0 B="build/$name" CFLAGS="$cflags -Werror" LDFLAGS="$ldflags")
    local library="build/$name/lib/libdqt.a" host="build/$name/lib/portable.exe" made suffix="" programs=()
    made=$library
    for test in $tests; do programs+=("build/$name/tests/test_$test"); done
    case $name in
    # gcc 12 for AArch64 breaks down on maxima in the tests' own loops when it vectorises them.
    aarch64) with+=(TEST_CFLAGS=-fno-tree-vectorize) ;;
    windows) library=build/windows/lib/libdqt.dll.a made=build/windows/lib/dqt.dll suffix=.exe ;;
    esac
    # shellcheck disable=SC2086
    make -j2 "${with[@]}" "$made" "${programs[@]}" && make -j2 lib &&
        gcc -std=c11 -Iinclude tests/consumers/portable.c -o build/portable lib/libdqt.a -fopenmp -lm &&
        $cc -std=c11 -Iinclude $cflags $ldflags tests/consumers/portable.c -o "$host" "$library" -lm || return 1
    if [ "$name" = windows ]; then windows_exports || return 1; fi
    if [ "$name" = aarch64 ]; then arm_cpus || return 1; fi
    # shellcheck disable=SC2086
    portable "build/$name" $run "$host" && JOBS=2 RUN=$run tests/run.sh "${programs[@]/%/$suffix}"
}

export WINEDEBUG=-all WINEPREFIX=$PWD/build/wine
if [ "${1:---list}" = --list ]; then
    printf '%s' "$table" | sed -n 's/|.*//p'
    exit 0
fi
for name in "$@"; do platform "$name" || exit 1; done
