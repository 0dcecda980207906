"""The lines of tune.py as a table: tokens to the target, fewest first; what was not reached comes last, with what it said last.

    python3 bench/speedrun/table.py FILE.jsonl ...

"Between" is where a straight line between the last two evaluations crosses the target: evaluations are far apart."""
import json, re, sys


def crossing(r):
    """Tokens at which the target is crossed."""
    (s0, a), (s1, b) = r['losses'][-2:]
    per_step = r['tokens'] / r['steps']
    return per_step * (s0 + (s1 - s0) * (a - r['target']) / (a - b))


def key(r):
    if r.get('reached'):
        return 0, crossing(r)
    return ('failed' in r) + 1, r['losses'][-1][1] if r['losses'] else 0


def row(r):
    options = re.sub(r' ?--eval-every \d+', '', r['options'])
    if 'failed' in r:
        return f'| `{options}` | failed | | | |'
    tokens = f'{r["tokens"]:,}' if r['reached'] else 'not reached'
    between = f'{crossing(r):,.0f}' if r['reached'] else ''
    return f'| `{options}` | {tokens} | {between} | {r["steps"]} | {r["losses"][-1][1]:.4f} |'


def main():
    lines = [json.loads(line) for path in sys.argv[1:] for line in open(path) if line.strip()]
    lines = list({(r['who'], r['options']): r for r in lines}.values())  # of a run that was stopped and went on, the last
    for who in sorted({r['who'] for r in lines}):
        print(f'| {who} | tokens | between | steps | last evaluation |\n|---|---|---|---|---|')
        for r in sorted((r for r in lines if r['who'] == who), key=key):
            print(row(r))
        print()


if __name__ == '__main__':
    main()
