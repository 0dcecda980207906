"""Logits of libdqt beside those of another program, position by position.

Both files have raw floats, VOCAB a position. None may differ by more than TOLERANCE of the largest of its position, and
wherever libdqt's best token leads by more than twice that, the other program must choose the same one.

usage: compare_logits.py NAME OURS THEIRS VOCAB TOLERANCE POSITIONS"""
import sys

import numpy as np

from common import Checks

PIECE = 256  # positions at a time


def main():
    name, ours, theirs = sys.argv[1:4]
    vocab, tolerance, positions = int(sys.argv[4]), float(sys.argv[5]), int(sys.argv[6])
    c = Checks("compare_logits.py")
    a, b = (np.memmap(path, np.float32, "r").reshape(-1, vocab) for path in (ours, theirs))
    c.check(a.shape == b.shape == (positions, vocab), f"{name}: {a.shape[0]} and {b.shape[0]} positions of {positions}")
    worst = clear = agree = same = lost = 0
    for i in range(0, positions, PIECE):
        x, y = a[i:i + PIECE], b[i:i + PIECE]
        largest = np.abs(x).max(1)
        worst = max(worst, (np.abs(x - y).max(1) / largest).max())
        best = x.argmax(1)
        second, first = np.sort(np.partition(x, vocab - 2, 1)[:, -2:], 1).T
        equal = best == y.argmax(1)
        wide = first - second > 2 * tolerance * largest
        same += equal.sum()
        clear += wide.sum()
        agree += (wide & equal).sum()
        lost = max(lost, (first - second)[~equal].max(initial=0))
    print(f"{name}: logits differ by {worst:.2g} of the largest; {same} of {positions} positions have the same best token, "
          f"{agree} of {clear} clear ones; the widest lost margin is {lost:.2g}")
    c.check(worst <= tolerance, f"{name}: logits differ by {worst} of the largest")
    c.check(clear > positions / 2 and agree == clear, f"{name}: {agree} of {clear} clear positions agree")
    c.end()


main()
