#!/bin/sh
# After multiprocessing has forked, and beside other users of OpenMP in one process, as far as they are there. PYTHON may be set.
. "$(dirname "$0")/common"
export PYTHONDONTWRITEBYTECODE=1 DQT_LIB_DIR="$OUTDIR" PYTHONPATH=examples/python
ran=0
for python in "$PYTHON" /usr/bin/python3; do
    have "$python" && "$python" -c 'import numpy' 2>"$tmp/no" || continue
    modules=
    for module in torch sklearn; do
        if "$python" -c "import $module" 2>"$tmp/no"; then modules="$modules $module"; fi
    done
    # none, together, and each alone: who is loaded first brings the runtime
    for set in "" "$modules" $(test "$modules" = " torch sklearn" && echo torch sklearn); do
        [ -n "$set" ] || [ $ran = 0 ] || continue
        # shellcheck disable=SC2086
        if "$python" tests/bindings/check_openmp.py $set >"$tmp/checks" 2>&1; then
            passed=$((passed + $(sed -n 's/^check_openmp: \([0-9]*\) passed.*/\1/p' "$tmp/checks")))
        else
            cat "$tmp/checks"
            fail "check_openmp.py $set"
        fi
        ran=1
    done
    break
done
[ $ran = 1 ] || skip "no python3 with numpy"
finish
