"""The summary plot of docs/results.md: held-out bits per byte against bytes of state per linear weight, every rule a labelled point.

    python3 docs/results/summary.py            writes docs/results/summary.svg, prints its points as a table

Filled circles are rules of the library: NAME.csv (its last evaluation) and NAME.done (its bytes) of this folder; names that end in -s1, -s2,
... are seeds of one rule. Open diamonds are rules of the imitation at lab size: imitation/results.jsonl, stage `seeds`. A point is the
mean of its seeds, a bar their standard deviation to both sides; without a bar it is one seed. Needs nothing but Python."""
import argparse, glob, json, math, os, re

HERE = os.path.dirname(os.path.abspath(__file__))
WIDTH, HEIGHT, TOP, BOTTOM = 1280, 900, 64, 92
PARTS = ((0.22, 2.2, 70, 950), (7.7, 14.2, 980, 1262))  # of the axis of bytes: first, last, and where they are; nothing is between
FAMILIES = (('f32', '#222222', 'F32'), ('bitnet', '#875692', 'BitNet b1.58'), ('ternary-inference', '#009E73', '8 bits read as ternary'),
            ('ternary', '#D55E00', 'ternary'), ('dqt2', '#CC79A7', '2 bits'), ('dqt3', '#B8860B', '3 bits'), ('dqt4', '#0072B2', '4 bits'),
            ('dqt8', '#4C8C2B', '8 bits'))
IMITATION = '#808080'
GREY = ' fill="#555555"'
SIZE = 11  # of labels


def library(folder):
    """{rule: [(value, bytes)]} of what is finished."""
    rules = {}
    for done in sorted(glob.glob(os.path.join(folder, '*.done'))):
        name = os.path.basename(done)[:-len('.done')]
        state = float(open(done).read().split()[2])
        with open(os.path.join(folder, name + '.csv')) as f:
            values = [float(x[2]) for x in (line.strip().split(',') for line in list(f)[1:]) if len(x) == 3 and x[2]]
        rules.setdefault(re.sub(r'-s\d$', '', name), []).append((values[-1], state))
    return rules


def imitation(path):
    rules = {}
    for line in open(path):
        r = json.loads(line)
        if r.get('stage') == 'seeds' and 'error' not in r and not r.get('stopped') and math.isfinite(r['val']):
            rules.setdefault(r['point'], []).append((r['val'], r['state']))
    return rules


def point(who, name, seeds):
    values = [v for v, _ in seeds]
    mean = sum(values) / len(values)
    spread = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1)) if len(values) > 1 else 0
    colour = next((c for prefix, c, _ in FAMILIES if name.startswith(prefix)), '#222222') if who == 'library' else IMITATION
    return dict(who=who, name=name, y=mean, spread=spread, seeds=len(values), state=seeds[0][1], colour=colour, text=f'{name} {mean:.3f}')


class Picture:
    def __init__(self, lowest, highest):
        self.low, self.high, self.out, self.taken = lowest, highest, [], []
        self.add(f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" '
                 'font-family="sans-serif" font-size="12">')
        self.add(f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>')

    def add(self, text):
        self.out.append(text)

    def x(self, state):
        a, b, left, right = next((p for p in PARTS if state <= p[1]), PARTS[-1])
        return left + (state - a) / (b - a) * (right - left)

    def y(self, value):
        return TOP + (self.high - value) / (self.high - self.low) * (HEIGHT - TOP - BOTTOM)

    def line(self, x0, y0, x1, y1, colour, width=1.0, more=''):
        self.add(f'<line x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}" stroke="{colour}" stroke-width="{width}"{more}/>')

    def text(self, x, y, what, anchor='start', more=''):
        self.add(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{what}</text>')

    def axes(self):
        for (a, b, left, right), ticks in zip(PARTS, ((0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75, 2), (8, 9, 10, 11, 12))):
            for t in ticks:
                self.line(self.x(t), TOP, self.x(t), HEIGHT - BOTTOM, '#e4e4e4')
                self.text(self.x(t), HEIGHT - BOTTOM + 17, f'{t:g}', 'middle')
            for k in range(math.ceil(self.low * 20 - 1e-9), math.floor(self.high * 20 + 1e-9) + 1):
                self.line(left, self.y(k / 20), right, self.y(k / 20), '#e4e4e4')
                if left == PARTS[0][2]:
                    self.text(left - 8, self.y(k / 20) + 4, f'{k / 20:.2f}', 'end')
            self.line(left, HEIGHT - BOTTOM, right, HEIGHT - BOTTOM, '#666666')
        self.line(PARTS[0][2], TOP, PARTS[0][2], HEIGHT - BOTTOM, '#666666')
        self.text((PARTS[0][2] + PARTS[0][3]) / 2, HEIGHT - BOTTOM + 36, 'bytes of state per linear weight', 'middle')
        self.add(f'<text transform="translate(20 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)" text-anchor="middle">held-out bits per byte</text>')

    def frontier(self, points):
        """The least loss that the library has for at most so many bytes, as steps."""
        steps, least = [], math.inf
        for p in sorted(points, key=lambda p: (p['state'], p['y'])):
            if p['y'] < least:
                least = p['y']
                steps.append((self.x(p['state']), self.y(p['y'])))
        path = f'M{steps[0][0]:.1f} {steps[0][1]:.1f}' + ''.join(f'H{x:.1f}V{y:.1f}' for x, y in steps[1:])
        self.add(f'<path d="{path}H{PARTS[1][3]}" fill="none" stroke="#0072B2" stroke-opacity="0.25" stroke-width="5"/>')

    def mark(self, p):
        x, y = self.x(p['state']), self.y(p['y'])
        if p['seeds'] > 1:
            top, bottom = self.y(p['y'] + p['spread']), self.y(p['y'] - p['spread'])
            self.line(x, top, x, bottom, p['colour'], 1.6)
            for end in (top, bottom):
                self.line(x - 3, end, x + 3, end, p['colour'], 1.6)
            self.taken.append((x - 3, top, x + 3, bottom))
        if p['who'] == 'library':
            self.add(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{p["colour"]}"/>')
        else:
            self.add(f'<path d="M{x:.1f} {y - 5:.1f}l5 5l-5 5l-5 -5z" fill="white" stroke="{p["colour"]}" stroke-width="1.4"/>')
        self.taken.append((x - 5, y - 5, x + 5, y + 5))

    def label(self, p):
        """Where it hides least, near its point first; a thin line leads to it from afar."""
        x, y, w, h = self.x(p['state']), self.y(p['y']), SIZE * (0.6 if bold(p) else 0.545) * len(p['text']), SIZE + 1
        best = None
        for distance in (8, 16, 26, 38, 52, 68, 86, 106):
            for k in range(24):
                a = 2 * math.pi * k / 24
                cx, cy = x + math.cos(a) * distance, y + math.sin(a) * distance
                left = cx if math.cos(a) > 0.2 else cx - w if math.cos(a) < -0.2 else cx - w / 2
                box = (left, cy - h / 2, left + w, cy + h / 2)
                if box[0] < PARTS[0][2] + 2 or box[2] > WIDTH - 4 or box[1] < TOP or box[3] > HEIGHT - BOTTOM:
                    continue
                hidden = sum(overlap(box, t) for t in self.taken)
                crossed = sum(crosses((x, y), (cx, cy), t) for t in self.taken if not inside((x, y), t)) if distance > 16 else 0
                cost = hidden * 4 + crossed * 60 + distance + 3 * abs(math.sin(a))
                if best is None or cost < best[0]:
                    best = cost, box, (cx, cy), distance
        _, box, end, distance = best
        if distance > 16:
            self.line(x, y, *end, p['colour'], 0.7)
        self.taken.append(box)
        self.text(box[0], box[3] - 3, p['text'], more=f' font-size="{SIZE}" fill="{p["colour"]}"'
                  + (' font-weight="bold"' if bold(p) else ''))


def bold(p):
    return p['who'] == 'library' and p['seeds'] > 1


def overlap(a, b):
    return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))


def inside(point, box):
    return box[0] <= point[0] <= box[2] and box[1] <= point[1] <= box[3]


def crosses(a, b, box):
    return any(inside((a[0] + (b[0] - a[0]) * k / 12, a[1] + (b[1] - a[1]) * k / 12), box) for k in range(1, 12))


def draw(points, highest):
    shown = [p for p in points if p['y'] <= highest]
    above = sorted((p for p in points if p['y'] > highest), key=lambda p: p['y'])
    pic = Picture(math.floor(min(p['y'] - p['spread'] for p in shown) * 50) / 50, highest)
    pic.text(PARTS[0][2], 24, 'Loss against state: hidden 256, 4 layers, 16 M tokens', more=' font-size="17"')
    x = PARTS[0][2]
    for _, colour, words in FAMILIES + ((None, IMITATION, 'imitation in PyTorch'),):
        pic.add(f'<circle cx="{x + 5}" cy="44" r="4.5" fill="{colour}"/>' if colour != IMITATION else
                f'<path d="M{x + 5} 39l5 5l-5 5l-5 -5z" fill="white" stroke="{colour}" stroke-width="1.4"/>')
        pic.text(x + 14, 48, words)
        x += 34 + 6.6 * len(words)
    pic.text(WIDTH - 18, 24, 'bars: standard deviation over seeds; no bar: one seed; wide line: the least loss in so many bytes', 'end', GREY)
    pic.axes()
    pic.frontier([p for p in shown if p['who'] == 'library'])
    for p in sorted(shown, key=lambda p: p['who'] == 'library'):
        pic.mark(p)
    for p in sorted(shown, key=lambda p: (p['who'] != 'library', p['seeds'] == 1, p['y'])):
        pic.label(p)
    words = [f'{p["text"]} ({p["state"]:.2f} bytes{", imitation" if p["who"] != "library" else ""})' for p in above]
    for i in range(0, len(words), 4):
        pic.text(PARTS[0][2], HEIGHT - 26 + 15 * (i // 4), ('' if i else 'above: ') + '; '.join(words[i:i + 4]), more=GREY)
    return '\n'.join(pic.out + ['</svg>']) + '\n'


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--results', default=HERE)
    p.add_argument('--imitation', default=os.path.join(HERE, 'imitation', 'results.jsonl'))
    p.add_argument('--out', default=os.path.join(HERE, 'summary.svg'))
    p.add_argument('--highest', type=float, default=2.14, help='points above are named below the picture')
    args = p.parse_args()
    points = [point('library', n, s) for n, s in library(args.results).items()]
    points += [point('imitation', n, s) for n, s in imitation(args.imitation).items()]
    print('| | rule | bytes | seeds | mean | standard deviation |\n|---|---|---|---|---|---|')
    for q in sorted(points, key=lambda q: (q['who'] != 'library', q['y'])):
        print(f'| {q["who"]} | {q["name"]} | {q["state"]:.2f} | {q["seeds"]} | {q["y"]:.4f} | {q["spread"]:.4f} |' if q['seeds'] > 1 else
              f'| {q["who"]} | {q["name"]} | {q["state"]:.2f} | 1 | {q["y"]:.4f} | |')
    with open(args.out, 'w') as f:
        f.write(draw(points, args.highest))


if __name__ == '__main__':
    main()
