"""Compares 12_tokenize with PyPI's `tokenizers` on a text: usage: compare_tokens.py PROGRAM TOKENIZER.json TEXT SCRATCH."""
import subprocess
import sys

from tokenizers import Tokenizer

program, tokenizer, path, scratch = sys.argv[1:]
text = open(path, encoding="utf-8", newline="").read()
subprocess.run([program, "--tokenizer", tokenizer, "--text", path, "--out", scratch, "--numbers"], check=True, stderr=subprocess.DEVNULL)
ours = [int(line) for line in open(scratch)]
theirs = Tokenizer.from_file(tokenizer).encode(text, add_special_tokens=False).ids
if ours != theirs:
    at = next((i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b), min(len(ours), len(theirs)))
    print(f"{len(ours)} tokens for {len(theirs)}, other ones from {at} on: {ours[at:at + 8]} for {theirs[at:at + 8]}")
    sys.exit(1)
