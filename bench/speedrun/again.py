"""A second list from what tune.py found: the three best settings, each with two other lengths of its schedule; for either program alike.

    python3 bench/speedrun/again.py library|torch FILE.jsonl [--best 3] >second.list
    python3 bench/speedrun/again.py library|torch FILE.jsonl --left LIST        how many settings of LIST have not been run to their end

The fewest tokens to a target come from a cosine that ends about where it is reached. Where a run of tune.py reached it at c tokens, that is a
little below c: 0.95 and 0.87 of c are tried. Where it ended above the target, losses fall by about PER_DOUBLING from a length to twice it:
the length that this predicts, and 1.12 times as much."""
import argparse, json, os, re

import table, tune

PER_DOUBLING = 0.15  # bits per byte: 1.886 after 8 M tokens, 1.711 after 16 M (docs/results/imitation); less for batches of 4 to 8 sequences


def lengths(r):
    """Steps of the two schedules."""
    if r['reached']:
        steps = table.crossing(r) * r['steps'] / r['tokens']
        return 0.95 * steps, 0.87 * steps
    longer = min(2.0, 2 ** ((r['losses'][-1][1] - r['target']) / PER_DOUBLING))
    return longer * r['steps'], 1.12 * longer * r['steps']


def with_steps(options, steps):
    every = int(re.search(r'--eval-every (\d+)', options)[1])
    steps = max(1, round(steps / every)) * every
    return re.sub(r'--warmup \d+', f'--warmup {steps // 20}', re.sub(r'--steps \d+', f'--steps {steps}', options))


def without_length(options):
    return re.sub(r'--(steps|warmup) \d+ ?', '', options)


def main():
    p = argparse.ArgumentParser()
    p.add_argument('who', choices=('library', 'torch'))
    p.add_argument('file')
    p.add_argument('--best', type=int, default=3)
    p.add_argument('--left')
    args = p.parse_args()
    lines = map(json.loads, open(args.file)) if os.path.exists(args.file) else ()
    last = {r['options']: r for r in lines if r['who'] == args.who}
    if args.left:
        print(sum(r not in last or not ('failed' in last[r] or tune.ended(last[r])) for r in tune.settings(args.left)))
        return
    chosen = {}
    for r in sorted((r for r in last.values() if 'failed' not in r and tune.ended(r)), key=table.key):
        chosen.setdefault(without_length(r['options']), r)
    for r in list(chosen.values())[:args.best]:
        for options in dict.fromkeys(with_steps(r['options'], steps) for steps in lengths(r)):
            print(options)


if __name__ == '__main__':
    main()
