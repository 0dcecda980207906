"""The perplexity of logits that client_logits.mjs wrote: position t of the first windows of TOKENS (uint16) foretells token t + 1, as in
11_evaluate.

usage: logits_perplexity.py LOGITS TOKENS VOCAB"""
import sys

import numpy as np

PIECE = 256  # positions at a time


def main():
    logits = np.memmap(sys.argv[1], np.float32, "r").reshape(-1, int(sys.argv[3]))
    tokens = np.fromfile(sys.argv[2], np.uint16, len(logits) + 1)
    loss = 0.0
    for i in range(0, len(logits), PIECE):
        x = logits[i:i + PIECE].astype(np.float64)
        x -= x.max(1, keepdims=True)
        chosen = x[np.arange(len(x)), tokens[i + 1:i + 1 + len(x)]]
        loss += (np.log(np.exp(x).sum(1)) - chosen).sum()
    print(f"perplexity {np.exp(loss / len(logits)):.4f}")


if __name__ == "__main__":
    main()
