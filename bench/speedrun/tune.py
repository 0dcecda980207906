"""Tokens to the target for a list of settings, several runs at a time: what RECIPES of speedrun.py is chosen from. Counts of tokens do not
depend on how busy the machine is, so runs may share it; a setting's time is its tokens over the tokens/s of a run alone.

    python3 bench/speedrun/tune.py library|torch --data train.txt --valid valid.txt [--list FILE] [--jobs 8] [--seconds 200]
        [--deadline UNIX_TIME] [--cpus 0-15] [--json FILE] [-- OPTIONS ...]

A line of FILE is a run: options of 03_train or of torch_lm.py, # begins a comment; without FILE, bench/speedrun/library.list and torch.list,
which have as many settings each. OPTIONS go to every run: `--device cuda` for PyTorch on a GPU. Each run has --threads CPUs of --cpus to
itself (--cpus '': it is not pinned). At the deadline what runs is asked to stop, as after --seconds, and nothing more is begun a minute before.
Of each run, as it ends, a line is printed and, as JSON with all its evaluations, appended to --json."""
import argparse, concurrent.futures, json, os, queue, re, shlex, subprocess, tempfile, threading, time

import speedrun

lock = threading.Lock()


def settings(path):
    with open(path) as f:
        lines = [line.split('#')[0].strip() for line in f]
    return [line for line in lines if line]


def cpus(text):
    parts = [[int(x) for x in part.split('-')] for part in text.split(',') if part]
    return [c for part in parts for c in range(part[0], part[-1] + 1)]


def start(args, options, pinned, folder):
    args.out = folder
    command = speedrun.command_of(args, args.who, shlex.split(options))
    seconds = min([args.seconds] if args.seconds else [] + ([args.deadline - time.time()] if args.deadline else []), default=0)
    if seconds:
        command = ['timeout', '-s', 'INT', f'{seconds:.0f}'] + command
    if pinned:
        command = ['taskset', '-c', ','.join(map(str, pinned))] + command
    environment = os.environ if pinned else {**os.environ, 'OMP_WAIT_POLICY': 'passive'}
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment).stdout


def result(who, options, said):
    losses = [(int(step), float(loss)) for step, loss in re.findall(r'^(?:.*\r\033\[K)?step (\d+): held-out .*: ([\d.]+)', said, re.M)]
    r = dict(who=who, options=options, losses=losses)
    end = re.search(r'^(reached|did not reach) ([\d.]+) .* at step (\d+): (\d+) tokens, ([\d.]+) s of training', said, re.M)
    if end:
        r.update(reached=end[1] == 'reached', target=float(end[2]), steps=int(end[3]), tokens=int(end[4]), seconds=float(end[5]))
    else:
        r['failed'] = said[-500:]
    return r


def one(args, free, options):
    if args.deadline and time.time() > args.deadline - 60:
        return
    pinned = free.get()
    with tempfile.TemporaryDirectory() as folder:
        r = result(args.who, options, start(argparse.Namespace(**vars(args)), options, pinned, folder))
    free.put(pinned)
    with lock:
        if args.json:
            with open(args.json, 'a') as f:
                f.write(json.dumps(r) + '\n')
        if 'failed' in r:
            last = 'failed: ' + r['failed'][-200:].replace('\n', ' ')
        else:
            last = f'{"reached" if r["reached"] else "not reached"}, {r["steps"]} steps, {r["tokens"]} tokens, {r["seconds"]:.0f} s'
        print(f'{args.who} {options} | {last} | {" ".join(f"{s}:{x}" for s, x in r["losses"][-3:])}', flush=True)


def main():
    p = argparse.ArgumentParser()
    p.add_argument('who', choices=('library', 'torch'))
    p.add_argument('--list')
    p.add_argument('--jobs', type=int, default=1)
    p.add_argument('--seconds', type=float)
    p.add_argument('--deadline', type=float)
    p.add_argument('--cpus', default='')
    p.add_argument('--json')
    args = speedrun.parse(p)
    free, given, each = queue.Queue(), cpus(args.cpus), int(args.threads)
    for i in range(args.jobs):
        free.put(given[i * each:(i + 1) * each])
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        runs = settings(args.list or os.path.join(speedrun.HERE, args.who + '.list'))
        list(pool.map(lambda options: one(args, free, options), runs))


if __name__ == '__main__':
    main()
