"""Runs plan.py on the GPUs of one machine until a deadline and appends one JSON line per model to OUT/results.jsonl.

    python3 run_queue.py --out DIR --deadline 1150 --kernel kernel_train.txt.xz kernel_valid.txt.xz --lab kdoc_train.txt.xz kdoc_valid.txt.xz

--gpus N (default: all), --per-gpu A B: processes per GPU for 25 M weights and for lab size (default 2 1). Nothing starts that would not
end before the deadline, by what finished runs took; a run that is still going then stops and says so ("stopped"). A run that fails is logged
("error"), tried once more without torch.compile, and its process is replaced. progress.jsonl has partial results, log.txt what
was decided. Lines carry: track and lever (25 M) or point (lab), stage (scan, final, rate; tune, seeds), over (loss of the setting that the
lever was tried on), options and results as imitate.py gives them. Started again with the same --out, it does not repeat scans and
seeds that are there."""
import argparse, json, math, multiprocessing as mp, os, sys, time, traceback
from multiprocessing.connection import wait
import plan

def worker(pipe, gpu, files, threads):
    os.environ.setdefault('TORCHINDUCTOR_COMPILE_THREADS', str(threads))
    import torch, imitate
    torch.set_num_threads(1); torch.backends.cuda.matmul.allow_tf32 = True
    cuda = torch.cuda.is_available(); dev = torch.device('cuda', gpu) if cuda else torch.device('cpu')
    if cuda: torch.cuda.set_device(gpu)
    texts = {}
    while True:
        job, kind, stop_at = pipe.recv()
        try:
            if kind not in texts: texts[kind] = [imitate.load(p, dev) for p in files[kind]]
            go = lambda: imitate.run(job, *texts[kind], stop_at=stop_at, progress=lambda **k: pipe.send(('progress', k)))
            try: res = go()
            except Exception as e:
                if os.environ.get('COMPILE') == '0' or 'CUDA error' in repr(e): raise
                pipe.send(('note', 'again without torch.compile after ' + traceback.format_exc()[-1500:]))
                os.environ['COMPILE'] = '0'; imitate._compiled.clear(); res = go()
            pipe.send(('done', res))
        except Exception: pipe.send(('error', traceback.format_exc()[-1500:]))
        if cuda: torch.cuda.empty_cache()

def merge(options, overlay):
    """'*x' multiplies; a value that the options do not name is that of the family or the defaults."""
    import imitate
    full = vars(imitate.options(options)); out = dict(options)
    for k, v in overlay.items(): out[k] = full[k] * float(v[1:]) if isinstance(v, str) and v.startswith('*') else v
    return out

class Track:
    """The best setting so far of one rule, and the levers that are left. cap: bytes of state a weight that it may take."""
    def __init__(s, name, base, levers, cap=math.inf):
        s.name, s.best, s.val, s.queue, s.busy, s.tried, s.cap = name, base, math.inf, [{}] + levers, False, 0, cap

    def better(s, r): return r['val'] < s.val and r['state'] <= s.cap

class Queue:
    def __init__(s, a):
        s.a = a; s.t0 = time.time(); s.end = s.t0 + a.deadline
        s.tracks = [Track(k, **(dict(v, cap=math.inf) if a.test else v)) for k, v in plan.TRACKS.items()]
        s.finals = [(t, n, {}) for n in plan.FINAL_SEEDS for t in s.tracks]
        s.rates = [(t, plan.FINAL_SEEDS[0], dict(lr=f)) for f in ('*0.5', '*2') for t in s.tracks]   # was the short budget's rate right?
        s.points = list(plan.POINTS.items()); s.point_best = {}; s.final_steps = None
        s.cost = {'25m': [], 'lab': []}; s.first = {'25m': a.guess[0], 'lab': a.guess[1]}            # seconds per step
        s.old = [json.loads(l) for l in open(s.path('results.jsonl'))] if os.path.exists(s.path('results.jsonl')) else []

    def path(s, n): return os.path.join(s.a.out, n)
    def log(s, text):
        line = f'{time.time() - s.t0:7.1f} {text}'
        print(line, flush=True); open(s.path('log.txt'), 'a').write(line + '\n')
    def write(s, name, row): open(s.path(name), 'a').write(json.dumps(row) + '\n')

    def per_step(s, kind): x = s.cost[kind][-6:]; return sorted(x)[len(x) // 2] if x else s.first[kind]
    def estimate(s, kind, steps): return 12 + 1.1 * steps * s.per_step(kind)
    def fits(s, kind, steps): return time.time() + s.estimate(kind, steps) < s.end
    def size(s, kind, steps): return dict(size='tiny') if s.a.test else dict(size=kind, steps=steps)

    def done_before(s, **want): return [r for r in s.old if 'val' in r and not r.get('stopped') and all(r.get(k) == v for k, v in want.items())]

    def next_large(s):
        """A scan while its time lasts, then seeds, then neighbouring rates."""
        late = time.time() - s.t0 > s.a.scan_share * s.a.deadline
        open_ = [t for t in s.tracks if t.queue and not t.busy]
        if open_ and not late and s.fits('25m', plan.SCAN_STEPS):
            t = min(open_, key=lambda t: t.tried); lever = t.queue.pop(0); t.busy = True; t.tried += 1
            tag = dict(track=t.name, stage='scan', lever=lever, over=None if math.isinf(t.val) else t.val)
            return dict(merge(t.best, lever), name=f'{t.name} {json.dumps(lever)}', seeds=[1], **s.size('25m', plan.SCAN_STEPS)), '25m', plan.SCAN_STEPS, tag, t
        if any(t.busy for t in s.tracks) and not late and s.fits('25m', plan.SCAN_STEPS): return None   # its result decides the next lever
        if s.finals and s.final_steps is None:
            rounds = math.ceil(len(s.finals) / max(1, s.large)); room = (s.end - time.time() - 10) / rounds
            s.final_steps = max(1000, min(3000, int((room - 12) / (1.1 * s.per_step('25m')) / 250) * 250))
            s.log(f'final runs have {s.final_steps} steps')
        for what, jobs in (('final', s.finals), ('rate', s.rates)):
            for job in list(jobs):
                t, seed, lever = job
                if math.isinf(t.val) or t.busy: continue
                if not s.fits('25m', s.final_steps): return None
                jobs.remove(job); o = merge(t.best, lever); tag = dict(track=t.name, stage=what, lever=lever)
                if s.done_before(track=t.name, stage=what, seed=seed, rate=round(o['lr'], 7), steps_done=s.final_steps): continue
                return dict(o, name=f'{t.name} {what} {json.dumps(lever)}', seeds=[seed], **s.size('25m', s.final_steps)), '25m', s.final_steps, tag, None
        return None

    def next_small(s):
        while s.points:
            name, (o, rates) = s.points[0]; stage = 'seeds' if name in s.point_best else 'tune'
            steps = 2000 if stage == 'seeds' else plan.POINT_TUNE_STEPS
            if s.done_before(point=name, stage='seeds'): s.points.pop(0); continue
            if not s.fits('lab', steps): return None
            s.points.pop(0); tag = dict(point=name, stage=stage)
            if stage == 'tune': o = dict(o, lrs=rates, seeds=[1])
            else: o = dict(o, lr=s.point_best[name], seeds=plan.FINAL_SEEDS)
            return dict(o, name=f'{name} {stage}', eval_every=1000, **s.size('lab', steps)), 'lab', steps, tag, None
        return None

    def finished(s, job, kind, steps, tag, track, rows):
        for r in rows: s.write('results.jsonl', dict(tag, **r))
        if not s.a.test: s.cost[kind].append((rows[0]['sec'] * rows[0]['models'] - rows[0]['setup']) / max(1, rows[0]['steps_done'] - 3))
        ok = [r for r in rows if math.isfinite(r['val']) and not r.get('stopped')]
        if track:
            track.busy = False
            if ok and track.better(ok[0]):
                track.val = ok[0]['val']; track.best = {k: v for k, v in job.items() if k not in ('name', 'seeds', 'size', 'steps')}
        if tag['stage'] == 'tune' and ok:
            s.point_best[tag['point']] = min(ok, key=lambda r: r['val'])['rate']
            s.points.insert(0, (tag['point'], plan.POINTS[tag['point']]))
        s.log(f"{job['name']}: {[r['val'] for r in rows]} {rows[0]['sec'] * rows[0]['models']:.0f} s, set-up {rows[0]['setup']} s")

    def replay(s):
        """What an earlier start with the same --out has found out."""
        for t in s.tracks:
            rows = s.done_before(track=t.name, stage='scan')
            for r in rows:
                if r['lever'] in t.queue: t.queue.remove(r['lever']); t.tried += 1
                if t.better(r):
                    t.val = r['val']; t.best = {k: v for k, v in r['options'].items() if k not in ('d', 'f', 'L', 'h', 'T', 'B', 'warm', 'size', 'steps')}
        for name in plan.POINTS:
            rows = s.done_before(point=name, stage='tune')
            if rows: s.point_best[name] = min(rows, key=lambda r: r['val'])['rate']

    def start(s, slot):
        here, there = mp.Pipe()
        p = mp.Process(target=worker, args=(there, slot['gpu'], {'25m': s.a.kernel, 'lab': s.a.lab}, s.a.threads))   # not a daemon: torch.compile has children
        p.start(); there.close(); slot.update(pipe=here, process=p, job=None)

    def give(s, slot):
        order = (s.next_large, s.next_small) if slot['large'] else (s.next_small, s.next_large)
        for f in order:
            job = f()
            if job:
                slot.update(job=job, since=time.time()); slot['pipe'].send((job[0], job[1], s.end + 5)); s.log(f"gpu {slot['gpu']}: {job[0]['name']}")
                return
            if slot['large'] and f == s.next_large and time.time() - s.t0 < s.a.scan_share * s.a.deadline: return   # waits for its track

    def fail(s, slot, text):
        job, kind, steps, tag, track = slot['job']
        s.write('results.jsonl', dict(tag, name=job['name'], error=text.strip().splitlines()[-1][:300])); s.log(f"failed: {job['name']}: {text[-1500:]}")
        if track: track.busy = False
        slot['process'].kill(); s.start(slot)

    def main(s):
        slots = []
        try: s.loop(slots)
        finally:
            for x in slots: x['process'].kill()
            s.log('end')

    def loop(s, slots):
        import torch
        cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
        gpus = s.a.gpus or max(1, cuda); a, b = s.a.per_gpu
        slots += [dict(gpu=g, large=i < a) for i in range(a + b) for g in range(gpus)]; s.large = a * gpus
        s.log(f'{gpus} GPUs, {len(slots)} processes, deadline {s.a.deadline} s'); s.replay()
        for x in slots: s.start(x)
        while time.time() < s.end + 20:
            for x in slots:
                if x['job'] is None: s.give(x)
            busy = [x for x in slots if x['job']]
            if not busy: break
            for x in busy:
                try:
                    while x['job'] and x['pipe'].poll():
                        what, data = x['pipe'].recv(); job = x['job']
                        if what == 'progress': s.write('progress.jsonl', dict(job[3], name=job[0]['name'], **data))
                        elif what == 'note': s.log(data)
                        elif what == 'done': x['job'] = None; s.finished(*job, data)
                        else: s.fail(x, data)
                except (EOFError, OSError): s.fail(x, 'the process ended')
                if x['job'] and time.time() - x['since'] > 150 + 4 * s.estimate(x['job'][1], x['job'][2]): s.fail(x, 'took far too long')
            wait([x['pipe'] for x in slots if x['job']], timeout=1)

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--out', required=True); p.add_argument('--deadline', type=float, default=1150)
    p.add_argument('--kernel', nargs=2, required=True); p.add_argument('--lab', nargs=2, required=True)
    p.add_argument('--gpus', type=int, default=0); p.add_argument('--per-gpu', nargs=2, type=int, default=[2, 1])
    p.add_argument('--scan-share', type=float, default=0.5); p.add_argument('--threads', type=int, default=4)
    p.add_argument('--guess', nargs=2, type=float, default=[0.06, 0.02]); p.add_argument('--test', action='store_true', help='a tiny model everywhere')
    args = p.parse_args(); os.makedirs(args.out, exist_ok=True)
    mp.set_start_method('spawn'); Queue(args).main()
