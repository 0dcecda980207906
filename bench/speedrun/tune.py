"""Tokens to the target for a list of settings, several runs at a time: what RECIPES of speedrun.py is chosen from. Counts of tokens do not
depend on how busy the machine is, so runs may share it; a setting's time is its tokens over the tokens/s of a run alone.

    python3 bench/speedrun/tune.py library|torch --data train.txt --valid valid.txt [--list FILE] [--jobs 8] [--seconds 200]
        [--deadline UNIX_TIME] [--cpus 0-15] [--gpus 0,1] [--json FILE] [--keep FOLDER] [-- OPTIONS ...]

A line of FILE is a run: options of 03_train or of torch_lm.py, # begins a comment; without FILE, bench/speedrun/library.list and torch.list,
which is what has been run. OPTIONS go to every run. Each run has --threads CPUs of --cpus to itself (--cpus '': it is not pinned),
and with --gpus, for PyTorch, one GPU, which --jobs runs take in turn. At the deadline what runs is asked to stop, as after --seconds, and
nothing more is begun a minute before. Of each run, as it ends, a line is printed and, as JSON with all its evaluations, appended to --json.
With --keep, settings that --json has the end of are not run again, and those of the library that were stopped go on from the checkpoint in
FOLDER: the same command again and again until nothing is left. (PyTorch's begin anew.) tune_list.sh runs both lists on one machine."""
import argparse, concurrent.futures, hashlib, json, os, queue, re, shlex, shutil, subprocess, tempfile, threading, time

import speedrun

lock = threading.Lock()


def settings(path):
    with open(path) as f:
        lines = [line.split('#')[0].strip() for line in f]
    return [line for line in lines if line]


def cpus(text):
    parts = [[int(x) for x in part.split('-')] for part in text.split(',') if part]
    return [c for part in parts for c in range(part[0], part[-1] + 1)]


def checkpoint(args, options):
    """The setting's folder under --keep."""
    return os.path.join(args.keep, hashlib.sha256(options.encode()).hexdigest()[:16])


def before(args):
    """What --json has, by setting: the last line of each."""
    found = {}
    if args.keep and args.json and os.path.exists(args.json):
        with open(args.json) as f:
            for r in map(json.loads, f):
                if r['who'] == args.who and 'failed' not in r:
                    found[r['options']] = r
    return found


def ended(r):
    return r['reached'] or r['steps'] >= r['of']


def start(args, options, place, folder, resume):
    args.out = folder
    command = speedrun.command_of(args, args.who, shlex.split(options)) + (['--resume'] if resume else [])
    if place['gpu']:
        command += ['--device', 'cuda']
    seconds = min([args.seconds] if args.seconds else [] + ([args.deadline - time.time()] if args.deadline else []), default=0)
    if seconds:
        command = ['timeout', '-s', 'INT', f'{seconds:.0f}'] + command
    if place['cpus']:
        command = ['taskset', '-c', ','.join(map(str, place['cpus']))] + command
    environment = dict(os.environ)
    if not place['cpus']:
        environment['OMP_WAIT_POLICY'] = 'passive'
    if place['gpu']:
        environment['CUDA_VISIBLE_DEVICES'] = place['gpu']
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment).stdout


def last_of(args, options, name, default):
    """What the program takes where an option is given more than once."""
    words = speedrun.MODEL.split() + shlex.split(options) + args.more
    return int(next((b for a, b in reversed(list(zip(words, words[1:]))) if a == name), default))


def result(args, options, said, earlier):
    losses = [[int(step), float(loss)] for step, loss in re.findall(r'^(?:.*\r\033\[K)?step (\d+): held-out .*: ([\d.]+)', said, re.M)]
    r = dict(who=args.who, options=options, losses=losses)
    end = re.search(r'^(reached|did not reach) ([\d.]+) .* at step (\d+): (\d+) tokens, ([\d.]+) s of training', said, re.M)
    if end:
        r.update(reached=end[1] == 'reached', target=float(end[2]), steps=int(end[3]), of=last_of(args, options, '--steps', 500),
                 tokens=int(end[3]) * last_of(args, options, '--batch', 16) * last_of(args, options, '--seq', 128), seconds=float(end[5]))
        if earlier:
            r.update(losses=earlier['losses'] + losses, seconds=earlier['seconds'] + r['seconds'])
    else:
        r['failed'] = said[-500:]
    return r


def one(args, free, options, earlier):
    if args.deadline and time.time() > args.deadline - 60:
        return
    place = free.get()
    folder = tempfile.mkdtemp()
    try:
        resume = False
        if args.keep and args.who == 'library':
            os.rmdir(folder)
            folder = checkpoint(args, options)
            os.makedirs(folder, exist_ok=True)
            resume = earlier is not None and os.path.exists(os.path.join(folder, 'model.dqt'))
        said = start(argparse.Namespace(**vars(args)), options, place, folder, resume)
        r = result(args, options, said, earlier if resume else None)
    finally:
        free.put(place)
        if not (args.keep and args.who == 'library'):
            shutil.rmtree(folder, ignore_errors=True)
    with lock:
        if args.json:
            with open(args.json, 'a') as f:
                f.write(json.dumps(r) + '\n')
        if 'failed' in r:
            last = 'failed: ' + r['failed'][-200:].replace('\n', ' ')
        else:
            last = (f'{"reached" if r["reached"] else "not reached" if ended(r) else "stopped"}, {r["steps"]} of {r["of"]} steps, '
                    f'{r["tokens"]} tokens, {r["seconds"]:.0f} s')
        print(f'{args.who} {options} | {last} | {" ".join(f"{s}:{x}" for s, x in r["losses"][-3:])}', flush=True)


def main():
    p = argparse.ArgumentParser()
    p.add_argument('who', choices=('library', 'torch'))
    p.add_argument('--list')
    p.add_argument('--jobs', type=int, default=1)
    p.add_argument('--seconds', type=float)
    p.add_argument('--deadline', type=float)
    p.add_argument('--cpus', default='')
    p.add_argument('--gpus', default='')
    p.add_argument('--json')
    p.add_argument('--keep')
    args = speedrun.parse(p)
    free, given, gpus, each = queue.Queue(), cpus(args.cpus), args.gpus.split(','), int(args.threads)
    for i in range(args.jobs):
        free.put(dict(cpus=given[i * each:(i + 1) * each], gpu=gpus[i % len(gpus)]))
    earlier = before(args)
    runs = [r for r in settings(args.list or os.path.join(speedrun.HERE, args.who + '.list')) if r not in earlier or not ended(earlier[r])]
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(lambda options: one(args, free, options, earlier.get(options)), runs))


if __name__ == '__main__':
    main()
