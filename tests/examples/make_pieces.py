#!/usr/bin/env python3
"""A small BPE model of SentencePiece as the keys of a GGUF file, and what PyPI's `sentencepiece` makes of a text with it.

usage: tests/examples/make_pieces.py FOLDER                                   (pip install sentencepiece)
       tests/examples/make_pieces.py FOLDER VOCABULARY PROGRAM TEXT

The first writes FOLDER/pieces.gguf, learned from strings.py, and pieces.bin (uint16): the strings one after another with <|endoftext|>
after each. The second learns from TEXT and compares PROGRAM, which is 12_tokenize, on it. The options are those of Llama 2: bytes for
characters that have no piece, digits apart, no normalization, a space before each text.
"""
import io
import struct
import subprocess
import sys

import sentencepiece

from strings import strings

END = "<|endoftext|>"


def learn(texts, vocabulary):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=model, model_type="bpe", vocab_size=vocabulary, control_symbols=[END], byte_fallback=True,
        split_digits=True, normalization_rule_name="identity", remove_extra_whitespaces=False, allow_whitespace_only_pieces=True,
        character_coverage=0.999, max_sentence_length=1 << 20, num_threads=1, minloglevel=2)
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def kind(model, i):
    """tokenizer.ggml.token_type."""
    return (2 if model.IsUnknown(i) else 3 if model.IsControl(i) else 5 if model.IsUnused(i) else 6 if model.IsByte(i) else 1)


def write_gguf(path, model):
    """The metadata alone."""
    ids = range(model.GetPieceSize())
    string = lambda s: struct.pack("<Q", len(s.encode())) + s.encode()
    array = lambda kind, items: struct.pack("<IIQ", 9, kind, len(items)) + b"".join(items)
    keys = {
        "general.architecture": struct.pack("<I", 8) + string("llama"),
        "tokenizer.ggml.model": struct.pack("<I", 8) + string("llama"),
        "tokenizer.ggml.tokens": array(8, [string(model.IdToPiece(i)) for i in ids]),
        "tokenizer.ggml.scores": array(6, [struct.pack("<f", model.GetScore(i)) for i in ids]),
        "tokenizer.ggml.token_type": array(5, [struct.pack("<i", kind(model, i)) for i in ids]),
    }
    with open(path, "wb") as f:
        f.write(b"GGUF" + struct.pack("<IQQ", 3, 0, len(keys)) + b"".join(string(k) + v for k, v in keys.items()))


def encode(model, texts):
    """Each text by itself, with END between them."""
    ids = []
    for text in texts:
        ids += model.EncodeAsIds(text) + [model.PieceToId(END)]
    return ids[:-1]


def compare(folder, vocabulary, program, path):
    text = open(path, encoding="utf-8", newline="").read()
    model = learn(text.split("\n"), int(vocabulary))
    write_gguf(f"{folder}/pieces.gguf", model)
    subprocess.run([program, "--tokenizer", f"{folder}/pieces.gguf", "--text", path, "--out", f"{folder}/numbers", "--numbers"], check=True,
                   stderr=subprocess.DEVNULL)
    ours, theirs = [int(line) for line in open(f"{folder}/numbers")], encode(model, text.split(END))
    if ours != theirs:
        at = next((i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b), min(len(ours), len(theirs)))
        sys.exit(f"{len(ours)} tokens for {len(theirs)}, other ones from {at} on: {ours[at:at + 8]} for {theirs[at:at + 8]}")


def main():
    if len(sys.argv) > 2:
        return compare(*sys.argv[1:])
    model = learn(strings(), 700)
    write_gguf(f"{sys.argv[1]}/pieces.gguf", model)
    ids = encode(model, strings() + [""])
    with open(f"{sys.argv[1]}/pieces.bin", "wb") as f:
        f.write(struct.pack(f"<{len(ids)}H", *ids))


main()
