"""Tables and a plot from the JSON lines of run_queue.py.

    python3 report.py results.jsonl [more.jsonl ...] --plot bytes.svg > table.md

Three Markdown tables: levers at 25 M weights (one seed each, in the order tried), the rules with three seeds at full length, rules at lab size
by bytes of state. The plot has the last: held-out bits per byte against bytes of state per linear weight, mean of the seeds, a bar
of the standard deviation. Needs nothing but Python."""
import argparse, json, math

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 860, 460, 70, 300, 44, 56
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#222222", "#875692", "#BE0032", "#848482", "#8DB600", "#654522",
           "#F99379", "#604E97", "#008856", "#B3446C", "#C2B280", "#882D17", "#2B3D26", "#DCD300", "#0A3A6B"]   # as examples/support/plot.c

def mean(x): return sum(x) / len(x)
def spread(x): return math.sqrt(sum((v - mean(x)) ** 2 for v in x) / (len(x) - 1)) if len(x) > 1 else None
def show(x): return '' if x is None else f'{x:.4f}'
def lever(o): return ', '.join(f'{k} {v}' for k, v in o.items()) or 'where it starts'

def levers(rows):
    out = ['| rule | lever | bits per byte | against the rule so far | kept | state B/w |', '|---|---|---|---|---|---|']
    for track in dict.fromkeys(r['track'] for r in rows):
        for r in (r for r in rows if r['track'] == track):
            over = r.get('over'); better = over is None or r['val'] < over
            change = '' if over is None else f"{r['val'] - over:+.4f}"
            out.append(f"| {track} | {lever(r['lever'])} | {r['val']:.4f} | {change} | {'yes' if better else ''} | {r['state']:.2f} |"
                       if math.isfinite(r['val']) else f"| {track} | {lever(r['lever'])} | diverged | | | |")
    return out

def group(rows, key):
    """Rows of the same key, options and steps; seeds in order."""
    got = {}
    for r in rows: got.setdefault((r[key], json.dumps(r.get('lever')), r['rate'], r['steps_done']), {})[r['seed']] = r
    return {k: [v[s] for s in sorted(v)] for k, v in got.items()}

def settings(r):
    o = r['options']; names = ('kind', 'dir', 'lr', 'fp_lr', 'sched', 'cool', 'wd', 'b1', 'b1_end', 'noise', 'noise_end', 'keep', 'std', 'sigma', 'group', 'b2', 'mbits', 'pbits')
    off = {'cool': o['sched'] != 'wsd', 'b1_end': o['b1_end'] < 0, 'noise_end': o['noise_end'] < 0, 'keep': not o['keep'], 'sigma': not o['sigma'],
           'group': not o['group'], 'noise': o['kind'] == 'float', 'mbits': o['kind'] == 'float', 'pbits': o['kind'] != 'acc'}
    return ', '.join(f'{n} {o[n]:.4g}' if isinstance(o[n], float) else f'{n} {o[n]}' for n in names if not off.get(n))

def finals(rows):
    out = ['| rule | state B/w | steps | held-out bits per byte, seeds | mean | standard deviation | setting |', '|---|---|---|---|---|---|---|']
    for (name, _, _, steps), rs in sorted(group(rows, 'track').items(), key=lambda x: mean([r['val'] for r in x[1]])):
        v = [r['val'] for r in rs]
        out.append(f"| {name} | {rs[0]['state']:.2f} | {steps} | {', '.join(map(show, v))} | **{mean(v):.4f}** | {show(spread(v))} | {settings(rs[0])} |")
    return out

def points(rows):
    out = ['| rule | state B/w | rate | held-out bits per byte, seeds | mean | standard deviation |', '|---|---|---|---|---|---|']
    got = sorted(group(rows, 'point').items(), key=lambda x: (-x[1][0]['state'], mean([r['val'] for r in x[1]])))
    for (name, _, rate, _), rs in got:
        v = [r['val'] for r in rs]
        out.append(f"| {name} | {rs[0]['state']:.2f} | {rate:g} | {', '.join(map(show, v))} | **{mean(v):.4f}** | {show(spread(v))} |")
    return out, [(name, rs[0]['state'], mean([r['val'] for r in rs]), spread([r['val'] for r in rs]) or 0) for (name, _, _, _), rs in got]

def plot(pts, title, y_max):
    x0, x1 = math.log10(min(p[1] for p in pts)) - 0.08, math.log10(max(p[1] for p in pts)) + 0.08
    top = [p for p in pts if p[2] <= y_max] or pts
    y0, y1 = min(p[2] - p[3] for p in top) - 0.01, max(p[2] + p[3] for p in top) + 0.01
    px = lambda x: LEFT + (math.log10(x) - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT)
    py = lambda y: HEIGHT - BOTTOM - (y - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM)
    height = max(HEIGHT, TOP + 17 * len(pts) + 8); right = WIDTH - RIGHT
    s = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12">',
         f'<rect width="{WIDTH}" height="{height}" fill="white"/>', f'<text x="{LEFT}" y="24" font-size="15">{title}</text>']
    line = lambda a, b, c, d, col, w=1: s.append(f'<line x1="{a:.1f}" y1="{b:.1f}" x2="{c:.1f}" y2="{d:.1f}" stroke="{col}" stroke-width="{w}"/>')
    for x in (0.25, 0.35, 0.5, 0.75, 1, 1.25, 1.5, 2, 3, 4, 6, 8, 12):
        if x0 <= math.log10(x) <= x1:
            line(px(x), TOP, px(x), HEIGHT - BOTTOM, '#dddddd'); s.append(f'<text x="{px(x):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{x:g}</text>')
    raw = (y1 - y0) / 6; base = 10 ** math.floor(math.log10(raw)); step = base * min((1, 2, 5, 10), key=lambda k: abs(k - raw / base))
    for k in range(math.ceil(y0 / step), math.floor(y1 / step) + 1):
        line(LEFT, py(k * step), right, py(k * step), '#dddddd'); s.append(f'<text x="{LEFT - 6}" y="{py(k * step) + 4:.1f}" text-anchor="end">{k * step:.4g}</text>')
    s.append(f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 16}" text-anchor="middle">bytes of state per linear weight</text>')
    s.append(f'<text transform="translate(18 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)" text-anchor="middle">held-out bits per byte</text>')
    for i, (name, x, y, sd) in enumerate(sorted(pts, key=lambda p: p[2])):
        col = COLOURS[i % len(COLOURS)]; ly = TOP + 17 * i + 8; box = i >= len(COLOURS)
        mark = lambda a, b: s.append(f'<rect x="{a - 4:.1f}" y="{b - 4:.1f}" width="8" height="8" fill="{col}"/>' if box else f'<circle cx="{a:.1f}" cy="{b:.1f}" r="4.5" fill="{col}"/>')
        mark(right + 16, ly - 4); s.append(f'<text x="{right + 26}" y="{ly}">{name}: {y:.3f}</text>')
        if y <= y_max: line(px(x), py(y - sd), px(x), py(y + sd), col, 1.5); mark(px(x), py(y))
    return '\n'.join(s + ['</svg>']) + '\n'

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('files', nargs='+'); p.add_argument('--plot'); p.add_argument('--y-max', type=float, default=2.1, help='points above are in the legend only')
    a = p.parse_args(); rows = [json.loads(l) for f in a.files for l in open(f) if l.strip()]
    bad = [r for r in rows if 'error' in r or r.get('stopped')]; rows = [r for r in rows if r not in bad]
    of = lambda stage: [r for r in rows if r.get('stage') == stage]
    if of('scan'): print('Levers, one seed\n', *levers(of('scan')), '', sep='\n')
    if of('final'): print('Full length, seeds that the levers were not chosen on\n', *finals([r for r in of('final') if math.isfinite(r['val'])]), '', sep='\n')
    if of('rates'): print('Rates, one seed\n', *finals([r for r in of('rates') if math.isfinite(r['val'])]), '', sep='\n')
    if of('rate'): print('Half and twice the rate, one seed\n', *finals([r for r in of('rate') if math.isfinite(r['val'])]), '', sep='\n')
    pts = [r for r in of('seeds') if math.isfinite(r['val'])]
    if pts:
        table, xy = points(pts); print('Lab size, by bytes of state\n', *table, '', sep='\n')
        if a.plot: open(a.plot, 'w').write(plot(xy, 'Loss against state: rules for ternary weights at lab size', a.y_max))
    if bad: print(f'{len(bad)} runs failed or were stopped: ' + '; '.join(sorted({r["name"] for r in bad})))

if __name__ == '__main__': main()
