#!/usr/bin/env python3
"""Tokens a second and memory of each rank on 1 to 1,024 ranks, predicted from what measure.py measured.

    python3 bench/mpi/predict.py docs/results/distributed.json --plot docs/results/distributed.svg   # tables and plot
    python3 bench/mpi/predict.py docs/results/distributed.json --check      # beside the runs that were measured
    python3 bench/mpi/predict.py docs/results/distributed.json --plot docs/results/distributed.svg --fill docs/distributed.md

The model of a step, in seconds. Data-parallel, n ranks with W weights each:

    forward and backward, layer by layer, in proportion to weights and tokens: of large models at the rate of the measured one, while as
        many processes as use all cores ran it at once. A step's tokens are shared by the ranks, in micro-batches of the size that was
        measured (less: in proportion); of several, gradients travel in the last one's backward
    a layer's gradient, once made, is packed (W p, p seconds for each number, by all threads of a rank) and sent while earlier layers go backward:
        the network takes layers in turn; where the processor moves the bytes (shared memory), nothing overlaps
    then W a to add what came, the update of 1/n of the rows, sums of tiles, and the codes, all-gathered
    fused: each gradient is packed, exchanged, added and its rows updated before the next one is made; nothing overlaps, and
        there is one micro-batch

A collective operation of b bytes received takes ceil(log2 n) latencies, n-1 messages and b / bandwidth, or what measure.py found.
Pipelining, s stages: forward passes of a micro-batch go down the stages, backward passes up, one of each in turn once a stage
has as many under way as there are stages below (1F1B); a stage runs forward again before a backward that does not follow it;
each hand-over takes a latency and tokens x hidden floats; the update is each stage's own. More than 8 ranks are replicas of a
pipeline of 8 stages, which exchange gradients as above. Memory is the planner's (bench/mpi/rank.c) and messages."""
import argparse
import json
import math
import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
RANK = os.path.join(ROOT, 'build', 'bench', 'mpi', 'rank')
WIRE_BYTES = {'f32': 4, 'bf16': 2, 'int8': 1 + 4 / 128}  # of a number
TILE_SUMS = 5 * 8 / 64  # bytes of sums for a row
RANKS = [2 ** k for k in range(11)]
STAGES = 8  # of a pipeline at most: more ranks are replicas of it
TOLERANCE = 0.20


class Layer:
    """Seconds of one micro-batch on one rank, weights, bytes of their codes, parameters."""

    def __init__(self, forward, backward, update, weights, code_bytes, parameters):
        self.forward, self.backward, self.update = forward, backward, update
        self.weights, self.code_bytes, self.parameters = weights, code_bytes, parameters

    def __add__(self, other):
        return Layer(*(a + b for a, b in zip(vars(self).values(), vars(other).values())))

    def part(self, share):
        return Layer(self.forward * share, self.backward * share, self.update, self.weights, self.code_bytes, self.parameters)


class Given:
    """A network by its numbers; it moves bytes while processors compute."""
    overlaps = True

    def __init__(self, bytes_per_second, latency, message):
        self.bytes_per_second, self.latency, self.message = bytes_per_second, latency, message

    def collective(self, _, ranks, received, operations):
        return operations * (math.ceil(math.log2(ranks)) * self.latency + (ranks - 1) * self.message) + received / self.bytes_per_second

    def hand_over(self, size):
        return self.latency + size / self.bytes_per_second


class Measured:
    """Shared memory, by network.c: processors move the bytes themselves."""
    overlaps = False

    def __init__(self, of, ranks):
        self.of, self.ranks = of, str(ranks)

    def hand_over(self, size):
        return self.of[self.ranks]['latency'] + size / self.of[self.ranks]['pair_bytes_per_second']

    def collective(self, name, ranks, received, operations):
        found = self.of[str(ranks)][name]
        return operations * found['seconds'] + received / found['bytes_per_second']


NETWORKS = {'1 Gbit/s': Given(0.118e9, 50e-6, 5e-6), '10 Gbit/s': Given(1.18e9, 20e-6, 2e-6), '100 Gbit/s': Given(11.8e9, 3e-6, 0.5e-6)}


def network_of(text):
    """One of NETWORKS, or 'Gbit/s:microseconds', such as 25:10, of which TCP leaves 94 % and a message costs a tenth of the latency."""
    if text in NETWORKS:
        return text, NETWORKS[text]
    try:
        gigabits, microseconds = (float(part) for part in text.split(':'))
        if not (gigabits > 0 and microseconds >= 0):
            raise ValueError
    except ValueError:
        sys.exit(f"'{text}' is neither one of {', '.join(NETWORKS)} nor Gbit/s:microseconds, such as 25:10")
    return f'{gigabits:g} Gbit/s, {microseconds:g} us', Given(0.118e9 * gigabits, microseconds * 1e-6, microseconds * 1e-7)


def total(layers, name):
    return sum(getattr(l, name) for l in layers)


# ---- Data-parallel ----

def data_parallel(layers, ranks, wire, network, packing, hidden, micro_batches=1, fused=False):
    """Seconds of a step. wire None: the usual design, gradients all-reduced in f32 and every rank updates everything."""
    weights, share = total(layers, 'weights'), (ranks - 1) / ranks
    if micro_batches < 1:
        layers, micro_batches = [l.part(micro_batches) for l in layers], 1
    now = micro_batches * total(layers, 'forward') + (micro_batches - 1) * total(layers, 'backward')
    free = 0.0  # the network, from then on
    for l in reversed(layers):
        now += l.backward
        if ranks == 1:
            continue
        if wire:
            now += l.weights * packing['pack']
            sending = network.collective('all_to_all', ranks, share * l.weights * WIRE_BYTES[wire], l.parameters)
        else:
            sending = network.collective('all_reduce', ranks, 2 * share * 4 * l.weights, l.parameters)
        if network.overlaps and not fused:
            free = max(free, now) + sending
        else:
            now += sending
    now = max(now, free)
    if ranks == 1 or not wire:
        return now + total(layers, 'update')
    rows = weights / hidden
    return (now + weights * packing['add'] + total(layers, 'update') / ranks +
            network.collective('all_gather', ranks, share * rows * TILE_SUMS, 2) +
            network.collective('all_gather', ranks, share * total(layers, 'code_bytes'), sum(l.parameters for l in layers)))


# ---- Pipelining ----

def cut(layers, stages):
    """Layers for each stage, in order: the slowest stage as fast as it goes."""
    cost = [2 * l.forward + l.backward for l in layers]
    low, high = max(cost), sum(cost)

    def parts(limit):
        out, load = [[]], 0.0
        for l, c in zip(layers, cost):
            if out[-1] and load + c > limit:
                out.append([])
                load = 0.0
            out[-1].append(l)
            load += c
        return out
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if len(parts(middle)) <= stages else (middle, high)
    found = parts(high * (1 + 1e-9))
    while len(found) < stages:  # split what can be split
        longest = max((p for p in found if len(p) > 1), key=lambda p: sum(2 * l.forward + l.backward for l in p))
        i, half = found.index(longest), len(longest) // 2
        found[i:i + 1] = [longest[:half], longest[half:]]
    return found


def evenly(layers, stages):
    """As examples/mpi does: the first ones have one more where it does not go evenly."""
    out, at = [], 0
    for s in range(stages):
        count = len(layers) // stages + (s < len(layers) % stages)
        out.append(layers[at:at + count])
        at += count
    return out


def pipeline(stages, micro_batches, network, message):
    """Seconds until all micro-batches have been forward and backward through all stages."""
    count = len(stages)
    forward = [total(s, 'forward') for s in stages]
    backward = [total(s, 'backward') for s in stages]
    hand_over = network.hand_over(message) if count > 1 else 0
    orders = []
    for s in range(count):
        ahead = min(count - s, micro_batches)
        order = [('f', m) for m in range(ahead)]
        for m in range(micro_batches):
            order.append(('b', m))
            if ahead + m < micro_batches:
                order.append(('f', ahead + m))
        orders.append(order)
    done, at, clock = {}, [0] * count, [0.0] * count
    while any(at[s] < len(orders[s]) for s in range(count)):
        for s in range(count):
            while at[s] < len(orders[s]):
                kind, m = orders[s][at[s]]
                before = ('f', m, s - 1) if kind == 'f' else ('b', m, s + 1)
                if 0 <= before[2] < count and before not in done:
                    break
                ready = done[before] + hand_over if before in done else 0.0
                again = kind == 'b' and orders[s][at[s] - 1] != ('f', m)  # another forward has come between; while waiting
                clock[s] = max(clock[s] + again * forward[s], ready) + (forward[s] if kind == 'f' else backward[s])
                done[kind, m, s] = clock[s]
                at[s] += 1
    return max(clock)


def piped_step(blocks, ranks, most_stages, wire, network, packing, hidden, tokens, micro_batches):
    """Seconds of a step of min(ranks, most_stages) stages, replicated; micro_batches for all ranks."""
    stages = cut(blocks, min(ranks, most_stages))
    replicas = ranks // len(stages)
    seconds = pipeline(stages, max(1, micro_batches // replicas), network, tokens * hidden * 4)
    still = [[l.part(0) for l in stage] for stage in stages]
    return seconds + max(data_parallel(stage, replicas, wire, network, packing, hidden) for stage in still)


# ---- Memory ----

def planned(values):
    words = [w for name, value in values.items() if value is not None
             for w in (['--' + name.replace('_', '-')] + ([] if value is True else [str(value)]))]
    return json.loads(subprocess.run([RANK] + words, check=True, stdout=subprocess.PIPE, text=True).stdout)


def data_parallel_bytes(values, ranks, wire, fused=False):
    p = planned(dict(values, parts=ranks, **({'fused': True} if fused else {})))
    weights = sum(p['model'][k] for k in ('linear_weights', 'embedding_weights', 'head_weights', 'norm_weights'))
    if fused:  # those of the largest parameter
        weights = values['hidden'] * max(values['vocab'], values['ff'])
    messages = 2 * weights * WIRE_BYTES[wire] if ranks > 1 else 0  # sent and received
    return p['model']['total'] + p['tape']['total'] + p['updater']['total'] + messages


def piped_bytes(values, stages, replicas, wire, tokens):
    """The greatest of a stage: a partial model with tape and updater, and what came in of the micro-batches under way."""
    first, most = 0, 0
    for s, stage in enumerate(stages):
        p = planned(dict(values, first_block=first, num_blocks=len(stage)))
        under_way = (len(stages) - s) * tokens * values['hidden'] * 4
        messages = 2 * total(stage, 'weights') * WIRE_BYTES[wire] if replicas > 1 else 0
        most = max(most, p['model']['total'] + p['tape']['total'] + p['updater']['total'] + under_way + messages)
        first += len(stage)
    return most


# ---- What was measured ----

def check_layers(found):
    """Blocks alike: the model of the measured runs, whose vocabulary is small."""
    phases = {n: f['seconds'] for n, f in found['phases'].items()}
    model, blocks = found['phases']['1']['model'], found['model']['layers']
    weights = sum(model[k] for k in ('linear_weights', 'embedding_weights', 'head_weights')) / blocks
    codes = sum(model[k] for k in ('linear_bytes', 'embedding_bytes', 'head_bytes')) / blocks
    return {int(n): [Layer(p['forward'] / blocks, p['backward'] / blocks, p['update'] / blocks, weights, codes, 11)] * blocks
            for n, p in phases.items()}


class Rates:
    """Seconds of a weight, on all cores: of the processes that ran at once and used them all, each with tokens and a model of its own."""

    def __init__(self, found):
        processes = max(found['phases'], key=int)
        of, model = found['phases'][processes], found['model']
        weights = int(processes) * (of['model']['linear_weights'] + of['model']['head_weights'])
        tokens = model['batch'] * model['seq']
        self.forward, self.backward = (of['seconds'][k] / weights / tokens for k in ('forward', 'backward'))
        self.update = of['seconds']['update'] / weights

    def layer(self, products, others, code_bytes, parameters, tokens):
        """Of so many weights that are multiplied with, and so many that are not."""
        return Layer(tokens * self.forward * products, tokens * self.backward * products, self.update * (products + others),
                     products + others, code_bytes, parameters)


def shape_layers(found, name):
    """The blocks, the embedding with the first, and the head as the last layer, which is a product as theirs are."""
    shape, batch, rates = found['shapes_measured']['SHAPES'][name], found['shapes_measured']['batch'], Rates(found)
    tokens = batch['batch'] * batch['seq']
    m = planned(dict(shape, layers=1, **batch))['model']
    first = rates.layer(m['linear_weights'], m['embedding_weights'], m['linear_bytes'] + m['embedding_bytes'], 12, tokens)
    block = rates.layer(m['linear_weights'], 0, m['linear_bytes'], 11, tokens)
    head = rates.layer(m['head_weights'], 0, m['head_bytes'], 2, tokens)
    return [first] + [block] * (shape['layers'] - 1) + [head]


def all_reduce_bytes(weights, ranks):
    """Of the usual design, by rings, in f32."""
    return 2 * (ranks - 1) / ranks * 4 * weights


def mode_of(run):
    return (run['wire'] if run['ranks'] > 1 else '') + (', fused' if run.get('fused') else '')


def checked_runs(found, lines):
    """Whether all are within TOLERANCE."""
    layers, model = check_layers(found), found['model']
    tokens, good = model['batch'] * model['seq'], bool(found.get('runs'))
    lines += ['| ranks | gradients | s a step, measured | predicted | off by | exchange, measured | predicted | tokens/s, measured | of n times one rank |',
              '|---|---|---|---|---|---|---|---|---|']
    one = next((r['seconds'] for r in found.get('runs', []) if r['ranks'] == 1), None)
    for run in found.get('runs', []):
        n, wire = run['ranks'], run['wire']
        if n not in layers or (n > 1 and str(n) not in found.get('network', {})):
            lines.append(f"| {n} | {mode_of(run)} | {run['seconds']:.3f} | not measured what it takes | | | | {n * tokens / run['seconds']:,.0f} | |")
            good = False
            continue
        packing = found['network'][str(n)][wire] if n > 1 else None
        seconds = data_parallel(layers[n], n, wire, Measured(found.get('network', {}), n), packing, model['hidden'], fused=bool(run.get('fused')))
        off = seconds / run['seconds'] - 1
        good = good and abs(off) <= TOLERANCE
        exchange = seconds - sum(total(layers[n], k) for k in ('forward', 'backward')) - total(layers[n], 'update') / n
        exchanged = f"{sum(run['spent'].values()):.3f} | {exchange:.3f}" if run.get('spent') else ' | '
        share = f"{100 * one / run['seconds']:.0f} %" if one else ''
        lines.append(f"| {n} | {mode_of(run)} | {run['seconds']:.3f} | {seconds:.3f} | {100 * off:+.0f} % | {exchanged} | {n * tokens / run['seconds']:,.0f} | {share} |")
    return good


def checked_pipelines(found, lines):
    layers, model = check_layers(found), found['model']
    tokens, good = model['batch'] * model['seq'], True
    if found.get('pipelines'):
        lines += ['', '| stages | micro-batches | s a step, measured | predicted | off by | tokens/s, measured |', '|---|---|---|---|---|---|']
    for run in found.get('pipelines', []):
        n = run['ranks']
        if n not in layers or (n > 1 and str(n) not in found.get('network', {})):
            continue
        stages, network = evenly(layers[n], n), Measured(found.get('network', {}), n)
        seconds = pipeline(stages, run['micro_batches'], network, tokens * model['hidden'] * 4) + max(total(s, 'update') for s in stages)
        off = seconds / run['seconds'] - 1
        good = good and abs(off) <= TOLERANCE
        lines.append(f"| {n} | {run['micro_batches']} | {run['seconds']:.3f} | {seconds:.3f} | {100 * off:+.0f} % | "
                     f"{run['micro_batches'] * tokens / run['seconds']:,.0f} |")
    return good


def checked_bytes(found, lines):
    """Of one rank in a step, and its memory."""
    model = found['model']
    layers = check_layers(found)[1]
    weights, codes = total(layers, 'weights'), total(layers, 'code_bytes')
    if not any('peak_bytes' in run for run in found.get('runs', [])):
        return
    values = dict({k: model[k] for k in ('vocab', 'hidden', 'ff', 'layers', 'heads', 'batch', 'seq', 'optimizer', 'rounding')}, threads=found['host']['threads'])
    lines += ['', '| ranks | gradients | MB sent, counted | by the formulas | of an f32 all-reduce | peak RSS, MiB | planned, MiB |', '|---|---|---|---|---|---|---|']
    for run in found.get('runs', []):
        n, wire = run['ranks'], run['wire']
        sent = (n - 1) / n * (weights * WIRE_BYTES[wire] + codes + weights / model['hidden'] * TILE_SUMS)
        moved = f"{run['sent'] / 1e6:.1f} | {sent / 1e6:.1f} | {100 * run['sent'] / all_reduce_bytes(weights, n):.1f} %" if run.get('sent') else ' | | '
        planned_ = f"{data_parallel_bytes(values, n, wire, bool(run.get('fused'))) / 2 ** 20:,.0f}" if os.path.exists(RANK) else ''
        lines.append(f"| {n} | {mode_of(run)} | {moved} | {run['peak_bytes'] / 2 ** 20:,.0f} | {planned_} |")


def compared_shapes(found, lines):
    """Steps of a few blocks of large models, beside what shape_layers makes of the small one's. They are no check: each is one short run."""
    batch, rates = found.get('shapes_measured', {}).get('batch'), Rates(found)
    for name, of in found.get('shapes', {}).items():
        if name == next(iter(found['shapes'])):
            lines += ['', '| model | blocks | s a step, measured | by the rates of the small one | off by |', '|---|---|---|---|---|']
        for blocks, run in of.items():
            m = run['model']
            l = rates.layer(m['linear_weights'] + m['head_weights'], m['embedding_weights'], 0, 0, batch['batch'] * batch['seq'])
            seconds, measured = l.forward + l.backward + l.update, sum(run['seconds'].values())
            lines.append(f'| {name} | {blocks} | {measured:.2f} | {seconds:.2f} | {100 * (seconds / measured - 1):+.0f} % |')


def check(found):
    """Lines: predicted beside measured. Whether all are within TOLERANCE."""
    lines = []
    good = checked_runs(found, lines)
    good = checked_pipelines(found, lines) and good
    checked_bytes(found, lines)
    compared_shapes(found, lines)
    lines += ['', f'All steps are within {100 * TOLERANCE:.0f} %.' if good else f'Not all steps are within {100 * TOLERANCE:.0f} %.']
    return lines, good


# ---- Tables and plot ----

MODES = [('f32 all-reduce', None), ('BF16', 'bf16'), ('INT8', 'int8'), ('INT8, fused', 'int8'), ('pipeline, INT8', 'int8')]


def project(found, name, network, step_tokens):
    """{mode: [(ranks, tokens/s, bytes)]}"""
    shape, batch = found['shapes_measured']['SHAPES'][name], found['shapes_measured']['batch']
    layers, tokens = shape_layers(found, name), batch['batch'] * batch['seq']
    blocks = layers[:-2] + [layers[-2] + layers[-1]]  # the head is with the last block
    values = dict(shape, vocab=batch['vocab'], batch=batch['batch'], seq=batch['seq'], optimizer='adafactor', state='int8', recompute=True,
                  threads=found['host']['cores'])
    micro_batches = step_tokens // tokens
    out = {mode: [] for mode, _ in MODES}
    for n in RANKS:
        for mode, wire in MODES:
            packing = (found.get('packing') or found['network'][min(found['network'], key=int)]).get(wire)
            if mode.startswith('pipeline'):
                stages = cut(blocks, min(n, STAGES))
                seconds = piped_step(blocks, n, STAGES, wire, network, packing, shape['hidden'], tokens, micro_batches)
                size = piped_bytes(values, stages, n // len(stages), wire, tokens)
            else:
                fused = mode.endswith('fused')
                here = min(1.0, micro_batches / n) if fused else micro_batches / n
                seconds = data_parallel(layers, n, wire, network, packing, shape['hidden'], here, fused)
                size = data_parallel_bytes(values, n if wire else 1, wire or 'f32', fused)
                if fused:
                    seconds *= micro_batches / n / here  # for as many tokens
            out[mode].append((n, step_tokens / seconds, size))
    return out


HEAD = '| ranks | ' + ' | '.join(m for m, _ in MODES) + ' |'
RULE = '|---|' + '---|' * len(MODES)
SHOWN = [1, 2, 4, 8, 64, 256, 1024]  # in docs/distributed.md


def speed_table(found, name, net, rows, ranks):
    lines = [f'{name}, {net}: tokens/s (share of n times one rank)', '', HEAD, RULE]
    for i, n in enumerate(RANKS):
        if n in ranks:
            lines.append(f'| {n:,} | ' + ' | '.join(f'{rows[m][i][1]:,.0f} ({100 * rows[m][i][1] / n / rows[m][0][1]:.0f} %)' for m, _ in MODES) + ' |')
    return lines


def memory_table(name, rows, ranks):
    lines = [f'{name}: GiB of memory of a rank', '', HEAD, RULE]
    for i, n in enumerate(RANKS):
        if n in ranks:
            lines.append(f'| {n:,} | ' + ' | '.join(f'{rows[m][i][2] / 2 ** 30:.2f}' for m, _ in MODES) + ' |')
    return lines


def shapes_of(found):
    return list(found.get('shapes_measured', {}).get('SHAPES', {}))


def tables(found, networks, step_tokens, ranks):
    lines = []
    for name in shapes_of(found):
        for net in networks:
            label, network = network_of(net)
            rows = project(found, name, network, step_tokens)
            lines += speed_table(found, name, label, rows, ranks) + ['']
        lines += memory_table(name, rows, ranks) + ['']
    return lines[:-1]


def packing_line(found):
    """Nanoseconds of a number."""
    def of(p):
        return ', '.join(f"{1e9 * p[w]['pack']:.2f} and {1e9 * p[w]['add']:.2f} ns as {w.upper()}" for w in ('bf16', 'int8'))
    most = max(found['network'], key=int)
    line = (f"Packing a number and adding it takes a rank of {found['network'][most].get('threads', 1)} threads "
            f"{of(found['network'][most])}, while {most} ranks do so")
    if found.get('packing'):
        line += f"; {found['packing']['threads']} threads of one rank take {of(found['packing'])}"
    return [line + '.']


def fill(path, parts):
    """Replaces what is between <!-- name --> and <!-- /name -->."""
    with open(path, encoding='utf-8') as f:
        text = f.read()
    for name, lines in parts.items():
        begin, end = f'<!-- {name} -->\n', f'<!-- /{name} -->'
        if text.count(begin) != 1 or text.count(end) != 1:
            sys.exit(f'{path} has no place for {name}')
        head, rest = text.split(begin)
        text = head + begin + '\n'.join([''] + lines + ['', '']) + end + rest.split(end)[1]
    with open(path, 'w', encoding='utf-8') as f:
        f.write(text)


COLOURS = ['#222222', '#D55E00', '#0072B2', '#CC79A7', '#009E73']  # as examples/support/plot.c
PANEL_WIDTH, PANEL_HEIGHT, LEFT, TOP, GAP = 380, 260, 70, 56, 90


def panel(s, x0, y0, title, unit, lines, ticks, place):
    """A plot of {name: [(ranks, value)]} with its lower left corner at x0, y0; place: 0..1 of a value."""
    px = lambda n: x0 + math.log2(n) / 10 * PANEL_WIDTH
    py = lambda v: y0 - place(v) * PANEL_HEIGHT
    s.append(f'<text x="{x0}" y="{y0 - PANEL_HEIGHT - 10}" font-size="14">{title}</text>')
    for n in RANKS[::2]:
        s.append(f'<line x1="{px(n):.1f}" y1="{y0}" x2="{px(n):.1f}" y2="{y0 - PANEL_HEIGHT}" stroke="#dddddd"/>'
                 f'<text x="{px(n):.1f}" y="{y0 + 16}" text-anchor="middle">{n:,}</text>')
    for v in ticks:
        s.append(f'<line x1="{x0}" y1="{py(v):.1f}" x2="{x0 + PANEL_WIDTH}" y2="{py(v):.1f}" stroke="#dddddd"/>'
                 f'<text x="{x0 - 6}" y="{py(v) + 4:.1f}" text-anchor="end">{v:g}</text>')
    s.append(f'<text x="{x0 + PANEL_WIDTH / 2}" y="{y0 + 34}" text-anchor="middle">ranks</text>'
             f'<text transform="translate({x0 - 44} {y0 - PANEL_HEIGHT / 2}) rotate(-90)" text-anchor="middle">{unit}</text>')
    for (name, points), colour in zip(lines.items(), COLOURS):
        s.append('<polyline fill="none" stroke-width="1.8" stroke="%s" points="%s"/>' %
                 (colour, ' '.join(f'{px(n):.1f},{py(v):.1f}' for n, v in points)))


def logarithmic(lines):
    """Ticks 1, 2, 5 of decades around all values, and where a value lies among them."""
    values = [v for points in lines.values() for _, v in points]
    every = [m * 10 ** k for k in range(-3, 7) for m in (1, 2, 5)]
    ticks = [t for i, t in enumerate(every) if every[min(i + 1, len(every) - 1)] > min(values) and every[max(i - 1, 0)] < max(values)]
    low, high = math.log10(ticks[0]), math.log10(ticks[-1])
    return ticks, lambda v: (math.log10(v) - low) / (high - low)


def plot(path, found, net, step_tokens):
    names, (net, network) = shapes_of(found), network_of(net)
    width, height = 2 * LEFT + len(names) * PANEL_WIDTH + GAP, TOP + 2 * PANEL_HEIGHT + 2 * GAP + 30
    s = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
         f'font-family="sans-serif" font-size="12">', f'<rect width="{width}" height="{height}" fill="white"/>',
         f'<text x="{LEFT}" y="24" font-size="15">Predicted: ternary models over {net}, steps of {step_tokens:,} tokens, '
         f'{found["host"]["cores"]} cores a rank</text>']
    for i, name in enumerate(names):
        rows = project(found, name, network, step_tokens)
        one = rows[MODES[0][0]][0][1]
        x0, y0 = LEFT + i * (PANEL_WIDTH + GAP), TOP + PANEL_HEIGHT + 16
        shares = {m: [(n, 100 * v / n / one) for n, v, _ in rows[m]] for m, _ in MODES}
        panel(s, x0, y0, f'{name}: tokens/s in proportion to n times one rank ({one:,.0f})', 'percent', shares, range(0, 101, 20), lambda v: v / 100)
        sizes = {m: [(n, b / 2 ** 30) for n, _, b in rows[m]] for m, _ in MODES}
        panel(s, x0, y0 + PANEL_HEIGHT + GAP, f'{name}: memory of a rank', 'GiB', sizes, *logarithmic(sizes))
    for i, (mode, _) in enumerate(MODES):
        x = LEFT + i * 160
        s.append(f'<line x1="{x}" y1="{height - 22}" x2="{x + 24}" y2="{height - 22}" stroke="{COLOURS[i]}" stroke-width="2"/>'
                 f'<text x="{x + 30}" y="{height - 18}">{mode}</text>')
    with open(path, 'w', encoding='ascii') as f:
        f.write('\n'.join(s + ['</svg>']) + '\n')


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('measured', help='what measure.py wrote')
    p.add_argument('--check', action='store_true', help='compare with the measured runs; fails where one is further off than 20 %%')
    p.add_argument('--networks', default='1 Gbit/s,10 Gbit/s,100 Gbit/s', help='of ' + ', '.join(NETWORKS) + ", or Gbit/s:microseconds of latency, such as 25:10")
    p.add_argument('--step-tokens', type=int, default=1 << 20, help='of a step, all ranks together')
    p.add_argument('--plot', help='SVG file, of the network --plot-network')
    p.add_argument('--fill', metavar='docs/distributed.md', help='put the tables, those of speed for --plot-network, in their places there')
    p.add_argument('--plot-network', default='10 Gbit/s')
    a = p.parse_args()
    with open(a.measured, encoding='ascii') as f:
        found = json.load(f)
    checked, good = check(found)
    if a.check:
        print('\n'.join(checked))
        sys.exit(0 if good else 1)
    if not os.path.exists(RANK):
        sys.exit('make build/bench/mpi/rank first: memory is the planner\'s')
    networks = a.networks.split(',')
    print('\n'.join(tables(found, networks, a.step_tokens, RANKS)))
    if a.plot:
        plot(a.plot, found, a.plot_network, a.step_tokens)
    if a.fill:
        host = found['host']
        speeds = tables(found, [a.plot_network], a.step_tokens, SHOWN)
        if a.plot and speeds:
            speeds += ['', f'![Tokens a second, in percent of n times one rank, and memory of a rank for 1 to 1,024 ranks]({os.path.relpath(a.plot, os.path.dirname(a.fill))})']
        fill(a.fill, {'checked': [f"{host['cpu']}, {host['cores']} cores, {host['threads']} threads a rank, {host['mpi']}:", ''] + checked,
                      'packing': packing_line(found), 'speeds': speeds})


if __name__ == '__main__':
    main()
