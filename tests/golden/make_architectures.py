#!/usr/bin/env python3
"""Makes the golden files of tests/test_architectures.c: small models of transformers, one for each architecture.

    python3 tests/golden/make_architectures.py     (needs torch and transformers; writes arch_*.golden beside itself)

Nothing here comes from the library but the order of its parameters. Weights are those of make_golden.py's `uniform`, so the
files hold tokens, targets, logits, the loss and gradients only, in that script's format.
"""
import os

import numpy as np
import torch
import transformers

from make_golden import File, data, uniform

VOCAB, HIDDEN, INTERMEDIATE, LAYERS, HEADS, SEED = 48, 32, 48, 2, 4, 1

# name: model, its config's own keys, and what its layers have beside LLaMA's. tests/architectures.h has the same.
CASES = {
    'llama3': ('Llama', dict(num_key_value_heads=2, head_dim=12, rope_theta=10000.0, rms_norm_eps=1e-5,
                             rope_scaling=dict(rope_type='llama3', factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                               original_max_position_embeddings=64)), ''),
    'llama_linear': ('Llama', dict(num_key_value_heads=1, rms_norm_eps=1e-5, rope_theta=500.0, tie_word_embeddings=True,
                                   rope_scaling=dict(rope_type='linear', factor=2.5)), 'tied'),
    'mistral': ('Mistral', dict(num_key_value_heads=4, head_dim=16, sliding_window=None, rms_norm_eps=1e-5,
                                rope_theta=10000.0), ''),
    'qwen2': ('Qwen2', dict(num_key_value_heads=2, rms_norm_eps=1e-6, rope_theta=1000.0, tie_word_embeddings=True),
              'bias tied'),
    'qwen3': ('Qwen3', dict(num_key_value_heads=2, head_dim=12, rms_norm_eps=1e-6, rope_theta=1000.0, attention_bias=False),
              'qk_norm'),
    'bitnet': ('BitNet', dict(num_key_value_heads=2, rms_norm_eps=1e-5, rope_theta=500.0, hidden_act='relu2',
                              tie_word_embeddings=True), 'sub_norms tied'),
}


def names(o):
    """(transformers' name, centre of its weights) in the library's order."""
    yield 'model.embed_tokens.weight', 0
    for i in range(LAYERS):
        b = f'model.layers.{i}.'
        yield b + 'input_layernorm.weight', 1
        yield from ((b + f'self_attn.{p}_proj.weight', 0) for p in 'qkvo')
        if 'sub_norms' in o:
            yield b + 'self_attn.attn_sub_norm.weight', 1
        if 'bias' in o:
            yield from ((b + f'self_attn.{p}_proj.bias', 0) for p in 'qkv')
        if 'qk_norm' in o:
            yield from ((b + f'self_attn.{p}_norm.weight', 1) for p in 'qk')
        yield b + 'post_attention_layernorm.weight', 1
        yield from ((b + f'mlp.{p}_proj.weight', 0) for p in ('gate', 'up', 'down'))
        if 'sub_norms' in o:
            yield b + 'mlp.ffn_sub_norm.weight', 1
    yield 'model.norm.weight', 1
    if 'tied' not in o:
        yield 'lm_head.weight', 0


def make(case, kind, keys, o):
    o = o.split()
    config = getattr(transformers, kind + 'Config')(
        vocab_size=VOCAB, hidden_size=HIDDEN, intermediate_size=INTERMEDIATE, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, max_position_embeddings=512, attn_implementation='eager', use_cache=False,
        pad_token_id=None, bos_token_id=None, eos_token_id=None, **keys)
    model = getattr(transformers, kind + 'ForCausalLM')(config).double().eval()
    parameters = dict(model.named_parameters())
    listed = list(names(o))
    assert sorted(parameters) == sorted(n for n, _ in listed), sorted(set(parameters) ^ {n for n, _ in listed})
    with torch.no_grad():
        for i, (name, centre) in enumerate(listed):
            p = parameters[name]
            p.copy_(torch.from_numpy(np.float32(centre) + uniform(SEED, i, tuple(p.shape), 0.5)))
    tokens, targets = data(SEED)
    logits = model(input_ids=tokens).logits
    loss = torch.nn.functional.cross_entropy(logits.reshape(-1, VOCAB), targets.reshape(-1), ignore_index=-1)
    loss.backward()
    f = File(os.path.join(os.path.dirname(os.path.abspath(__file__)), f'arch_{case}.golden'))
    f.ints('tokens', tokens)
    f.ints('targets', targets)
    f.floats('logits', logits.detach())
    f.floats('loss', [loss.item()])
    for i, (name, _) in enumerate(listed):
        f.gradient(f'gradient {i}', parameters[name].grad)
    f.close()


if __name__ == '__main__':
    torch.set_num_threads(1)
    for case, options in CASES.items():
        make(case, *options)
