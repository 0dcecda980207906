#!/usr/bin/env python3
"""Makes tests/examples/golden: small tokenizers of each supported kind and what PyPI's `tokenizers` makes of strings.py.

usage: tests/examples/make_golden.py FOLDER [VOCABULARY [TEXT ...]]   (pip install tokenizers)

The vocabulary is learned from the texts, or from the strings themselves, without cutting them into words: it has merges over all the
places where a text is cut, so that each of them matters. For each KIND: KIND.json, KIND.bin (uint16, the strings
one after another with token 0, <|endoftext|>, after each), and strings.txt, which is all strings with <|endoftext|> after each. Of the
kind smollm there is smollm.gguf too.
"""
import json
import struct
import sys

from strings import strings
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CASELESS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def isolated(regex):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(regex), "isolated"),
                                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def kinds():
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return {
        "gpt2": (plain, None, False),
        "smollm": (pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), plain]), None, False),
        "llama3": (isolated(CASELESS + r"\p{N}{1,3}" + REST), None, True),
        "qwen2": (isolated(CASELESS + r"\p{N}" + REST), normalizers.NFC(), False),
    }


def learn(pre, normalizer, texts, vocabulary):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    if normalizer:
        tokenizer.normalizer = normalizer
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=SPECIALS, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.pre_tokenizer = pre
    return tokenizer


def with_whole_words(tokenizer, whole_words):
    """ignore_merges, and for it a token that no merges make."""
    data = json.loads(tokenizer.to_str())
    if whole_words:
        data["model"]["ignore_merges"] = True
        data["model"]["vocab"]["Ġinternationalization"] = len(data["model"]["vocab"])
        data["model"]["vocab"]["internationalization"] = len(data["model"]["vocab"])
    return data


def write_gguf(path, data):
    """The metadata alone."""
    vocab = sorted(data["model"]["vocab"], key=data["model"]["vocab"].get)
    merges = [m if isinstance(m, str) else " ".join(m) for m in data["model"]["merges"]]
    string = lambda s: struct.pack("<Q", len(s.encode())) + s.encode()
    strings_of = lambda items: struct.pack("<IIQ", 9, 8, len(items)) + b"".join(map(string, items))
    keys = {
        "general.architecture": struct.pack("<I", 8) + string("llama"),
        "llama.context_length": struct.pack("<II", 4, 2048),
        "tokenizer.ggml.model": struct.pack("<I", 8) + string("gpt2"),
        "tokenizer.ggml.pre": struct.pack("<I", 8) + string("smollm"),
        "tokenizer.ggml.tokens": strings_of(vocab),
        "tokenizer.ggml.token_type": struct.pack("<IIQ", 9, 5, len(vocab)) +
        b"".join(struct.pack("<i", 3 if t in SPECIALS else 1) for t in vocab),
        "tokenizer.ggml.merges": strings_of(merges),
    }
    with open(path, "wb") as f:
        f.write(b"GGUF" + struct.pack("<IQQ", 3, 0, len(keys)) + b"".join(string(k) + v for k, v in keys.items()))


def main():
    folder, vocabulary = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 700
    texts = [line for p in sys.argv[3:] for line in open(p, encoding="utf-8")] or strings()
    with open(f"{folder}/strings.txt", "wb") as f:
        f.write("".join(s + SPECIALS[0] for s in strings()).encode())
    for kind, (pre, normalizer, whole_words) in kinds().items():
        data = with_whole_words(learn(pre, normalizer, texts, vocabulary), whole_words)
        with open(f"{folder}/{kind}.json", "w", encoding="utf-8") as f:
            json.dump(data, f, ensure_ascii=kind == "llama3", separators=(",", ":"))  # escapes are read too
        tokenizer = Tokenizer.from_file(f"{folder}/{kind}.json")
        ids = [i for s in strings() for i in tokenizer.encode(s, add_special_tokens=False).ids + [0]]
        with open(f"{folder}/{kind}.bin", "wb") as f:
            f.write(struct.pack(f"<{len(ids)}H", *ids))
        if kind == "smollm":
            write_gguf(f"{folder}/smollm.gguf", data)


main()
