"""Time to quality: trains the lab's byte-level LLaMA (hidden 256, ff 704, 4 layers, 4 heads, sequences of 128) on a text until
held-out windows are at TARGET bits per byte, with this library and, where it is installed, with PyTorch on the same CPU, one
after the other, and prints steps, tokens, minutes of training and peak memory of each, and the ratios.

    make speedrun DATA=train.txt VALID=valid.txt [TARGET=1.85] [THREADS=2]
    python3 bench/speedrun/speedrun.py --data train.txt --valid valid.txt [--only WORD] [--avx2]

Minutes are of training: evaluation, and PyTorch's compilation, are not counted, for either. RECIPES is the one table of settings;
docs/results.md ("Time to quality") says how they were found. An option given after -- goes to every program, after the row's own."""
import argparse, os, re, signal, subprocess, sys, threading

HERE = os.path.dirname(os.path.abspath(__file__))
MODEL = '--hidden 256 --ff 704 --layers 4 --heads 4 --seq 128 --eval-windows 512'

# A row is run where the CPU has its flag (as /proc/cpuinfo spells it): of the library the first such row, of PyTorch the first of each
# name, and the fastest counts.
# name | who | flag | options of build/examples/03_train or of torch_lm.py
RECIPES = """
int4, INT8 products     | library |             | --format int4 --fused --precision int8 --batch 8 --steps 4800 --warmup 300 --eval-every 100 --lr 6e-3 --linear-lr 0.15 --beta2 0.98 --cooldown 0.4
PyTorch BF16, compiled  | torch   | avx512_bf16 | --bf16 --compile --batch 8 --steps 4800 --warmup 300 --eval-every 100 --lr 3e-3 --cooldown 0.4
PyTorch F32, compiled   | torch   |             | --compile --batch 8 --steps 4500 --warmup 300 --eval-every 100 --lr 3e-3 --cooldown 0.4
"""

AVX2 = dict(DQT_ISA='avx2', ATEN_CPU_CAPABILITY='avx2', MKL_ENABLE_INSTRUCTIONS='AVX2', ONEDNN_MAX_CPU_ISA='AVX2')


def rows(avx2):
    flags = set()
    if os.path.exists('/proc/cpuinfo') and not avx2:
        flags = set(re.search(r'^(?:flags|Features)\s*:(.*)$', open('/proc/cpuinfo').read(), re.M).group(1).split())
    seen = set()
    for line in RECIPES.strip().splitlines():
        name, who, flag, options = (part.strip() for part in line.split('|'))
        once = who if who == 'library' else name
        if (not flag or flag in flags) and once not in seen:
            seen.add(once)
            yield name, who, options.split()


def run(command, limit):
    """Shows what the program prints; returns what is measured, or None where it failed. After `limit` seconds it is asked to stop."""
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    timer = threading.Timer(limit or threading.TIMEOUT_MAX, lambda: child.send_signal(signal.SIGINT))
    timer.daemon = True
    timer.start()
    said = None
    for line in child.stdout:
        print('  ' + line.rstrip(), flush=True)
        said = re.match(r'(reached|did not reach) .* at step (\d+): (\d+) tokens, ([\d.]+) s of training', line) or said
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = status
    timer.cancel()
    if status or not said:
        return None
    return dict(reached=said[1] == 'reached', steps=int(said[2]), tokens=int(said[3]), seconds=float(said[4]),
                peak=usage.ru_maxrss / 1024)


def command_of(args, who, options):
    data = ['--data', args.data, '--valid', args.valid, '--until', args.target, '--threads', args.threads]
    if who == 'library':
        return [args.program, '--out', args.out, *MODEL.split(), *data, *options, *args.more]
    return [args.python, os.path.join(HERE, 'torch_lm.py'), '--sub-norms', *MODEL.split(), *data, *options, *args.more]


def parse(p):
    """With what both programs take; what is after -- becomes `more`."""
    p.add_argument('--data', required=True)
    p.add_argument('--valid', required=True)
    p.add_argument('--target', default='1.85', help='bits per byte')
    p.add_argument('--threads', default='2')
    p.add_argument('--program', default='build/examples/03_train')
    p.add_argument('--python', default=sys.executable, help='a Python that has torch')
    end = sys.argv.index('--') if '--' in sys.argv else len(sys.argv)
    args = p.parse_args(sys.argv[1:end])
    args.more = sys.argv[end + 1:]
    return args


def arguments():
    p = argparse.ArgumentParser()
    p.add_argument('--out', default='build/speedrun', help="folder of the library's model")
    p.add_argument('--limit', type=float, default=0, help='seconds that a program may take (0: any)')
    p.add_argument('--avx2', action='store_true', help='as on a CPU that has AVX2 and no more: caps what both programs and their libraries use')
    p.add_argument('--only', default='', help='rows whose names contain this')
    return parse(p)


def report(name, r):
    if not r:
        return f'{name:28} failed'
    return (f'{name:28} {"" if r["reached"] else "NOT REACHED, "}{r["steps"]} steps, {r["tokens"]} tokens, {r["seconds"] / 60:.2f} minutes, '
            f'{r["tokens"] / max(r["seconds"], 1e-9):.0f} tokens/s, peak {r["peak"]:.0f} MiB')


def main():
    args = arguments()
    if args.avx2:
        os.environ.update(AVX2)
    torch = subprocess.run([args.python, '-c', 'import torch; torch.nn.functional.rms_norm'], stderr=subprocess.DEVNULL).returncode == 0
    results = {}
    for name, who, options in rows(args.avx2):
        if args.only not in name:
            continue
        if who == 'torch' and not torch:
            print(f'{name}: left out, for {args.python} has no torch of 2.4 or later')
            continue
        print(f'{name}: {" ".join(options)}', flush=True)
        results[name] = who, run(command_of(args, who, options), args.limit)
    for name, (_, r) in results.items():
        print(report(name, r))
    best = {w: min((r for v, r in results.values() if v == w and r and r['reached']), key=lambda r: r['seconds'], default=None)
            for w in ('library', 'torch')}
    if best['library'] and best['torch']:
        a, b = best['library'], best['torch']
        print(f'library against the fastest PyTorch: {b["seconds"] / a["seconds"]:.2f} times as fast to {args.target} bits per byte '
              f'({b["tokens"] / a["tokens"]:.2f} times fewer tokens), {b["peak"] / a["peak"]:.1f} times less memory')
    if not all(r and r['reached'] for _, r in results.values()):
        sys.exit(1)


if __name__ == '__main__':
    main()
