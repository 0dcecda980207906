#!/usr/bin/env python3
"""Measures what predict.py computes with, and the runs that its predictions are checked against, on one machine.

    python3 bench/mpi/measure.py --out docs/results/distributed.json

Ranks are pinned to cores of their own, each to as many as there are for the greatest number of ranks, so that a rank has the
same threads in every run. Measured are: the phases of a step of examples/mpi's model, without MPI, while 1, 2, 4 and 8 such
processes run at once (they share caches, memory and clock); what MPI moves between so many ranks, and how long packing and adding
gradients takes (network.c); steps of examples/mpi's 03_train on so many ranks, for each kind of gradients on the wire, and of its pipeline; and the
phases of a step of models of 1 and 2 blocks of 1 B and 7 B shape on all cores. Results are written as they come: a run that is
stopped keeps what it has, and --only takes parts. Without mpicc and mpirun the parts that need MPI are left out. Needs
nothing but Python, make and a C compiler; MPICC and MPIRUN may be set."""
import argparse
import csv
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile

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


def say(*words):
    print(*words, flush=True)


def options_of(values):
    return [word for name, value in values.items() for word in ('--' + name.replace('_', '-'), str(value))]


def launch(cores, command):
    """As a rank of MPI: the command on this rank's cores; its peak resident memory goes to stderr."""
    rank = next((int(os.environ[n]) for n in ('OMPI_COMM_WORLD_RANK', 'PMI_RANK') if n in os.environ), 0)
    os.sched_setaffinity(0, {int(c) for c in cores.split(':')[rank].split(',')})
    child = subprocess.Popen(command)
    _, status, usage = os.wait4(child.pid, 0)
    say_error = f'rank {rank} peak {usage.ru_maxrss * 1024} bytes\n'
    sys.stderr.write(say_error)
    sys.exit(os.waitstatus_to_exitcode(status) & 255)


class Machine:
    def __init__(self, ranks, seconds, model):
        self.ranks, self.seconds, self.model = ranks, seconds, model
        self.cores = sorted(os.sched_getaffinity(0))
        self.threads = max(1, len(self.cores) // max(ranks))
        self.mpicc = os.environ.get('MPICC') or shutil.which('mpicc')
        self.mpirun = os.environ.get('MPIRUN') or shutil.which('mpirun')
        self.env = dict(os.environ, OMP_NUM_THREADS=str(self.threads))
        if self.crowded():  # ranks that wait give way
            self.env['OMPI_MCA_mpi_yield_when_idle'] = '1'

    def crowded(self):
        return len(self.cores) < max(self.ranks)

    def mpi_works(self):
        return bool(self.mpicc and self.mpirun)

    def cores_of(self, rank):
        first = rank * self.threads % len(self.cores)
        return self.cores[first:first + self.threads]

    def run(self, command, env=None, limit=180):
        done = subprocess.run(command, cwd=ROOT, env=env or self.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              text=True, timeout=limit, check=False)
        if done.returncode:
            raise RuntimeError(f'{" ".join(command)}\n{done.stdout}{done.stderr}ended with {done.returncode}')
        return done.stdout, done.stderr

    def mpi(self, ranks, command):
        """stdout, and the greatest peak memory of a rank."""
        cores = ':'.join(','.join(map(str, self.cores_of(r))) for r in range(ranks))
        flags = ['--oversubscribe', '--allow-run-as-root', '--bind-to', 'none'] if 'MPIRUN' not in os.environ else []
        out, err = self.run(self.mpirun.split() + flags + ['-n', str(ranks), sys.executable, os.path.abspath(__file__),
                                                           '--launch', cores] + command)
        return out, max((int(b) for b in re.findall(r'peak (\d+) bytes', err)), default=0)

    def host(self):
        cpu = next((l.split(':', 1)[1].strip() for l in open('/proc/cpuinfo') if l.startswith('model name')), '') \
            if os.path.exists('/proc/cpuinfo') else platform.processor()
        mpi = subprocess.run(self.mpirun.split() + ['--version'], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                             check=False).stdout.split('\n')[0] if self.mpirun else 'none'
        return dict(cpu=cpu, cores=len(self.cores), load=round(os.getloadavg()[0], 2), mpi=mpi, threads=self.threads,
                    crowded=self.crowded())


def build(machine):
    """With optimisation as make has it; network.c uses the packing of examples/mpi."""
    env = {k: v for k, v in machine.env.items() if k not in ('CFLAGS', 'MAKEFLAGS')}
    make = ['make', '-s', f'-j{len(machine.cores)}']
    machine.run(make + ['build/bench/mpi/rank'], env, 900)
    if machine.mpi_works():
        machine.run(make + [f'MPICC={machine.mpicc}', 'mpi', 'build/bench/mpi/network'], env, 900)


def phases(machine, processes, values, threads, repeats):
    """Seconds of forward, backward and update, of the slowest of processes that run at once; and what one has in memory."""
    command = [RANK] + options_of(values) + ['--threads', str(threads), '--time', str(repeats)]
    running = []
    for p in range(processes):
        cores = set(machine.cores_of(p)) if threads == machine.threads else set(machine.cores)
        running.append(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True,
                                        env=dict(machine.env, OMP_NUM_THREADS=str(threads)),
                                        preexec_fn=lambda cores=cores: os.sched_setaffinity(0, cores)))
    results = [json.loads(p.communicate()[0]) for p in running]
    for name in results[0]['seconds']:
        results[0]['seconds'][name] = round(max(r['seconds'][name] for r in results), 6)
    return results[0]


def measure_phases(machine, result):
    values = dict(machine.model, vocab=256, **RECIPE)
    once = sum(phases(machine, 1, values, machine.threads, 1)['seconds'].values())
    repeats = max(3, min(30, int(machine.seconds / once)))
    for n in machine.ranks:
        result.setdefault('phases', {})[str(n)] = phases(machine, n, values, machine.threads, repeats)
        say(f'{n} processes at once, {machine.threads} threads each:', result['phases'][str(n)]['seconds'])
        yield


def measure_network(machine, result):
    for n in machine.ranks:
        if n < 2 or not machine.mpi_works():
            continue
        result.setdefault('network', {})[str(n)] = json.loads(machine.mpi(n, [NETWORK])[0])
        say('network:', result['network'][str(n)])
        yield


def step_seconds(log):
    """From log.csv: of a step, without the first ones, which touch memory, and the last, which is followed by an evaluation."""
    with open(log, encoding='ascii') as f:
        at = {int(row['step']): float(row['seconds']) for row in csv.DictReader(f)}
    last = max(at) - 1
    return (at[last] - at[2]) / (last - 2)


def measure_runs(machine, result):
    if not machine.mpi_works():
        return
    values = dict(machine.model, vocab=256, **RECIPE)
    once = sum(phases(machine, max(machine.ranks), values, machine.threads, 1)['seconds'].values())
    values = dict(values, steps=3 + max(3, min(100, int(machine.seconds / once))), recipe='none', embedding='int8', head='int8',
                  eval_every=0, eval_windows=max(machine.ranks), threads=machine.threads)
    for n in machine.ranks:
        for wire, options in MODES if n > 1 else MODES[:1]:
            command = [TRAIN, '--data', 'include/dqt.h', '--wire', wire] + options + options_of(dict(values, batch=n * machine.model['batch']))
            try:
                with tempfile.TemporaryDirectory() as folder:
                    out, peak = machine.mpi(n, command + ['--out', folder])
                    seconds = step_seconds(os.path.join(folder, 'log.csv'))
            except (RuntimeError, subprocess.TimeoutExpired) as error:
                say(f'{n} ranks, {wire} {" ".join(options)}: {error}')
                continue
            run = dict(ranks=n, wire=wire, fused='--fused' in options, steps=values['steps'] - 4, seconds=round(seconds, 5), peak_bytes=peak)
            sent = re.search(r'sends (\d+) bytes of gradients, (\d+) of sums and (\d+) of weights', out)
            if sent:
                run['sent'] = sum(map(int, sent.groups()))
            runs = result.setdefault('runs', [])
            runs[:] = [r for r in runs if any(r[k] != run[k] for k in ('ranks', 'wire', 'fused'))] + [run]
            say(f'{n} ranks, gradients {wire}{" fused" * run["fused"]}: {seconds:.4f} s a step, at most {peak / 1048576:.0f} MiB')
            yield


def measure_pipelines(machine, result):
    """Of a step the difference of a run of many and one of few, so that the start does not count."""
    if not machine.mpi_works() or not os.path.exists(PIPELINE):
        return
    once = sum(phases(machine, max(machine.ranks), dict(machine.model, vocab=256, **RECIPE), machine.threads, 1)['seconds'].values())
    few = 2
    many = few + max(3, min(100, int(machine.seconds / once / MICRO_BATCHES)))
    for n in machine.ranks:
        if n > machine.model['layers']:
            continue
        seconds = {}
        for steps in (few, many):
            values = dict(machine.model, optimizer='adamw', micro_batches=MICRO_BATCHES * n, steps=steps, threads=machine.threads)
            with tempfile.TemporaryDirectory() as folder:
                out, peak = machine.mpi(n, [PIPELINE, '--data', 'include/dqt.h', '--out', folder] + options_of(values))
            seconds[steps] = float(re.search(r'([\d.]+) seconds', out).group(1))
        step = (seconds[many] - seconds[few]) / (many - few)
        run = dict(ranks=n, micro_batches=MICRO_BATCHES * n, steps=many - few, seconds=round(step, 5), peak_bytes=peak)
        result['pipelines'] = [r for r in result.get('pipelines', []) if r['ranks'] != n] + [run]
        say(f'{n} stages: {step:.4f} s a step, at most {peak / 1048576:.0f} MiB')
        yield


def measure_shapes(machine, result):
    """Models of 1 and of 2 blocks, as far as they are in the planner's memory and the machine's."""
    for name, shape in SHAPES.items():
        for layers in (1, 2):
            values = dict(shape, layers=layers, optimizer='adafactor', state='int8', **SHAPE_BATCH)
            found = phases(machine, 1, values, len(machine.cores), 3)
            result.setdefault('shapes', {}).setdefault(name, {})[str(layers)] = found
            say(f'{name}, {layers} blocks, {len(machine.cores)} threads:', found['seconds'])
            yield


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--out', default='build/distributed.json')
    p.add_argument('--ranks', default='1,2,4,8')
    p.add_argument('--seconds', type=float, default=8, help='about so long for each measured run')
    p.add_argument('--model', default='', help='name=value,... instead of ' + str(MODEL))
    p.add_argument('--only', default=','.join(PARTS), help='of ' + ', '.join(PARTS))
    p.add_argument('--launch', nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.launch:
        launch(a.launch[0], a.launch[1:])
    model = dict(MODEL, **{k: int(v) for k, v in (pair.split('=') for pair in a.model.split(',') if pair)})
    machine = Machine([int(n) for n in a.ranks.split(',')], a.seconds, model)
    result = json.load(open(a.out, encoding='ascii')) if os.path.exists(a.out) else {}
    result['host'], result['model'] = machine.host(), dict(model, vocab=256, **RECIPE)
    result['shapes_measured'] = dict(SHAPES=SHAPES, batch=SHAPE_BATCH)
    say(result['host'])
    if not machine.mpi_works():
        say('no mpicc or no mpirun: network and runs are left out (bench/mpi/README.md says where a wheel with both is)')
    build(machine)
    failed = False
    for part in a.only.split(','):
        try:
            for _ in globals()['measure_' + part](machine, result):
                with open(a.out + '.new', 'w', encoding='ascii') as f:
                    json.dump(result, f, indent=1)
                    f.write('\n')
                os.replace(a.out + '.new', a.out)
        except (RuntimeError, subprocess.TimeoutExpired) as error:  # the other parts are worth having all the same
            failed = True
            say(f'{part}: {error}')
    sys.exit(failed)


if __name__ == '__main__':
    main()
