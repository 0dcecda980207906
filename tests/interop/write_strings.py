"""NAME.strings for gguf_client.mjs: the difficult strings of tests/examples/strings.py and the tokens that 12_tokenize
makes of them.

usage: write_strings.py PROGRAM TOKENIZER OUT"""
import json
import os
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "examples"))
from strings import strings  # noqa: E402

program, tokenizer, out = sys.argv[1:]
found = []
with tempfile.NamedTemporaryFile() as text:
    for string in strings():
        with open(text.name, "w", encoding="utf-8", newline="") as f:
            f.write(string)
        run = subprocess.run([program, "--tokenizer", tokenizer, "--text", text.name, "--numbers"], check=True, capture_output=True)
        found.append({"text": string, "tokens": [int(t) for t in run.stdout.split()]})
with open(out, "w") as f:
    json.dump(found, f)
