"""Runs a list of imitate.py's jobs, some at a time, and appends one JSON line per trained model.

    python3 run_list.py JOBS OUT.jsonl SECONDS GPUS TRAIN VALID

GPUS has a GPU's number for every process: 0,0 for two on one GPU, 0,0,1,1 for two on each of two. JOBS has one JSON object a line, as imitate.py takes it, with `track`, `stage` and `lever` for report.py; lines that are added while it runs
are taken too. jobs.list is what was run. A job trains several models (seeds, or rates at one seed): with one alone torch.compile of PyTorch
2.11 fails on the gradients of gains, and without it a step takes three times as long."""
import json, multiprocessing as mp, os, sys, time

def worker(gpu, jobs, out, lock, taken, end, files):
    os.environ['CUDA_VISIBLE_DEVICES'] = gpu
    os.environ.setdefault('TORCHINDUCTOR_COMPILE_THREADS', '2')
    import torch, imitate
    torch.set_num_threads(1); torch.backends.cuda.matmul.allow_tf32 = True
    dev = torch.device('cuda'); texts = [imitate.load(f, dev) for f in files]
    while time.time() < end:
        with lock:
            job = next((l for l in map(str.strip, open(jobs)) if l and l not in taken), None)
            if job: taken.append(job)
        if not job: time.sleep(2); continue
        o = json.loads(job); tag = {k: o[k] for k in ('track', 'stage', 'lever') if k in o}
        try: lines = imitate.run(o, *texts, stop_at=end, progress=lambda **p: print(job[:60], p, flush=True))
        except Exception as e: lines = [dict(error=repr(e)[:500], name=job)]
        with lock, open(out, 'a') as f: f.writelines(json.dumps(dict(tag, **l)) + '\n' for l in lines)
        print(job[:80], [l.get('val', l.get('error')) for l in lines], flush=True)
        torch.cuda.empty_cache()

if __name__ == '__main__':
    if len(sys.argv) != 7: sys.exit(__doc__)
    jobs, out, seconds, gpus, *files = sys.argv[1:]
    m = mp.Manager(); shared = m.Lock(), m.list(), time.time() + float(seconds), files
    ps = [mp.get_context('spawn').Process(target=worker, args=(gpu, jobs, out, *shared)) for gpu in gpus.split(',')]
    for p in ps: p.start()
    for p in ps: p.join()
