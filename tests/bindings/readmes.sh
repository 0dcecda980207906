#!/bin/sh
# The commands of each binding's README, run as they stand there: the first ```sh block, in the folder that the text says.
. "$(dirname "$0")/common"
export CARGO_TARGET_DIR="$work/cargo" ZIG_GLOBAL_CACHE_DIR="$work/zig" ZIG_LOCAL_CACHE_DIR="$work/zig-local" PYTHONDONTWRITEBYTECODE=1 OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-passive}"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1

# commands NAME FOLDER: runs the block of examples/NAME/README.md in FOLDER.
commands() {
    awk '/^```sh$/ && !done { inside = 1; next } /^```/ && inside { done = 1; inside = 0 } inside' \
        "examples/$1/README.md" >"$tmp/$1.sh"
    check "examples/$1/README.md has three commands" test "$(grep -c . "$tmp/$1.sh")" -eq 3
    check "examples/$1/README.md" sh -eu -c 'cd "$1" && . "$2" </dev/null' sh "$2" "$tmp/$1.sh"
}

# Not where the library under test is another than README's.
if [ "$OUTDIR" != "$PWD/lib" ] || [ "$B" != build ]; then
    skip "the library is not in lib"
    finish
fi
if have "$CXX"; then commands cpp .; else skip "no $CXX"; fi
if have "$CARGO"; then commands rust examples/rust; else skip "no $CARGO"; fi
if have "$PYTHON" && "$PYTHON" -m ziglang version >"$tmp/version" 2>&1; then commands zig .; else skip "no ziglang"; fi
# As the README says, Debian's python3 where the first one has no numpy.
mkdir "$tmp/bin"
for python in "$PYTHON" /usr/bin/python3; do
    if [ ! -e "$tmp/bin/python3" ] && have "$python" && "$python" -c 'import numpy' 2>"$tmp/no"; then
        printf '#!/bin/sh\nexec %s "$@"\n' "$(command -v "$python")" >"$tmp/bin/python3"
        chmod +x "$tmp/bin/python3"
    fi
done
if [ -e "$tmp/bin/python3" ]; then PATH=$tmp/bin:$PATH commands python examples/python; else skip "no python3 with numpy"; fi
if have mpicc && have mpirun; then commands mpi .; else skip "no mpicc and mpirun"; fi
finish
