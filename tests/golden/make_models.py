#!/usr/bin/env python3
"""Makes tests/golden/models with transformers, and tests/golden/blocks.golden with PyPI's gguf: what test_open and
test_encodings compare with.

    python3 tests/golden/make_models.py     (needs torch, transformers, safetensors, gguf, numpy)

Every model is tiny and has random weights of a fixed seed, which both bf16 and fp16 hold exactly, so that a folder in BF16
and a GGUF file in F16 are the same model. logits.golden is a file as make_golden.py describes: tokens, and the logits that
transformers computes in float32.
"""
import json
import os
import shutil
import struct

os.environ['TORCHDYNAMO_DISABLE'] = '1'  # integrations/bitnet.py compiles its functions; as they are written they do the same

import gguf
import numpy as np
import safetensors.torch
import torch
import transformers
from transformers.integrations import bitnet

HERE = os.path.dirname(os.path.abspath(__file__))
TOKENS = 24
MARGIN = 2e-4  # of a code
SIZES = dict(vocab_size=40, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-5, tie_word_embeddings=False,
             attention_dropout=0.0)
LLAMA3 = dict(rope_type='llama3', factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)

CASES = {
    'llama': ('Llama', dict(rope_theta=500.0)),
    'llama_tied': ('Llama', dict(tie_word_embeddings=True, num_key_value_heads=4)),
    'llama_llama3': ('Llama', dict(rope_theta=500.0, rope_scaling=LLAMA3)),
    'llama_linear': ('Llama', dict(rope_scaling=dict(rope_type='linear', factor=4.0))),
    'llama_head_dim': ('Llama', dict(head_dim=12)),
    'mistral': ('Mistral', dict(sliding_window=None, head_dim=8)),
    'qwen2': ('Qwen2', dict(tie_word_embeddings=True, rope_theta=1e6)),
    'qwen3': ('Qwen3', dict(head_dim=16)),
    'bitnet': ('BitNet', dict(tie_word_embeddings=True)),
}
SHARDED = 'llama_tied'
QUANTISED = {
    'bitnet_packed': ('BitNet', dict(linear_class='autobitlinear', quantization_mode='offline')),
    'bitnet_bitlinear': ('BitNet', dict(linear_class='bitlinear', quantization_mode='offline')),
    'bitnet_online': ('BitNet', dict(linear_class='autobitlinear', quantization_mode='online')),
    # as HF1BitLLM's are: Llama without sub-norms, and config.json says no more than the method
    'llama_bitnet': ('Llama', dict(linear_class='bitlinear', quantization_mode='offline')),
}


def record(name, array):
    kind = {'f': 0, 'i': 1}[array.dtype.kind]
    data = array.astype('<f4' if kind == 0 else '<i4').tobytes()
    return struct.pack('<B', len(name)) + name.encode() + struct.pack('<BI', kind, array.size) + data


def write_golden(folder, tokens, logits, more=b''):
    with open(os.path.join(folder, 'logits.golden'), 'wb') as f:
        f.write(b'DQTGOLD1' + record('tokens', tokens.numpy()[0]) + record('logits', logits.float().numpy()) + more)


def set_weights(model, seed=7):
    generator = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=generator)
        value = 1 + 0.3 * noise if 'norm' in name else 0.2 * noise if p.dim() == 1 else 0.25 * noise
        # few bits, and none that are subnormal as fp16
        p.data = (torch.round(value * 64) / 64).to(torch.bfloat16).float()


def make_model(name, kind, changes):
    config = getattr(transformers, kind + 'Config')(**{**SIZES, **changes})
    config.use_cache = False
    model = getattr(transformers, kind + 'ForCausalLM')(config).float().eval()
    set_weights(model)
    model.tie_weights()
    tokens = torch.randint(0, SIZES['vocab_size'], (1, TOKENS), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        logits = model(tokens).logits[0]
    folder = os.path.join(HERE, 'models', name)
    shutil.rmtree(folder, ignore_errors=True)
    model.to(torch.bfloat16).save_pretrained(folder, max_shard_size='16KB' if name == SHARDED else '1GB')
    for extra in ('generation_config.json',):
        if os.path.exists(os.path.join(folder, extra)):
            os.remove(os.path.join(folder, extra))
    write_golden(folder, tokens, logits)
    return model.float(), config


def tie_distance(x):
    """How far the nearest code is from lying between two codes: x / scale, which is rounded."""
    return (x - torch.floor(x) - 0.5).abs().min().item()


def make_quantised(name, kind, quantization, seed):
    """transformers' own BitNet linears, in float32. A seed that puts an activation or a weight within MARGIN of the middle
    of two codes is none: rounding errors, of some 1e-5 codes, then change no code, and logits agree as unquantised ones do.
    """
    tied = kind == 'BitNet'
    config = getattr(transformers, kind + 'Config')(**{**SIZES, 'tie_word_embeddings': tied})
    config.use_cache = False
    model = getattr(transformers, kind + 'ForCausalLM')(config).float().eval()
    set_weights(model, seed)
    model.tie_weights()
    masters = {n: m.weight.data for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and n != 'lm_head'}
    online = quantization['quantization_mode'] == 'online'
    automatic = quantization['linear_class'] == 'autobitlinear'
    model = bitnet.replace_with_bitnet_linear(model, ['lm_head'], transformers.BitNetQuantConfig(**quantization))
    nearest, packed, codes = [1.0], {}, {}
    for n, weight in masters.items():
        module = model.get_submodule(n)
        mean = weight.abs().mean()
        nearest.append(tie_distance(weight / mean))
        codes[n] = (weight / mean).round().clamp(-1, 1)
        # a BitLinear divides by its scale
        scale = (mean if automatic else 1 / mean).to(torch.bfloat16).float().reshape(1)
        if not online:
            packed[n + '.weight'] = bitnet.pack_weights(codes[n].clone())
            packed[n + '.weight_scale'] = scale.to(torch.bfloat16)
            module.weight_scale = scale
        if automatic:
            module.weight = torch.nn.Parameter(weight if online else codes[n], requires_grad=False)
        else:
            module.weight = packed[n + '.weight']
            module.dtype = torch.float32
        module.register_forward_pre_hook(lambda _, inputs: nearest.append(
            tie_distance(127 * inputs[0] / inputs[0].abs().amax(-1, keepdim=True))))
    tokens = torch.randint(0, SIZES['vocab_size'], (1, TOKENS // 3), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        logits = model(tokens).logits[0]
    if min(nearest) < MARGIN:
        return False
    folder = os.path.join(HERE, 'models', name)
    shutil.rmtree(folder, ignore_errors=True)
    config.architectures = [kind + 'ForCausalLM']
    config.dtype = torch.bfloat16
    config.quantization_config = {'quant_method': 'bitnet', **(quantization if tied else {'modules_to_not_convert': None})}
    config.save_pretrained(folder)
    state = {n: p.to(torch.bfloat16) for n, p in model.state_dict().items() if not (tied and n == 'lm_head.weight')}
    state.update(packed)
    safetensors.torch.save_file({n: p.contiguous().clone() for n, p in state.items()},
                                os.path.join(folder, 'model.safetensors'), metadata={'format': 'pt'})
    last = codes['model.layers.1.self_attn.k_proj']
    write_golden(folder, tokens, logits, record('codes', last.int().numpy().reshape(-1)))
    return True


GGUF_NAMES = {
    'input_layernorm': 'attn_norm', 'post_attention_layernorm': 'ffn_norm', 'self_attn.q_proj': 'attn_q',
    'self_attn.k_proj': 'attn_k', 'self_attn.v_proj': 'attn_v', 'self_attn.o_proj': 'attn_output',
    'self_attn.q_norm': 'attn_q_norm', 'self_attn.k_norm': 'attn_k_norm', 'mlp.gate_proj': 'ffn_gate',
    'mlp.up_proj': 'ffn_up', 'mlp.down_proj': 'ffn_down', 'self_attn.attn_sub_norm': 'attn_sub_norm',
    'mlp.ffn_sub_norm': 'ffn_sub_norm',
}


def gguf_name(name):
    if name == 'model.embed_tokens.weight':
        return 'token_embd.weight'
    if name == 'model.norm.weight':
        return 'output_norm.weight'
    if name == 'lm_head.weight':
        return 'output.weight'
    _, _, block, rest = name.split('.', 3)
    module, kind = rest.rsplit('.', 1)
    return f'blk.{block}.{GGUF_NAMES[module]}.{kind}'


def permute(weight, heads):
    """As llama.cpp's convert_hf_to_gguf.py does with q and k of LlamaForCausalLM."""
    rows = weight.shape[0]
    return weight.reshape(heads, 2, rows // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(name, arch, model, config, permuted=False, llama3=None):
    path = os.path.join(HERE, 'models', name + '.gguf')
    w = gguf.GGUFWriter(path, arch)
    w.add_name(name)
    w.add_context_length(config.max_position_embeddings)
    w.add_embedding_length(config.hidden_size)
    w.add_block_count(config.num_hidden_layers)
    w.add_feed_forward_length(config.intermediate_size)
    w.add_head_count(config.num_attention_heads)
    w.add_head_count_kv(config.num_key_value_heads)
    head_dim = getattr(config, 'head_dim', None) or config.hidden_size // config.num_attention_heads
    w.add_key_length(head_dim)
    w.add_value_length(head_dim)
    w.add_rope_dimension_count(head_dim)
    w.add_layer_norm_rms_eps(config.rms_norm_eps)
    w.add_rope_freq_base(theta_of(config))
    w.add_tokenizer_model('gpt2')
    w.add_token_list([f'<{i}>' for i in range(config.vocab_size)])
    w.add_token_merges(['a b', 'ab c'])
    w.add_chat_template('{{ messages }}')
    if llama3:
        i = np.arange(0, head_dim, 2, dtype=np.float64) / head_dim
        wavelength = 2 * np.pi * theta_of(config) ** i
        ratio = llama3['original_max_position_embeddings'] / wavelength
        smooth = np.clip((ratio - llama3['low_freq_factor']) / (llama3['high_freq_factor'] - llama3['low_freq_factor']), 0, 1)
        w.add_tensor('rope_freqs.weight', (1 / ((1 - smooth) / llama3['factor'] + smooth)).astype(np.float32))
    for key, p in model.named_parameters():
        value = p.detach().numpy()
        if permuted and ('q_proj' in key or 'k_proj' in key):
            value = permute(value, config.num_attention_heads if 'q_proj' in key else config.num_key_value_heads)
        value = np.ascontiguousarray(value)
        w.add_tensor(gguf_name(key), value if value.ndim == 1 else value.astype(np.float16))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def theta_of(config):
    parameters = getattr(config, 'rope_parameters', None)
    return float(parameters['rope_theta'] if parameters else config.rope_theta)


def make_blocks():
    """Blocks of every type that can be read, and what gguf makes of them: u8 length, name, u32 bytes, u32 weights, bytes,
    f32 weights."""
    random = np.random.default_rng(5)
    types = gguf.GGMLQuantizationType
    out = b''
    for kind in (types.F16, types.BF16, types.Q4_0, types.Q4_1, types.Q5_0, types.Q5_1, types.Q8_0, types.Q2_K, types.Q3_K,
                 types.Q4_K, types.Q5_K, types.Q6_K, types.TQ1_0, types.TQ2_0):
        block, size = gguf.GGML_QUANT_SIZES[kind]
        count = max(1, 256 // block) if block < 256 else 3
        data = random.integers(0, 256, (count, size), dtype=np.uint8)
        halves = {types.Q4_0: [0], types.Q4_1: [0, 2], types.Q5_0: [0], types.Q5_1: [0, 2], types.Q8_0: [0],
                  types.Q2_K: [80, 82], types.Q3_K: [108], types.Q4_K: [0, 2], types.Q5_K: [0, 2], types.Q6_K: [208],
                  types.TQ1_0: [52], types.TQ2_0: [64], types.F16: [0]}.get(kind, [])
        for at in halves:
            data[:, at:at + 2] = (random.standard_normal(count) * 0.1).astype('<f2').view(np.uint8).reshape(count, 2)
        if kind == types.BF16:
            data = (random.standard_normal(count).astype('<f4').view('<u4') >> 16).astype('<u2').view(np.uint8).reshape(count, 2)
        if kind == types.TQ2_0:
            fields = random.integers(0, 3, (count, 64, 4), dtype=np.uint8)
            data[:, :64] = fields[..., 0] | fields[..., 1] << 2 | fields[..., 2] << 4 | fields[..., 3] << 6
        weights = np.concatenate([gguf.quants.dequantize(row.reshape(1, -1), kind).reshape(-1) for row in data])
        name = kind.name.encode()
        out += struct.pack('<B', len(name)) + name + struct.pack('<II', data.size, weights.size)
        out += data.tobytes() + weights.astype('<f4').tobytes()
    with open(os.path.join(HERE, 'blocks.golden'), 'wb') as f:
        f.write(out)


def main():
    make_blocks()
    models = {name: make_model(name, *case) for name, case in CASES.items()}
    for name, case in QUANTISED.items():
        next(seed for seed in range(1, 1000) if make_quantised(name, *case, seed))
    write_gguf('llama', 'llama', *models['llama'], permuted=True)
    write_gguf('llama_llama3', 'llama', *models['llama_llama3'], permuted=True, llama3=LLAMA3)
    write_gguf('qwen2', 'qwen2', *models['qwen2'])
    write_gguf('qwen3', 'qwen3', *models['qwen3'])


if __name__ == '__main__':
    main()
