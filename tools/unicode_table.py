#!/usr/bin/env python3
"""Makes examples/support/unicode_table.h from Python's unicodedata: what 12_tokenize knows of characters.

usage: tools/unicode_table.py > examples/support/unicode_table.h
"""
import unicodedata

LAST = 0x110000
# The property White_Space (PropList.txt): what \s means in the tokenizers' regular expressions.
SPACES = set(range(0x09, 0x0E)) | {0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000}
HANGUL = range(0xAC00, 0xD7A4)  # composed by arithmetic


def kind(c):
    if c in SPACES:
        return 3
    return {'L': 1, 'N': 2}.get(unicodedata.category(chr(c))[0])


def ranges(of):
    """(first, last, value) of runs of characters with an equal value that is not None or 0."""
    found = []
    for c in range(LAST):
        value = of(c)
        if not value:
            continue
        if found and found[-1][1] == c - 1 and found[-1][2] == value:
            found[-1][1] = c
        else:
            found.append([c, c, value])
    return found


def table(head, items):
    print(f'\n{head} = {{')
    line = ''
    for item in items:
        if len(line) + len(item) + 1 > 116:
            print('    ' + line)
            line = ''
        line += item + ','
    print('    ' + line)
    print('};')


def main():
    pairs, singles = [], []
    for c in range(LAST):
        if c in HANGUL or not unicodedata.decomposition(chr(c)) or unicodedata.decomposition(chr(c))[0] == '<':
            continue
        parts = [int(x, 16) for x in unicodedata.decomposition(chr(c)).split()]
        if len(parts) == 2:
            pairs.append((c, *parts))
        else:
            singles.append((c, parts[0]))
    composed = [i for i, (c, _, _) in enumerate(pairs) if unicodedata.normalize('NFC', chr(c)) == chr(c)]
    composed.sort(key=lambda i: pairs[i][1:])
    print('/* Made by tools/unicode_table.py from Unicode', unicodedata.unidata_version + ': do not edit. */')
    print('/* clang-format off */')
    print('\n/* 1: letter, 2: number, 3: space. */', end='')
    table('static const struct class_range class_ranges[]',
          [f'{{{a},{b},{v}}}' for a, b, v in ranges(kind)])
    print('\n/* Canonical combining classes. */', end='')
    table('static const struct class_range combining_ranges[]',
          [f'{{{a},{b},{v}}}' for a, b, v in ranges(lambda c: unicodedata.combining(chr(c)))])
    print('\n/* Canonical decompositions into two characters, but for Hangul. */', end='')
    table('static const struct pair pairs[]', [f'{{{c},{a},{b}}}' for c, a, b in pairs])
    print('\n/* Those of them that composition makes, in order of the two. */', end='')
    table('static const unsigned short composed[]', [str(i) for i in composed])
    print('\n/* Canonical decompositions into one character. */', end='')
    table('static const struct single singles[]', [f'{{{c},{a}}}' for c, a in singles])
    print('/* clang-format on */')


main()
