"""What run_queue.py runs for issue "ternary ahead of BitNet at scale": levers at 25 M weights, and rules at 1.25 to 0.25 bytes at lab
size. Nothing here computes.

TRACKS (25 M weights): every rule starts from the best setting known before and tries the same number of levers in order, one seed,
SCAN_STEPS steps; a lever that lowers held-out loss stays, unless the state exceeds `cap` bytes a weight. '*2' multiplies the value that the rule has then. The four rules then run
with three other seeds (FINAL_SEEDS) at full length. POINTS (lab size): three rates at seed 1, then three other seeds at the best."""

SCAN_STEPS = 1000
FINAL_SEEDS = [2, 3, 4]

MUON = dict(dir='muon', mbits=32, urms=0.3)
FLOAT_LEVERS = [
    dict(lr='*2'), dict(fp_lr='*2'), dict(sched='wsd', cool=0.4), MUON, dict(lr='*2'), dict(wd=0.3), dict(std='*2'), dict(b1=0.9),
    dict(MUON, lr='*2', sched='wsd', cool=0.4), dict(b2=0.98), dict(lr='*0.7'), dict(b1=0.6, b1_end=0.9), dict(std='*0.5'),
]
TERNARY_LEVERS = [
    dict(lr='*2'), dict(keep=1), dict(sched='wsd', cool=0.4), dict(kind='acc', mbits=0, pbits=8), dict(noise_end=0.0), dict(fp_lr='*0.5'),
    dict(kind='acc', dir='muon', mbits=0, pbits=8, urms=1.0), dict(rows=0, group=128), dict(b1_end=0.3), dict(sigma=1.22), dict(wd='*0.5'),
    dict(kind='acc', dir='muon', mbits=4, pbits=4, urms=0.3), dict(b1_end=0.9),
]
INT4_LEVERS = [
    dict(lr='*2'), dict(fp_lr='*2'), dict(sched='wsd', cool=0.4), dict(keep=1, noise_end=0.0), dict(kind='acc', mbits=0, pbits=8, noise=0.3),
    dict(wd='*2'), dict(kind='acc', dir='muon', mbits=0, pbits=8, urms=1.0, b1=0.6, noise=0.3), dict(fp_lr='*2'), dict(b1=0.6), dict(std='*2'),
    dict(kind='acc', dir='muon', mbits=4, pbits=4, urms=0.3, b1=0.6, noise=0.3), dict(lr='*0.7'), dict(rows=1, scale_lr=9.0),
]
TRACKS = {
    'bitnet': dict(base=dict(family='bitnet', lr=2e-3, fp_lr=6e-3), levers=FLOAT_LEVERS),
    'ternary': dict(base=dict(family='ternary', lr=4e-3, fp_lr=12e-3), levers=TERNARY_LEVERS, cap=1.36),
    'int4': dict(base=dict(family='int4', lr=4e-3, fp_lr=4e-3), levers=INT4_LEVERS, cap=1.6),
    'f32': dict(base=dict(family='f32', lr=2e-3, fp_lr=6e-3), levers=FLOAT_LEVERS),
}

ECO, ACC, LAT = dict(family='ternary'), dict(family='ternary-acc'), dict(family='latent', fp_lr=12e-3)
R = [2e-3, 4e-3, 8e-3]
L = [1e-3, 2e-3, 4e-3]
POINT_TUNE_STEPS = 1000
POINTS = {                                                                       # name: (options, rates tried)
    'eco, m 8 bits': (ECO, R),
    'acc, P 8 bits': (ACC, R),
    'latent 8 bits, no m': (LAT, L),
    'acc, P 4 bits': (dict(ACC, pbits=4), R),
    'eco, m 4 bits': (dict(ECO, mbits=4), R),
    'latent 4 bits, no m': (dict(LAT, bits=4, sigma=2.0), L),
    'acc, P 6 bits': (dict(ACC, pbits=6), R),
    'bitnet': (dict(family='bitnet'), L),
    'latent 6 bits, no m': (dict(LAT, bits=6, sigma=3.0), L),
    'eco, m 6 bits': (dict(ECO, mbits=6), R),
    'acc, P 2 bits': (dict(ACC, pbits=2), R),
    'eco, m 2 bits': (dict(ECO, mbits=2), R),
    'latent 4 bits, eco, m 4 bits': (dict(LAT, kind='eco', bits=4, sigma=2.0, mbits=4, b1=0.8), R),
    'acc, P 8 bits, orthogonalised': (dict(ACC, dir='muon', urms=1.0), R),
    'eco, m 8 bits, keep': (dict(ECO, keep=1), R),
    'acc, P 4 bits, sign of m 4 bits': (dict(ACC, dir='sign', mbits=4, pbits=4), [5e-4, 1e-3, 2e-3]),
    'acc, P 6 bits, sign of g': (dict(ACC, dir='sign', mbits=0, pbits=6), L),
    'latent 8 bits, m of rank 4': (dict(LAT, dir='lowrank', mbits=0, rank=4, b1=0.8), L),
    'sr, no m': (dict(ECO, kind='sr', noise=1.0, mbits=0), [2.5e-4, 5e-4, 1e-3]),
    'latent 4 bits, eco, m 2 bits': (dict(LAT, kind='eco', bits=4, sigma=2.0, mbits=2, b1=0.8), R),
    'acc, P 4 bits, orthogonalised, m 4 bits': (dict(ACC, dir='muon', mbits=4, pbits=4, urms=0.3), R),
    'f32': (dict(family='f32'), L),
    'int4': (dict(family='int4'), R),
}
