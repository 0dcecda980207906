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
export PYTHONDONTWRITEBYTECODE=1 DQT_LIB_DIR="$LIBDIR" CC
reference
same "Python" "$PYTHON" examples/python/train.py
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
mkdir "$tmp/python"
cp examples/python/dqt.py examples/python/train.py "$tmp/python/"
same "Python, installed" "$PYTHON" "$tmp/python/train.py"
if PYTHONPATH="$tmp/python" "$PYTHON" tests/bindings/check_python.py "$root/usr/include" >"$tmp/checks" 2>&1; then
    pass
else
    cat "$tmp/checks"
    fail "check_python.py against an installation"
fi
finish
