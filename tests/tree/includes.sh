#!/bin/sh
# Layers: a file in src/X includes only its own folder and those before it in this order. System headers that not every
# machine has stay where they belong.
. "$(dirname "$0")/common"
order="core format kernels isa gemm ops optim layer model io api"

rank() {
    rank_n=0
    for rank_folder in $order; do
        rank_n=$((rank_n + 1))
        if [ "$rank_folder" = "$1" ]; then
            echo $rank_n
            return
        fi
    done
    echo 0
}

: >"$tmp/layers"
: >"$tmp/missing"
for folder in $order; do
    own=$(rank "$folder")
    grep -H '^[[:space:]]*#[[:space:]]*include[[:space:]]*"' src/"$folder"/*.[ch] |
        sed 's/:[^"]*"/ /; s/".*//' >"$tmp/includes"
    while read -r file included; do
        [ "$included" = dqt.h ] && continue
        other=$(rank "${included%%/*}")
        if [ "$other" -eq 0 ] || [ "$other" -gt "$own" ]; then echo "$file includes $included" >>"$tmp/layers"; fi
        [ -f "src/$included" ] || echo "$file includes $included" >>"$tmp/missing"
    done <"$tmp/includes"
done
empty "includes of a folder that comes later" "$tmp/layers"
empty "includes of files that are not there" "$tmp/missing"

for folder in src/*/; do
    case " $order " in
    *" $(basename "$folder") "*) ;;
    *) echo "$folder" ;;
    esac
done >"$tmp/folders"
empty "folders without a place in the order" "$tmp/folders"

# Kernels know nothing of threads, contexts, tensors or errors.
grep -lE '"(core/(context|parallel|status|memory|options)|format/tensor)\.h"' src/kernels/* >"$tmp/kernels"
empty "kernels that include more than formats and random numbers" "$tmp/kernels"

# Headers outside ISO C, and where they may be.
grep -HE '^#include <' src/*/*.[ch] |
    grep -vE '<(errno|fenv|float|limits|math|stdalign|stdarg|stdatomic|stdbool|stddef|stdint|stdio|stdlib|string)\.h>' |
    grep -vE '^src/kernels/[a-z0-9_]*:#include <(immintrin|arm_neon)\.h>|^src/kernels/[a-z0-9_]*\.[ch]:#include <(immintrin|arm_neon)\.h>' |
    grep -vE '^src/core/cpu\.c:#include <(cpuid|unistd|sys/(syscall|auxv))\.h>' |
    grep -vE '^src/core/process\.c:#include <(sched|unistd)\.h>' |
    grep -vE '^src/(api/api_context|core/parallel)\.c:#include <(malloc|omp)\.h>' |
    grep -vE '^src/io/file_posix\.c:#include <(dirent|fcntl|unistd|sys/(file|random|stat))\.h>' |
    grep -vE '^src/io/file_windows\.c:#include <(wchar|windows)\.h>' >"$tmp/system"
empty "system headers in other places than their own" "$tmp/system"
finish
