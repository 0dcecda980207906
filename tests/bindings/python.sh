#!/bin/sh
# examples/python: declarations against the header, objects, the program in this tree and against an installation, the
# research harness. PYTHON may be set; else the first of python3 and /usr/bin/python3 that has numpy (and torch, if one has).
. "$(dirname "$0")/common"
found=
for modules in numpy,matplotlib,torch numpy,torch numpy; do
    for python in "$PYTHON" /usr/bin/python3; do
        if [ -z "$found" ] && have "$python" && "$python" -c "import $modules" 2>"$tmp/no"; then found=$python; fi
    done
done
if [ -z "$found" ]; then
    skip "no python3 with numpy"
    finish
fi
PYTHON=$found
export PYTHONDONTWRITEBYTECODE=1 DQT_LIB_DIR="$OUTDIR" CC
reference
same "Python" "$PYTHON" examples/python/train.py
own_reference
same_own "Python" "$PYTHON" examples/python/own_transformer.py
if PYTHONPATH=examples/python "$PYTHON" tests/bindings/check_python.py include >"$tmp/checks" 2>&1; then
    passed=$((passed + $(sed -n 's/^check_python: \([0-9]*\) passed.*/\1/p' "$tmp/checks")))
else
    cat "$tmp/checks"
    fail "check_python.py"
fi

check "research.py" "$PYTHON" examples/python/research.py --out "$tmp/research" --steps 60
cp "$tmp/check.out" "$tmp/research.txt"
check "it writes every step of three runs" test "$(wc -l <"$tmp/research/losses.csv")" -eq 181
if grep -q "^no matplotlib" "$tmp/research.txt"; then
    skip "no matplotlib: losses.png"
else
    check "it plots" test -s "$tmp/research/losses.png"
fi
if grep -q "^no torch" "$tmp/research.txt"; then
    skip "no torch: comparison with PyTorch"
else
    check "it compares five models with PyTorch" test "$(grep -c 'against PyTorch' "$tmp/research.txt")" -eq 5
fi

installed
unset DQT_LIB_DIR
# By pip into a folder of its own, from a copy, for setuptools writes beside the sources.
mkdir "$tmp/python"
cp -r examples/python "$tmp/source"
if "$PYTHON" -c 'import setuptools, pip, wheel' 2>"$tmp/no"; then
    check "pip install examples/python" "$PYTHON" -m pip install -q --no-index --no-build-isolation --no-deps --target "$tmp/python" \
        --disable-pip-version-check --root-user-action ignore "$tmp/source"
    check "pip installs the modules" test "$(cd "$tmp/python" && echo *.py)" = "dqt.py dqt_c.py"
else
    skip "no pip, setuptools and wheel for $PYTHON"
    cp examples/python/dqt.py examples/python/dqt_c.py "$tmp/python/"
fi
cp examples/python/train.py "$tmp/python/"
same "Python, installed" "$PYTHON" "$tmp/python/train.py"
import() {
    (cd "$tmp" && env -u LD_LIBRARY_PATH PYTHONPATH="$tmp/python" "$@" "$PYTHON" -c 'import dqt; print(dqt.lib._name)')
}
check "DQT_LIBRARY names the file" import DQT_LIBRARY="$installed_lib/libdqt.so"
check "DQT_LIB_DIR names the folder" import DQT_LIB_DIR="$installed_lib"
if ldconfig -p 2>/dev/null | grep -q libdqt; then
    skip "this machine has a libdqt"
else
    check "without a library it says what to do" sh -c "! (cd '$tmp' && env -u LD_LIBRARY_PATH PYTHONPATH='$tmp/python' '$PYTHON' \
        -c 'import dqt') 2>'$tmp/error' && grep -q '^ImportError: dqt: .*DQT_LIBRARY' '$tmp/error'"
fi
cp "$installed_lib/libdqt.so" "$tmp/python/$(basename "$(readlink "$installed_lib/libdqt.so")")"
check "another library is refused with a sentence" sh -c "! (cd '$tmp' && DQT_LIBRARY=libm.so.6 PYTHONPATH='$tmp/python' '$PYTHON' \
    -c 'import dqt') 2>'$tmp/error' && grep -q '^ImportError: dqt: .*has no dqt_version' '$tmp/error'"
check "a library beside the module is found" import DQT_NONE=
rm -f "$tmp"/python/libdqt.so*
if PYTHONPATH="$tmp/python" "$PYTHON" tests/bindings/check_python.py "$root/usr/include" >"$tmp/checks" 2>&1; then
    pass
else
    cat "$tmp/checks"
    fail "check_python.py against an installation"
fi
finish
