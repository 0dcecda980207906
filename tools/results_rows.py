#!/usr/bin/env python3
"""Runs of examples/results.list by name, several at a time on CPUs of their own, as `make results` would make them.

    tools/results_rows.py --data train.txt --valid valid.txt [--out docs/results] [--threads 2] [--cpus 0-15] [--seconds 570]
        [--list examples/results.list] [--program build/examples/08_compare] [--show] NAME ...  [-- OPTIONS]

A NAME is a run's, or a pattern: 'dqt4-*', '*-int8-backward-*'; runs begin in the order of the names, then of the list. --cpus says which CPUs
to use, in parts of --threads: 0-15 with 2 threads is 8 runs at a time. After --seconds what runs is ended; the same command later
goes on from its last checkpoint (one every 100 steps). What is finished is left as it is. --show only prints what would run. OPTIONS go to every
run: `-- --steps 5 --out /tmp/try` is a try. Afterwards `make results` (or 08_compare --limit 0) makes table and plots of what is finished."""
import argparse, concurrent.futures, fnmatch, os, queue, subprocess, sys, time

MODEL = ('--hidden 256 --ff 704 --layers 4 --heads 4 --seq 128 --batch 64 --steps 2000 --warmup 100 --eval-every 250 '
         '--eval-windows 1024').split()  # as in the Makefile


def cpus(text):
    parts = [[int(x) for x in part.split('-')] for part in text.split(',') if part]
    return [c for part in parts for c in range(part[0], part[-1] + 1)]


def arguments():
    own, more = sys.argv[1:], []
    if '--' in own:
        own, more = own[:own.index('--')], own[own.index('--') + 1:]
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('names', nargs='+')
    p.add_argument('--data', required=True)
    p.add_argument('--valid', required=True)
    p.add_argument('--out', default='docs/results')
    p.add_argument('--threads', type=int, default=2)
    p.add_argument('--cpus', default='0-1')
    p.add_argument('--seconds', type=float)
    p.add_argument('--list', default='examples/results.list')
    p.add_argument('--program', default='build/examples/08_compare')
    p.add_argument('--show', action='store_true')
    args = p.parse_args(own)
    args.more = more
    return args


def wanted(args):
    names = [line.split('|')[0].strip() for line in open(args.list) if '|' in line and not line.startswith('#')]
    chosen = []
    for pattern in args.names:
        found = fnmatch.filter(names, pattern)
        if not found:
            sys.exit(f'{args.list} has no run {pattern}')
        chosen += [n for n in found if n not in chosen]
    return [n for n in chosen if not os.path.exists(os.path.join(args.out, n + '.done'))]


def one(args, name, free, end):
    if end and time.time() > end - 15:
        return name, 'not begun'
    own = free.get()
    command = ['taskset', '-c', ','.join(map(str, own)), args.program, '--list', args.list, '--data', args.data, '--valid', args.valid,
               '--out', args.out, *MODEL, '--threads', str(args.threads), '--only', name, *args.more]
    try:
        ended = subprocess.run(command, timeout=max(1, end - time.time()) if end else None).returncode
        said = 'finished' if ended == 0 else f'failed, status {ended}'
    except subprocess.TimeoutExpired:
        said = 'interrupted'
    free.put(own)
    print(f'{name}: {said}', flush=True)
    return name, said


def main():
    args = arguments()
    names, given = wanted(args), cpus(args.cpus)
    jobs = len(given) // args.threads
    if jobs == 0:
        sys.exit('--cpus has fewer CPUs than --threads')
    print(f'{len(names)} runs, {jobs} at a time: {" ".join(names)}', flush=True)
    if args.show:
        return
    os.makedirs(args.out, exist_ok=True)
    end = time.time() + args.seconds if args.seconds else 0
    free = queue.Queue()
    for i in range(jobs):
        free.put(given[i * args.threads:(i + 1) * args.threads])
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        done = list(pool.map(lambda name: one(args, name, free, end), names))
    left = [name for name, said in done if said != 'finished']
    print(f'{len(done) - len(left)} finished' + (f'; left: {" ".join(left)}' if left else ''))
    sys.exit(1 if any(said.startswith('failed') for _, said in done) else 0)


if __name__ == '__main__':
    main()
