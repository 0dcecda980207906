#!/bin/sh
# bench/speedrun: a small model on a short text gets to an easy target and stops there, and not to one that nobody can reach;
# --until counts steps and tokens. PyTorch's side runs where torch is new enough; make check does not need it.
. "$(dirname "$0")/../tree/common"
export LD_LIBRARY_PATH="$OUTDIR${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" OMP_WAIT_POLICY=passive
small="--hidden 32 --ff 64 --layers 1 --heads 2 --seq 16 --batch 4 --warmup 2 --eval-every 5 --eval-windows 8"
if ! have python3; then
    skip "no python3"
    finish
fi

# speedrun TARGET STEPS: its output goes to $tmp/said.
speedrun() {
    # shellcheck disable=SC2086
    python3 bench/speedrun/speedrun.py --program "$B/examples/03_train" --out "$tmp/run" --data README.md --valid CONTRIBUTING.md \
        --only int4 --threads 1 --target "$1" -- $small --steps "$2" >"$tmp/said" 2>&1
}
check "a target that is reached" speedrun 6 200
check "steps and tokens are told" grep -Eq '^int4, .* [0-9]+ steps, [0-9]+ tokens, .* minutes, .* peak [0-9]+ MiB$' "$tmp/said"
steps=$(sed -n 's/^  reached 6 bits per byte at step \([0-9]*\): .*/\1/p' "$tmp/said")
if [ "${steps:-200}" -lt 200 ] && [ $((steps % 5)) -eq 0 ]; then pass; else fail "it stops at the evaluation that reaches it, not at ${steps:-none}"; fi
check "as many tokens" grep -q "^  reached .*: $((${steps:-0} * 64)) tokens, " "$tmp/said"
loss() {
    sed -n "s/^  step $1: held-out bits per byte during training: //p" "$tmp/said"
}
check "that evaluation is below it, the one before above" awk -v a="$(loss "$steps")" -v b="$(loss $((${steps:-0} - 5)))" \
    'BEGIN { exit !(a <= 6 && (b > 6 || b == "")) }'
if speedrun 0.5 10; then
    fail "a target that cannot be reached is no success"
else
    check "it says so" grep -q '^int4, .*NOT REACHED, 10 steps, 640 tokens' "$tmp/said"
fi

# tune.py: a line of JSON a run, both runs of a list at once; what is not reached says so.
printf '%s\n' '--format int4 --steps 200 --lr 3e-3' '# a comment' '--format ternary --steps 10 --lr 1e-5' >"$tmp/list"
check "tune.py runs a list" python3 bench/speedrun/tune.py library --list "$tmp/list" --jobs 2 --json "$tmp/json" --threads 1 --target 6 \
    --program "$B/examples/03_train" --data README.md --valid CONTRIBUTING.md -- $small
check "its lines tell tokens, and what was not reached" python3 -c "
import json
runs = {r['options'].split()[1]: r for r in map(json.loads, open('$tmp/json'))}
good, bad = runs.pop('int4'), runs.pop('ternary')
assert not runs and good['reached'] and not bad['reached'] and bad['steps'] == 10
assert good['tokens'] == 64 * good['steps'] < 64 * 200 and good['losses'][-1][0] == good['steps']
assert good['losses'][-1][1] <= 6 < min(x for _, x in good['losses'][:-1])
"

# With --keep a run that was stopped goes on to the same losses, and what has ended is not run again. again.py: the best with other lengths.
kept() {
    # shellcheck disable=SC2086
    python3 bench/speedrun/tune.py library --list "$tmp/long" --json "$tmp/kept" --keep "$tmp/runs" --threads 1 --target 0.5 \
        --program "$B/examples/03_train" --data README.md --valid CONTRIBUTING.md -- $small "$@"
}
printf '%s\n' '--format int4 --eval-every 5 --warmup 3 --steps 40 --lr 3e-3' >"$tmp/long"
check "a run that is stopped" kept --stop-at 17
left() {
    [ "$(python3 bench/speedrun/again.py library "$tmp/kept" --left "$tmp/long")" = "$1" ]
}
check "it is left" left 1
check "it goes on" kept
check "nothing is left" left 0
check "nothing more is run" kept
check "a run in one go" python3 bench/speedrun/tune.py library --list "$tmp/long" --json "$tmp/whole" --threads 1 --target 0.5 \
    --program "$B/examples/03_train" --data README.md --valid CONTRIBUTING.md -- $small
check "the same losses" python3 -c "
import json
first, second = map(json.loads, open('$tmp/kept'))
whole, = map(json.loads, open('$tmp/whole'))
assert first['steps'] == 17 and second['steps'] == second['of'] == 40 and second['losses'] == whole['losses']
assert [s for s, _ in whole['losses']] == list(range(0, 41, 5)) and second['tokens'] == whole['tokens'] == 40 * 64
"
python3 bench/speedrun/again.py library "$tmp/kept" >"$tmp/second"
printf '%s\n' '--format int4 --eval-every 5 --warmup 4 --steps 80 --lr 3e-3' '--format int4 --eval-every 5 --warmup 4 --steps 90 --lr 3e-3' >"$tmp/expected"
check "twice as long, and 1.12 times that" cmp "$tmp/expected" "$tmp/second"

# torch_lm.py, here without PyTorch, has the library's schedules.
check "the rates of torch_lm.py are the library's" env PYTHONDONTWRITEBYTECODE=1 python3 -c "
import argparse, ctypes as C, sys, unittest.mock
torch = unittest.mock.MagicMock()
torch.nn.Module = object
sys.modules.update({'torch': torch, 'torch.nn': torch.nn, 'torch.nn.functional': torch.nn.functional})
sys.path.insert(0, 'bench/speedrun')
import torch_lm
lib = C.CDLL('$OUTDIR/libdqt.so')
numbers = [C.c_uint64] * 3 + [C.c_float] * 3
lib.dqt_schedule_wsd.argtypes, lib.dqt_schedule_cosine.argtypes = numbers, numbers[:5]
lib.dqt_schedule_wsd.restype = lib.dqt_schedule_cosine.restype = C.c_float
for warmup in 0, 10, 70:
    for cooldown in 0, 0.01, 0.35, 0.5, 1, 2:
        o = argparse.Namespace(warmup=warmup, steps=100, cooldown=cooldown)
        for step in range(103):
            x = lib.dqt_schedule_wsd(step, warmup, 100, 1, 0, cooldown) if cooldown else lib.dqt_schedule_cosine(step, warmup, 100, 1, 0)
            assert abs(torch_lm.rate(step, o) - x) < 1e-6, (warmup, cooldown, step)
"

if python3 -c 'import torch; torch.nn.functional.rms_norm' 2>/dev/null; then
    # shellcheck disable=SC2086
    python3 bench/speedrun/torch_lm.py --data README.md --valid CONTRIBUTING.md --sub-norms --until 6 --threads 1 $small \
        --steps 200 >"$tmp/said"
    check "PyTorch reaches it" grep -q '^reached 6 bits per byte at step ' "$tmp/said"
fi
finish
