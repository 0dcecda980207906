#!/usr/bin/env python3
"""Fine-tunes one model with many rules: the table "Fine-tuning" of docs/results.md.

    tools/finetune_results.py MODEL TRAIN VALID OUT.jsonl [--cores 0-15] [--threads N] [--seconds S] [--rows a,b]

MODEL is a folder of Hugging Face or a GGUF file, TRAIN and VALID are tokens (examples/12_tokenize). Every run is
`build/examples/10_finetune` on --threads of --cores, as many at a time as these allow. Each row of ROWS runs at four
learning rates with seed 1; rows that are compared run at the best of them with seeds 2 and 3 too. A step is --batch
sequences: of rows named X-buffers as so many passes whose gradients are summed in buffers (10_finetune's default is
two), of the others as one pass with the update inside backward. A line of OUT is one run; runs that OUT has already are
not run again, and none is started that would not end within --seconds. `--table` prints OUT as Markdown."""
import argparse
import collections
import csv
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time

ECO = ""  # the recipe: error feedback, factored second moment, 8-bit momentum
ADAM = "--optimizer adamw --momentum-state f32 --variance-state f32"
RATES = (5e-5, 1e-4, 2e-4, 4e-4)
COARSE = (1e-4, 2e-4, 4e-4, 8e-4)  # formats that begin far from the model
SEEDS = (1, 2, 3)

# name: (what it is, options, rates, whether it is compared), in the order in which they are run
ROWS = {
    "int4-g32": ("int4, a scale per 32 weights, ECO", "--format int4 --group 32 " + ECO, RATES, True),
    "masters-int4-g32": ("F32 masters, products of int4 with a scale per 32 weights, AdamW",
                         "--format f32 --compute int4 --group 32 " + ADAM, RATES, True),
    "f32": ("F32, AdamW", "--format f32 " + ADAM, RATES, True),
    "int4-g32-sr": ("int4, a scale per 32 weights, stochastic rounding alone",
                    "--format int4 --group 32 --rounding sr", RATES, True),
    "int8-row": ("int8, a scale per row, ECO", "--format int8 " + ECO, RATES, True),
    "int4-row": ("int4, a scale per row, ECO", "--format int4 " + ECO, RATES, True),
    "ternary-g32": ("ternary, a scale per 32 weights, ECO", "--format ternary --group 32 " + ECO, COARSE, False),
    "int3-g32": ("int3, a scale per 32 weights, ECO", "--format int3 --group 32 " + ECO, COARSE, False),
    "bf16": ("BF16, stochastic rounding", "--format bf16 --rounding sr", RATES, False),
    "int8-g32": ("int8, a scale per 32 weights, ECO", "--format int8 --group 32 " + ECO, RATES, False),
    "int3-row": ("int3, a scale per row, ECO", "--format int3 " + ECO, COARSE, False),
    "ternary-row": ("ternary, a scale per row, ECO", "--format ternary --scale-rule absmean " + ECO, COARSE, False),
    "masters-ternary-g32": ("F32 masters, products of ternary with a scale per 32 weights, AdamW",
                            "--format f32 --compute ternary --group 32 " + ADAM, COARSE, False),
    "int8-row-sr": ("int8, a scale per row, stochastic rounding alone", "--format int8 --rounding sr", RATES, False),
    "masters-int4-row": ("F32 masters, products of int4 with a scale per row, AdamW",
                         "--format f32 --compute int4 " + ADAM, RATES, False),
}
BUFFERS = "-buffers"
ROWS.update({name + BUFFERS: (row[0] + ", gradients in buffers",) + row[1:] for name, row in ROWS.items()})


def run_one(args, job, cpus):
    """One run; its line, or None where it failed or had to be stopped."""
    name, rate, seed = job
    batch, passes = (1, args.batch) if name.endswith(BUFFERS) else (args.batch, 1)
    options = f"{ROWS[name][1].strip()} --batch {batch} --accumulate {passes}"
    folder = tempfile.mkdtemp(prefix="finetune-")
    command = [args.program, "--model", args.model, "--tokens", args.train, "--valid", args.valid, "--out", folder,
               "--threads", str(args.threads), "--seq", "512", "--steps", str(args.steps), "--eval-windows",
               str(args.windows), "--lr", repr(rate), "--seed", str(seed)] + options.split()
    environment = dict(os.environ, OMP_NUM_THREADS=str(args.threads))
    started = time.time()
    with open(folder + "/out.txt", "w") as out:
        child = subprocess.Popen(["taskset", "-c", cpus] + command, stdout=out, stderr=out, env=environment)
        while child.poll() is None and time.time() < args.end:
            time.sleep(0.2)
        if child.returncode is None:
            child.kill()
            child.wait()
    text = open(folder + "/out.txt").read()
    line = None
    try:
        log = list(csv.DictReader(open(folder + "/log.csv")))
        held = [(int(r["step"]), float(r["valid_loss_per_token"])) for r in log if r["valid_loss_per_token"]]
        if child.returncode == 0 and held[-1][0] == args.steps:
            line = {"row": name, "lr": rate, "seed": seed, "before": held[0][1], "after": held[-1][1],
                    "steps": args.steps, "tokens": args.steps * args.batch * 512, "windows": args.windows,
                    "seconds": round(time.time() - started, 1),
                    "state": float(text.split(" bytes of state")[0].split()[-1]),
                    "mib": float(text.split(" MiB")[-2].split()[-1]), "options": options}
    except (OSError, IndexError, KeyError, ValueError):
        pass
    if line is None:
        print(f"{name} {rate:g} seed {seed}: no result\n{text[-500:]}", file=sys.stderr, flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    return line


class Queue:
    """The runs in order; seeds of a row follow once its rates are known."""

    def __init__(self, names, done):
        self.lock, self.done = threading.Lock(), done
        self.have = {(d["row"], d["lr"], d["seed"]) for d in done}
        self.seconds = {}
        self.rates = [(n, r, 1) for n in names for r in ROWS[n][2]]
        self.names, self.taken = names, set()

    def next(self, left):
        with self.lock:
            for job in self.seeds() + self.rates:
                if job in self.have or job in self.taken:
                    continue
                slowest = max(self.seconds.get(job[0], 0), 0.9 * max(self.seconds.values(), default=0))
                if slowest < left:
                    self.taken.add(job)
                    return job
        return None

    def seeds(self):
        jobs = []
        for n in self.names:
            at = {d["lr"]: d["after"] for d in self.done if d["row"] == n and d["seed"] == 1}
            if ROWS[n][3] and len(at) == len(ROWS[n][2]):
                jobs += [(n, min(at, key=at.get), s) for s in SEEDS[1:]]
        return jobs

    def finish(self, line, path):
        with self.lock:
            self.done.append(line)
            self.seconds[line["row"]] = line["seconds"]
            with open(path, "a") as out:
                out.write(json.dumps(line) + "\n")


def work(args, queue, cpus):
    while time.time() < args.end:
        job = queue.next(args.end - time.time())
        if job is None:
            time.sleep(1)
            if len(queue.taken) + len(queue.have) >= args.expected:
                return
            continue
        line = run_one(args, job, cpus)
        if line:
            queue.finish(line, args.out)


def table(lines):
    rows = collections.defaultdict(lambda: collections.defaultdict(list))
    for d in lines:
        rows[d["row"]][d["lr"]].append(d)
    print("| weights of the blocks and rule | held-out loss per token by learning rate (seed 1) | perplexity before "
          "| after, seeds | mean loss, spread | state, bytes per weight | memory |")
    print("|---|---|---|---|---|---|---|")
    for name, (label, _, _, _) in ROWS.items():
        if name not in rows:
            continue
        firsts = {r: d["after"] for r, ds in rows[name].items() for d in ds if d["seed"] == 1}
        if not firsts:
            continue
        best = min(firsts, key=firsts.get)
        runs = sorted(rows[name][best], key=lambda d: d["seed"])
        after = [d["after"] for d in runs]
        spread = f", {statistics.stdev(after):.4f}" if len(after) > 1 else ""
        print(f"| {label} | " + ", ".join(f"{r:g}: {v:.4f}" for r, v in sorted(firsts.items())) +
              f" | {exp(runs[0]['before'])} | " + ", ".join(exp(a) for a in after) +
              f" | {statistics.mean(after):.4f}{spread} | {runs[0]['state']:.2f} | {runs[0]['mib']:.0f} MiB |")


def exp(loss):
    return f"{2.718281828459045 ** loss:.2f}"


def cores(text):
    out = []
    for part in text.split(","):
        a, _, b = part.partition("-")
        out += range(int(a), int(b or a) + 1)
    return out


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model")
    p.add_argument("train")
    p.add_argument("valid")
    p.add_argument("out")
    p.add_argument("--program", default="build/examples/10_finetune")
    p.add_argument("--cores", default="0")
    p.add_argument("--threads", type=int, default=1, help="of one run")
    p.add_argument("--seconds", type=float, default=1e9)
    p.add_argument("--rows", default=",".join(ROWS))
    p.add_argument("--batch", type=int, default=2, help="sequences of a step")
    p.add_argument("--steps", type=int, default=293)
    p.add_argument("--windows", type=int, default=64)
    p.add_argument("--table", action="store_true")
    args = p.parse_args()
    lines = [json.loads(x) for x in open(args.out)] if os.path.exists(args.out) else []
    if args.table:
        return table(lines)
    args.end = time.time() + args.seconds
    names = args.rows.split(",")
    args.expected = sum(len(ROWS[n][2]) + 2 * ROWS[n][3] for n in names)
    queue = Queue(names, lines)
    every = cores(args.cores)
    parts = [every[i:i + args.threads] for i in range(0, len(every) - args.threads + 1, args.threads)]
    threads = [threading.Thread(target=work, args=(args, queue, ",".join(map(str, p)))) for p in parts]
    for t in threads:
        t.start()
    for t in threads:
        t.join()


if __name__ == "__main__":
    main()
