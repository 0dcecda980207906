"""Steps to the target for a list of settings, several runs at a time: what RECIPES of speedrun.py is chosen from. Counts of steps do not
depend on how busy the machine is, so runs may share it; a setting's time is its tokens over the tokens/s of a run alone.

    python3 bench/speedrun/tune.py library|torch --data train.txt --valid valid.txt [--list FILE] [--jobs 8] [--seconds 200] OPTIONS ...

A line of FILE is a run: options of 03_train or of torch_lm.py; without FILE, the lists below. OPTIONS go to every run, after --: `--device
cuda` for PyTorch on a GPU. Prints a line a run as it ends: what it said last, its last three evaluations, its options."""
import argparse, concurrent.futures, re, subprocess, tempfile

import speedrun

COMMON = '--warmup 200 --eval-every 200'


def row(name):
    """The options of a row of examples/results.list."""
    with open('examples/results.list') as rows:
        return '--recipe none ' + next(line.split(' | ')[1].strip() for line in rows if line.startswith(name + ' | '))


LISTS = {
    'library': [f'{rule} --fused --batch {batch} --steps {steps} --lr {lr}' for rule, batch, steps, lr in (
        (row('dqt4-best-s1'), 8, 5000, 2e-3), (row('dqt4-best-s1'), 8, 5000, 3e-3), (row('dqt4-best-s1'), 16, 2500, 2e-3),
        (row('dqt4-best-s1'), 16, 2500, 3e-3), (row('dqt4-best-s1'), 4, 8000, 2e-3), (row('dqt4-acc-s1'), 8, 5000, 2e-3),
        (row('ternary-acc-s1'), 8, 5000, 6e-3), (row('ternary-acc-s1'), 16, 2500, 9e-3))],
    'torch': [f'--batch {batch} --steps {steps} --lr {lr}' for batch, steps, lr in (
        (8, 5000, 4e-3), (8, 5000, 6e-3), (8, 5000, 2e-3), (8, 4000, 4e-3),
        (16, 2500, 4e-3), (16, 2500, 6e-3), (4, 8000, 2e-3), (4, 8000, 4e-3))],
}


def one(args, options):
    with tempfile.TemporaryDirectory() as folder:
        args.out = folder
        command = speedrun.command_of(args, args.who, COMMON.split() + options.split())
        if args.seconds:
            command = ['timeout', '-s', 'INT', args.seconds] + command
        said = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout
    end = re.search(r'^(reached|did not reach) .*$', said, re.M)
    losses = re.findall(r'^step (\d+): held-out .*: ([\d.]+)', said, re.M)[-3:]
    last = end[0] if end else 'failed: ' + said[-200:].replace('\n', ' ')
    print(f'{args.who} {options} | {last} | {" ".join(":".join(x) for x in losses)}', flush=True)


def main():
    p = argparse.ArgumentParser()
    p.add_argument('who', choices=LISTS)
    p.add_argument('--list')
    p.add_argument('--jobs', type=int, default=1)
    p.add_argument('--seconds')
    args = speedrun.parse(p)
    runs = [line.strip() for line in open(args.list) if line.strip()] if args.list else LISTS[args.who]
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(lambda options: one(argparse.Namespace(**vars(args)), options), runs))


if __name__ == '__main__':
    main()
