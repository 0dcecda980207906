#!/bin/sh
# bench/mpi: the model of a step by cases that can be reckoned by hand; the planner's bytes of parts and of stages add up to the
# whole; a prediction that is off is told.
. "$(dirname "$0")/../tree/common"
if ! have python3; then
    skip "no python3"
    finish
fi
check "rank builds" $CC -std=c11 -D_POSIX_C_SOURCE=200809L -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Werror -Iinclude \
    -Iexamples/support bench/mpi/rank.c examples/support/args.c -L"$OUTDIR" -ldqt -lm -o "$tmp/rank"
export LD_LIBRARY_PATH="$OUTDIR${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
cat >"$tmp/steps.py" <<'END'
import sys
sys.dont_write_bytecode = True
sys.path.insert(0, 'bench/mpi')
from predict import Given, Layer, cut, data_parallel, evenly, pipeline, piped_step

def near(a, b):
    assert abs(a - b) < 1e-9 * max(1, abs(b)), f'{a}, not {b}'

layer = lambda backward=2.0: Layer(1.0, backward, 0.5, 1000, 250, 1)
layers = [layer() for _ in range(4)]
free = dict(pack=0, add=0)
fast, slow = Given(1e18, 0, 0), Given(1000, 0, 0)
near(data_parallel(layers, 1, 'int8', fast, free, 100), 4 * 3.5)
near(data_parallel(layers, 1, 'int8', fast, free, 100, 3), 4 * (3 * 3 + 0.5))
near(data_parallel(layers, 1, None, fast, free, 100), 4 * 3.5)
near(data_parallel(layers, 4, 'int8', fast, free, 100), 4 * (3 + 0.5 / 4))
near(data_parallel(layers, 4, None, fast, free, 100), 4 * 3.5)
near(data_parallel(layers, 4, 'bf16', fast, dict(pack=1e-3, add=2e-3), 100), 4 * (3 + 1 + 2 + 0.5 / 4))
near(data_parallel(layers, 4, 'int8', fast, free, 100, 0.5), 4 * (1.5 + 0.5 / 4))
# 1000 bytes/s: a layer's gradients take 3/4 * 4 s, longer than 2 s of backward, and begin after the first layer's backward.
sums, codes = 0.75 * 40 * 0.625 / 1000, 0.75 * 1000 / 1000
near(data_parallel(layers, 4, 'f32', slow, free, 100), 4 + 2 + 4 * 3 + 0.5 + sums + codes)
# An all-reduce has twice the bytes, and nothing behind it but the whole update.
near(data_parallel(layers, 4, None, slow, free, 100), 4 + 2 + 4 * 6 + 2)
# 16 ranks: 4 latencies and 15 messages for each operation; backward hides those of the gradients, but the last layer's.
near(data_parallel(layers, 16, 'int8', Given(1e18, 0.1, 0.01), free, 100), 4 * 3 + 0.55 + 0.5 / 4 + 6 * 0.55)
# Fused nothing overlaps, and the update is the same.
near(data_parallel(layers, 4, 'f32', slow, free, 100, fused=True), 4 * (3 + 3) + 0.5 + sums + codes)
class Crowded(Given):
    overlaps = False
near(data_parallel(layers, 4, 'f32', Crowded(1000, 0, 0), free, 100), 4 * (3 + 3) + 0.5 + sums + codes)

# One stage; two stages and one micro-batch, a second for each hand-over; two, forward again on the first stage; bounds of many.
near(pipeline([layers], 5, fast, 0), 5 * 12)
second = Given(1, 0, 0)
near(pipeline([layers[:2], layers[2:]], 1, second, 1), 2 + 1 + 2 + 4 + 1 + 4)
near(pipeline([layers[:2], layers[2:]], 2, fast, 0), 2 + 2 + 4 + 4 + 2 + 4)
for count in (2, 3, 4):
    stages = [[layer()] for _ in range(count)]
    for m in (1, 4, 32):
        seconds = pipeline(stages, m, fast, 0)
        assert 4 * m <= seconds + 1e-9 <= 4 * m + 5 * count + 1e-8, (count, m, seconds)
        assert pipeline(stages, m, second, 1) >= seconds + 2 * (count - 1) - 1e-9
for count in (1, 2, 3, 4):
    parts = cut(layers, count)
    assert len(parts) == count and sum(parts, []) == layers, count
both = layer() + layer(7.0)
assert (both.forward, both.backward, both.parameters) == (2, 9, 2)
assert [len(p) for p in cut(layers + [layer(6.0)], 2)] == [3, 2]
assert [len(p) for p in cut(layers, 2)] == [2, 2]
assert [len(p) for p in evenly(layers * 2 + layers[:2], 4)] == [3, 3, 2, 2]
near(piped_step(layers, 1, 4, 'int8', fast, free, 100, 1, 4), 4 * 12 + 2)
near(piped_step(layers, 8, 4, 'int8', fast, free, 100, 1, 8) - pipeline(cut(layers, 4), 4, fast, 0), 0.25)
END
check "the model of a step" python3 "$tmp/steps.py"

cat >"$tmp/bytes.py" <<'END'
import json, subprocess, sys
def plan(*more):
    words = [sys.argv[1]] + '--vocab 300 --hidden 128 --ff 352 --layers 3 --heads 4 --batch 2 --seq 32 --threads 1'.split() + list(more)
    return json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout)
whole = plan()
parts = [plan('--parts', '3', '--part', str(k)) for k in range(3)]
assert sum(p['updater']['momentum'] for p in parts) == whole['updater']['momentum'] > 0
assert max(p['updater']['momentum'] for p in parts) < 0.4 * whole['updater']['momentum']
stages = [plan('--num-blocks', '2'), plan('--first-block', '2')]
for what, name in (('tape', 'gradients'), ('updater', 'momentum'), ('updater', 'variance')):
    assert abs(sum(s[what][name] for s in stages) - whole[what][name]) <= 256 < whole[what][name], name
assert plan('--fused')['tape']['gradients'] == 0 < plan('--fused', '--parts', '2')['tape']['gradients'] < whole['tape']['gradients'] / 4
assert 0 < plan('--recompute')['tape']['activations'] < whole['tape']['activations']
timed = plan('--time', '1')['seconds']
assert all(timed[k] > 0 for k in ('forward', 'backward', 'update')), timed
END
check "bytes of parts and stages" python3 "$tmp/bytes.py" "$tmp/rank"

cat >"$tmp/check.py" <<'END'
import json, subprocess, sys
phase = dict(model=dict(linear_weights=8000, embedding_weights=0, head_weights=0, linear_bytes=2000, embedding_bytes=0, head_bytes=0),
             seconds=dict(forward=1, backward=2, update=1))
network = {k: dict(seconds=0, bytes_per_second=1e18) for k in ('all_to_all', 'all_gather')}
network.update(latency=0.1, pair_bytes_per_second=1e18)
network['bf16'] = dict(pack=1e-4, add=0)
def outcome(seconds, piped):
    found = dict(model=dict(hidden=100, layers=2, batch=1, seq=8), phases={'1': phase, '2': phase}, network={'2': network},
                 runs=[dict(ranks=1, wire='f32', fused=False, seconds=4), dict(ranks=2, wire='bf16', fused=False, seconds=seconds)],
                 pipelines=[dict(ranks=2, micro_batches=1, seconds=piped)])
    with open(sys.argv[1], 'w') as f:
        json.dump(found, f)
    return subprocess.run([sys.executable, '-B', 'bench/mpi/predict.py', sys.argv[1], '--check'], stdout=subprocess.PIPE, text=True)
good, bad, slow = outcome(4.3, 3.7), outcome(6, 3.7), outcome(4.3, 6)  # 3 + 0.8 + 0.5; 0.5 + 0.5 + 1 + 1 + 0.5 + 2 * 0.1
assert good.returncode == 0 and '| 4.300 | 4.300 | +0 % |' in good.stdout, good
assert bad.returncode == 1 and '-28 %' in bad.stdout, bad
assert '| 2 | 1 | 3.700 | 3.700 | +0 % |' in good.stdout and slow.returncode == 1 and '-38 %' in slow.stdout, slow
END
check "the check of a prediction" python3 "$tmp/check.py" "$tmp/found.json"
finish
