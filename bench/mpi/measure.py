#!/usr/bin/env python3
"""Measures what predict.py computes with, and the runs that its predictions are checked against, on one machine.

    python3 bench/mpi/measure.py --out docs/results/distributed.json

Ranks are pinned to cores of their own, each to as many as there are for the greatest number of ranks, so that a rank has the
same threads in every run; of threads that share a core one is used, and --spare cores are left to the system. Measured are: the
phases of a step of examples/mpi's model, without MPI, while 1, 2, 4 and 8 such processes run at once (they share caches, memory
and clock); what MPI moves between so many ranks, and how long packing and adding gradients takes (network.c); steps of
examples/mpi's 03_train on so many ranks, for each kind of gradients on the wire, and of its pipeline; and the phases of a step of
models of 1 and 2 blocks of 1 B and 7 B shape on all those cores.

What is most wanted comes first, results are written as they come, and --only takes parts. With --budget it ends in time: it says
what it expects to need, measures fewer steps where time is short, leaves out what does not fit any more, and stops what runs too
long. Without mpicc and mpirun the parts that need MPI are left out. Needs nothing but Python, make and a C compiler; MPICC and
MPIRUN may be set."""
import argparse
import csv
import ctypes
import json
import os
import platform
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
RANK, NETWORK, TRAIN, PIPELINE = (os.path.join(ROOT, 'build', p) for p in ('bench/mpi/rank', 'bench/mpi/network', 'examples/mpi/03_train',
                                                                            'examples/mpi/pipeline'))
PARTS = ['phases', 'network', 'runs', 'pipelines', 'shapes']
MICRO_BATCHES = 2  # of a pipeline's step, for each rank
# Tokens are bytes: 85.3 M weights, the blocks of docs/performance.md's model of 134 M. `batch` sequences for each rank.
MODEL = dict(hidden=768, ff=2048, layers=12, heads=12, batch=4, seq=256)
RECIPE = dict(optimizer='adamw', rounding='sr')
SHAPES = {'1B': dict(hidden=2048, ff=5504, heads=32, layers=18), '7B': dict(hidden=4096, ff=11008, heads=32, layers=32)}
SHAPE_BATCH = dict(vocab=32000, batch=4, seq=512)
MODES = [('f32', []), ('bf16', []), ('int8', []), ('int8', ['--fused'])]  # gradients on the wire, options of 03_train
# Ways to start ranks that leave pinning to `launch`: Open MPI, with its messages and its daemon kept to this machine, and others.
FLAGS = [['--oversubscribe', '--allow-run-as-root', '--bind-to', 'none'],
         ['--allow-run-as-root', '--bind-to', 'none', '--map-by', ':OVERSUBSCRIBE'],
         ['--allow-run-as-root', '--bind-to', 'none', '--host', 'localhost:64', '--mca', 'btl', 'self,sm'],
         ['--allow-run-as-root', '--bind-to', 'none', '--host', 'localhost:64', '--mca', 'btl', 'self,sm', '--mca', 'pml', 'ob1',
          '--prtemca', 'prte_if_include', 'lo', '--pmixmca', 'ptl_tcp_if_include', 'lo'],
         ['--bind-to', 'none'], []]
FAILURES = (RuntimeError, ValueError, KeyError, OSError, subprocess.SubprocessError)


def say(*words):
    print(*words, flush=True)


def options_of(values):
    return [word for name, value in values.items() for word in ('--' + name.replace('_', '-'), str(value))]


def die_with_parent():
    """A rank whose mpirun was killed would go on and disturb the next run."""
    try:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    except (OSError, AttributeError):
        pass


def launch(cores, command):
    """As a rank of MPI: the command on this rank's cores; its peak resident memory goes to stderr."""
    die_with_parent()
    rank = next((int(os.environ[n]) for n in ('OMPI_COMM_WORLD_RANK', 'PMI_RANK', 'PMIX_RANK') if n in os.environ), 0)
    os.sched_setaffinity(0, {int(c) for c in cores.split(':')[rank].split(',')})
    child = subprocess.Popen(command, preexec_fn=die_with_parent)
    _, status, usage = os.wait4(child.pid, 0)
    sys.stderr.write(f'rank {rank} peak {usage.ru_maxrss * 1024} bytes\n')
    sys.exit(os.waitstatus_to_exitcode(status) & 255)


def one_of_each_core(cpus):
    """Of threads that share a core the first, where Linux says which do."""
    kept, seen = [], set()
    for cpu in cpus:
        try:
            with open(f'/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list', encoding='ascii') as f:
                siblings = f.read().strip()
        except OSError:
            siblings = str(cpu)
        if siblings not in seen:
            kept.append(cpu)
        seen.add(siblings)
    return kept


class Machine:
    def __init__(self, ranks, seconds, model, spare, budget):
        self.ranks, self.seconds, self.model = ranks, seconds, model
        self.started, self.budget = time.monotonic(), budget
        self.logical = sorted(os.sched_getaffinity(0))
        physical, most = one_of_each_core(self.logical), max(ranks)
        self.cores = physical if len(physical) >= most else self.logical
        spare = spare if len(self.cores) >= 8 else 0
        self.threads = max(1, (len(self.cores) - spare) // most)
        if len(self.cores) > self.threads * most:
            self.cores = self.cores[:self.threads * most]
        self.mpicc = os.environ.get('MPICC') or shutil.which('mpicc')
        self.mpirun = os.environ.get('MPIRUN') or shutil.which('mpirun')
        self.flags = None
        self.env = dict(os.environ, OMP_NUM_THREADS=str(self.threads))
        if self.crowded():  # ranks that wait give way
            self.env['OMPI_MCA_mpi_yield_when_idle'] = '1'

    def left(self):
        return self.budget - (time.monotonic() - self.started) if self.budget else 1e9

    def crowded(self):
        return len(self.cores) < max(self.ranks)

    def mpi_works(self):
        return bool(self.mpicc and self.mpirun and self.flags is not None)

    def cores_of(self, rank):
        first = rank * self.threads % len(self.cores)
        return self.cores[first:first + self.threads]

    def run(self, command, env=None, limit=180):
        """What it writes; it ends with all it has started when its time is over."""
        limit = max(5, min(limit, self.left()))
        with subprocess.Popen(command, cwd=ROOT, env=env or self.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              start_new_session=True) as child:
            try:
                out, err = child.communicate(timeout=limit)
            except subprocess.TimeoutExpired:
                child.terminate()  # mpirun ends its ranks
                try:
                    child.communicate(timeout=5)
                except subprocess.TimeoutExpired:
                    os.killpg(child.pid, signal.SIGKILL)
                raise
        if child.returncode:
            raise RuntimeError(f'{" ".join(command)}\n{out[-2000:]}{err[-3000:]}ended with {child.returncode}')
        return out, err

    def mpi(self, ranks, command, limit=180, all_cores=False):
        """stdout, and the greatest peak memory of a rank."""
        cores = ':'.join(','.join(map(str, self.cores if all_cores else self.cores_of(r))) for r in range(ranks))
        out, err = self.run(self.mpirun.split() + self.flags + ['-n', str(ranks), sys.executable, os.path.abspath(__file__),
                                                                '--launch', cores] + command, limit=limit)
        return out, max((int(b) for b in re.findall(r'peak (\d+) bytes', err)), default=0)

    def find_flags(self):
        """The first that start as many ranks as are wanted, of which MPI makes one world."""
        if not (self.mpicc and self.mpirun):
            return
        for self.flags in FLAGS:
            try:
                out, _ = self.mpi(max(self.ranks), [NETWORK, '--hello'], 30)
                if out.count(f'of {max(self.ranks)}\n') == 1:
                    say('mpirun', *self.flags)
                    return
                say('mpirun', *self.flags, 'starts ranks that do not find each other:', out)
            except FAILURES as error:
                say(f'mpirun {" ".join(self.flags)}: {error}')
        self.flags = None

    def host(self):
        cpu = next((l.split(':', 1)[1].strip() for l in open('/proc/cpuinfo') if l.startswith('model name')), '') \
            if os.path.exists('/proc/cpuinfo') else platform.processor()
        mpi = subprocess.run(self.mpirun.split() + ['--version'], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                             check=False).stdout.split('\n')[0] if self.mpirun else 'none'
        return dict(cpu=cpu, cores=len(self.cores), logical_cpus=len(self.logical), load=round(os.getloadavg()[0], 2), mpi=mpi,
                    threads=self.threads, crowded=self.crowded())


def build(machine):
    """With optimisation as make has it; network.c uses the packing of examples/mpi."""
    env = {k: v for k, v in machine.env.items() if k not in ('CFLAGS', 'MAKEFLAGS')}
    targets = [RANK] + ([NETWORK, TRAIN, PIPELINE] if machine.mpicc and machine.mpirun else [])
    machine.run(['make', '-s', f'-j{len(machine.logical)}'] + ([f'MPICC={machine.mpicc}'] if machine.mpicc else []) +
                [os.path.relpath(t, ROOT) for t in targets], env, 900)


def scratch():
    """Checkpoints are written to memory where there is room, since a disk would be most of the time."""
    shm = '/dev/shm'
    try:
        s = os.statvfs(shm)
        return shm if s.f_bavail * s.f_frsize > 3 << 30 and os.access(shm, os.W_OK) else None
    except OSError:
        return None


def phases(machine, processes, values, threads, repeats):
    """Seconds of forward, backward and update, of the slowest of processes that run at once; and what one has in memory."""
    command = [RANK] + options_of(values) + ['--threads', str(threads), '--time', str(repeats)]
    running = []
    for p in range(processes):
        cores = set(machine.cores_of(p)) if threads == machine.threads else set(machine.cores)
        running.append(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True,
                                        env=dict(machine.env, OMP_NUM_THREADS=str(threads)),
                                        preexec_fn=lambda cores=cores: os.sched_setaffinity(0, cores)))
    limit = time.monotonic() + max(5, machine.left())
    try:
        results = [json.loads(p.communicate(timeout=max(1, limit - time.monotonic()))[0]) for p in running]
    finally:
        for p in running:
            p.kill()
            p.wait()
    for name in results[0]['seconds']:
        results[0]['seconds'][name] = round(max(r['seconds'][name] for r in results), 6)
    return results[0]


class Item:
    """A measurement: do(seconds) takes about so long, at least least(), and at most what `seconds` steps are worth."""

    def __init__(self, part, name, least, do, most=None):
        self.part, self.name, self.least, self.do = part, name, least, do
        self.most = most or least


class Costs:
    """What things take, as far as it is known yet."""

    def __init__(self, machine, result):
        self.machine, self.result = machine, result
        self.start = 6.0  # of a run: processes, the model, evaluations, the checkpoint

    def step(self, n):
        known = self.result.get('phases', {})
        at = known.get(str(n)) or known.get(min(known, default=''))
        return 1.2 * sum(at['seconds'].values()) if at else 1.5

    def run(self, n, steps):
        return self.start + (4 + steps) * (self.step(n) + (0.1 if n > 1 else 0))

    def pipeline(self, n, steps):
        return self.start + (1 + steps) * self.step(n) * (3 * MICRO_BATCHES * n / 2 + n - 1) / n

    def shape(self, name, layers):
        shape, m = SHAPES[name], self.machine
        head = shape['hidden'] * SHAPE_BATCH['vocab']
        products = head + layers * shape['hidden'] * (4 * shape['hidden'] + 3 * shape['ff'])
        work = products * SHAPE_BATCH['batch'] * SHAPE_BATCH['seq'] / (85.3e6 * m.model['batch'] * m.model['seq'])
        return 2 + (products + head) * 40e-9 + 4 * self.step(1) * work * m.threads / len(m.cores)


def phases_items(machine, result, costs):
    values = dict(machine.model, vocab=256, **RECIPE)

    def do(n, seconds):
        begun = time.monotonic()
        once = sum(phases(machine, n, values, machine.threads, 1)['seconds'].values())
        rest = seconds - 2 * (time.monotonic() - begun)
        repeats = max(3, min(30, int(min(machine.seconds, rest) / once)))
        result.setdefault('phases', {})[str(n)] = phases(machine, n, values, machine.threads, repeats)
        say(f'{n} processes at once, {machine.threads} threads each, {repeats} steps:', result['phases'][str(n)]['seconds'])
    return [Item('phases', f'{n} processes', lambda n=n: 4 + 8 * costs.step(n), lambda s, n=n: do(n, s),
                 lambda n=n: 4 + 8 * costs.step(n) + machine.seconds) for n in machine.ranks]


def network_items(machine, result, _):
    def do(n, _):
        out = machine.mpi(n, [NETWORK, str(machine.threads)], 60)[0]
        result.setdefault('network', {})[str(n)] = json.loads(out)
        say('network:', out.strip())

    def pack(_):
        """As a rank of one for each machine would."""
        out = machine.mpi(1, [NETWORK, str(len(machine.cores))], 60, all_cores=True)[0]
        result['packing'] = json.loads(out)
        say('packing on all cores:', out.strip())
    return [Item('network', f'{n} ranks', lambda: 5, lambda s, n=n: do(n, s)) for n in machine.ranks if n > 1] + \
        [Item('network', 'packing', lambda: 3, pack)]


def step_seconds(log):
    """From log.csv: the median of the steps without the first ones, which touch memory, and the last, which is followed by an
    evaluation."""
    with open(log, encoding='ascii') as f:
        at = [float(row['seconds']) for row in csv.DictReader(f) if int(row['step']) >= 2]
    return statistics.median(b - a for a, b in zip(at, at[1:-1]))


def runs_items(machine, result, costs):
    values = dict(machine.model, vocab=256, recipe='none', embedding='int8', head='int8', eval_every=0, eval_windows=max(machine.ranks),
                  threads=machine.threads, **RECIPE)

    def do(n, wire, options, seconds):
        steps = int(max(3, min(100, (seconds - costs.run(n, 0)) / costs.step(n), machine.seconds / costs.step(n))))
        command = [TRAIN, '--data', 'include/dqt.h', '--wire', wire] + options + \
            options_of(dict(values, steps=3 + steps, batch=n * machine.model['batch']))
        begun = time.monotonic()
        with tempfile.TemporaryDirectory(dir=scratch()) as folder:
            out, peak = machine.mpi(n, command + ['--out', folder])
            step = step_seconds(os.path.join(folder, 'log.csv'))
        costs.start = max(1.0, 0.5 * costs.start + 0.5 * (time.monotonic() - begun - (3 + steps) * step))
        run = dict(ranks=n, wire=wire, fused='--fused' in options, steps=steps, seconds=round(step, 5), peak_bytes=peak)
        sent = re.search(r'sends (\d+) bytes of gradients, (\d+) of sums and (\d+) of weights', out)
        if sent:
            run['sent'] = sum(map(int, sent.groups()))
        spent = re.search(r'^seconds of a step: (.*)$', out, re.M)
        if spent:  # means of all steps, the first ones included
            run['spent'] = {name: float(value) for value, name in (part.split(' ', 1) for part in spent.group(1).split(', '))}
        runs = [r for r in result.get('runs', []) if any(r[k] != run[k] for k in ('ranks', 'wire', 'fused'))] + [run]
        result['runs'] = sorted(runs, key=lambda r: (r['ranks'], MODES.index((r['wire'], ['--fused'] * r['fused']))))
        say(f'{n} ranks, gradients {wire}{" fused" * run["fused"]}: {step:.4f} s a step of {steps}, at most {peak / 1048576:.0f} MiB, '
            f'{time.monotonic() - begun:.1f} s')
    ranks = machine.ranks[:1] + machine.ranks[:0:-1]  # the most ranks are the most wanted
    return [Item('runs', f'{n} ranks, {wire} {" ".join(options)}', lambda n=n: costs.run(n, 3),
                 lambda s, n=n, w=wire, o=options: do(n, w, o, s), lambda n=n: costs.run(n, 0) + machine.seconds)
            for n in ranks for wire, options in (MODES if n > 1 else MODES[:1])]


def pipelines_items(machine, result, costs):
    def do(n, seconds):
        each = costs.pipeline(n, 1) - costs.pipeline(n, 0)
        steps = int(max(2, min(30, (seconds - costs.pipeline(n, 0)) / each, machine.seconds / each)))
        values = dict(machine.model, optimizer='adamw', micro_batches=MICRO_BATCHES * n, steps=1 + steps, threads=machine.threads)
        with tempfile.TemporaryDirectory(dir=scratch()) as folder:
            out, peak = machine.mpi(n, [PIPELINE, '--data', 'include/dqt.h', '--out', folder] + options_of(values))
        step = float(re.search(r'([\d.]+) seconds a step after', out).group(1))
        run = dict(ranks=n, micro_batches=MICRO_BATCHES * n, steps=steps, seconds=round(step, 5), peak_bytes=peak)
        result['pipelines'] = sorted([r for r in result.get('pipelines', []) if r['ranks'] != n] + [run], key=lambda r: r['ranks'])
        say(f'{n} stages: {step:.4f} s a step of {steps}, at most {peak / 1048576:.0f} MiB')
    ranks = [n for n in machine.ranks[:1] + machine.ranks[:0:-1] if n <= machine.model['layers']]
    return [Item('pipelines', f'{n} stages', lambda n=n: costs.pipeline(n, 2), lambda s, n=n: do(n, s),
                 lambda n=n: costs.pipeline(n, 0) + machine.seconds) for n in ranks]


def shapes_items(machine, result, costs):
    """Models of 1 and of 2 blocks, as far as they are in the planner's memory and the machine's."""
    def do(name, layers, _):
        values = dict(SHAPES[name], layers=layers, optimizer='adafactor', state='int8', **SHAPE_BATCH)
        found = phases(machine, 1, values, len(machine.cores), 3)
        result.setdefault('shapes', {}).setdefault(name, {})[str(layers)] = found
        say(f'{name}, {layers} blocks, {len(machine.cores)} threads:', found['seconds'])
    return [Item('shapes', f'{name}, {layers} blocks', lambda name=name, layers=layers: costs.shape(name, layers),
                 lambda s, name=name, layers=layers: do(name, layers, s)) for name in SHAPES for layers in (1, 2)]


def write(path, result):
    with open(path + '.new', 'w', encoding='ascii') as f:
        json.dump(result, f, indent=1)
        f.write('\n')
    os.replace(path + '.new', path)


def say_estimate(machine, items):
    parts = {}
    for item in items:
        least, most = parts.get(item.part, (0, 0))
        parts[item.part] = (least + item.least(), most + item.most())
    say('expected seconds:', ', '.join(f'{part} {least:.0f} to {most:.0f}' for part, (least, most) in parts.items()) +
        (f'; {machine.left():.0f} left' if machine.budget else ''))


def measure(machine, items, path, result):
    """Each gets its least, and a share of what is then left. Whether all were measured."""
    good = True
    for i, item in enumerate(items):
        if i == 0 or items[i - 1].part != item.part:
            say_estimate(machine, items[i:])
        need, rest = item.least(), sum(other.least() for other in items[i + 1:])
        if need > machine.left():
            say(f'{item.part}, {item.name}: left out, {machine.left():.0f} s are left and it takes {need:.0f}')
            good = False
            continue
        spare = max(0.0, machine.left() - 5 - need - rest)
        try:
            item.do(min(item.most(), need + spare * need / (need + rest)))
            write(path, result)
        except FAILURES as error:  # the others are worth having all the same
            good = False
            say(f'{item.part}, {item.name}: {type(error).__name__}: {error}')
    return good


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--out', default='build/distributed.json')
    p.add_argument('--ranks', default='1,2,4,8')
    p.add_argument('--seconds', type=float, default=8, help='about so long for each measured run')
    p.add_argument('--budget', type=float, default=0, help='seconds for all together, building included (0: as long as it takes)')
    p.add_argument('--spare', type=int, default=2, help='cores that are left to the system, of 8 or more')
    p.add_argument('--model', default='', help='name=value,... instead of ' + str(MODEL))
    p.add_argument('--only', default=','.join(PARTS), help='of ' + ', '.join(PARTS))
    p.add_argument('--launch', nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.launch:
        launch(a.launch[0], a.launch[1:])
    model = dict(MODEL, **{k: int(v) for k, v in (pair.split('=') for pair in a.model.split(',') if pair)})
    machine = Machine(sorted(int(n) for n in a.ranks.split(',')), a.seconds, model, a.spare, a.budget)
    result = json.load(open(a.out, encoding='ascii')) if os.path.exists(a.out) else {}
    result['host'], result['model'] = machine.host(), dict(model, vocab=256, **RECIPE)
    result['shapes_measured'] = dict(SHAPES=SHAPES, batch=SHAPE_BATCH)
    say(result['host'])
    build(machine)
    say(f'built after {time.monotonic() - machine.started:.0f} s')
    machine.find_flags()
    if not machine.mpi_works():
        say('no mpicc or no mpirun that works: network, runs and pipelines are left out (bench/mpi/README.md says where a wheel with both is)')
    costs = Costs(machine, result)
    items = [item for part in a.only.split(',') if machine.mpi_works() or part in ('phases', 'shapes')
             for item in globals()[part + '_items'](machine, result, costs)]
    good = measure(machine, items, a.out, result)
    say(f'{time.monotonic() - machine.started:.0f} s; ' + ('all was measured' if good else 'not all was measured'))
    sys.exit(not good)


if __name__ == '__main__':
    main()
