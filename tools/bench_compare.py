#!/usr/bin/env python3
"""Compares the speed of this tree's benchmarks with another build's: the two run in turn, on the same machine.

    tools/bench_compare.py BASE ROUNDS PROGRAM [ARGUMENT ...]

BASE: a checkout in which `make bench` was built. PROGRAM: bench, ops, step or sessions. Prints for each line that both
print the ratio of the medians (above 1: this tree is faster) with the quartiles of the ratios of the rounds, and at the
end the median over the lines."""
import os
import re
import statistics
import subprocess
import sys

LINE = re.compile(r"^(\S.*?)\s+(\w+)\s+(\d+)\s+([-+.\de]+)\s+([-+.\de]+)\s+(us|ms|s|\S+/s)(\s|$)")


def measure(tree, program, arguments):
    """The lines of one run: name -> work per time (a time is turned into its inverse)."""
    result = {}
    command = [os.path.join(tree, "build/bench", program), *arguments]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    for line in out.splitlines():
        match = LINE.match(line)
        if match and not line.startswith("limit"):
            name = " ".join(match.group(1, 2, 3))
            value = float(match.group(4))
            result[" ".join(name.split())] = 1 / value if match.group(6) in ("us", "ms", "s") else value
    return result


def main():
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    base, rounds, program, arguments = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4:]
    here = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
    samples = {}
    for turn in range(rounds):
        order = [(0, base), (1, here)] if turn % 2 == 0 else [(1, here), (0, base)]
        for which, tree in order:
            for name, value in measure(tree, program, arguments).items():
                samples.setdefault(name, ([], []))[which].append(value)
    ratios = []
    for name, (old, new) in samples.items():
        if len(old) != len(new):
            print(f"{name:56} only in {'the base' if old else 'this tree'}")
            continue
        ratio = statistics.median(new) / statistics.median(old)
        each = sorted(b / a for a, b in zip(old, new))
        ratios.append(ratio)
        print(f"{name:56} {ratio:6.3f}   {each[len(each) // 4]:6.3f} .. {each[-1 - len(each) // 4]:6.3f}", flush=True)
    print(f"{program}: median over {len(ratios)} lines, {rounds} rounds: {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
