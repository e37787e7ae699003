#!/usr/bin/env python3
"""Writes tests/golden/tiny/: small random models of every architecture and rope kind and the logits that transformers computes for them in float32.

    python3 tests/golden/make_tiny_models.py

The format is in README.md beside this script. GGUF weights are quantised and dequantised by the gguf package, so that both sides see the same numbers.
"""
import json
import pathlib
import shutil

import gguf
import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

OUT = pathlib.Path(__file__).parent / "tiny"
VOCAB, LAYERS, HEADS, KV_HEADS, DIM, PROMPT, GREEDY = 128, 2, 4, 2, 32, 60, 64
ARCHITECTURES = ["llama", "mistral", "qwen2", "qwen3"]
ROPES = {  # max_position_embeddings, scaling
    "default": (256, {"rope_type": "default"}),
    "linear": (32, {"rope_type": "linear", "factor": 4.0}),
    "dynamic": (32, {"rope_type": "dynamic", "factor": 2.0}),
    "llama3": (256, {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                     "original_max_position_embeddings": 64}),
    "yarn": (128, {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}),
}
NAMES = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
         "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
         "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
WHOLE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
Q = gguf.GGMLQuantizationType


def make_config(arch, rope, hidden):
    positions, scaling = ROPES[rope]
    extra = {"sliding_window": 128} if arch == "mistral" else {}  # wider than the prompts: the engine serves up to the window
    return CONFIG_MAPPING[arch](
        vocab_size=VOCAB, hidden_size=hidden, intermediate_size=hidden, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS, head_dim=DIM if hidden == 64 else 64, max_position_embeddings=positions, rms_norm_eps=1e-5,
        rope_parameters={"rope_theta": 10000.0, **scaling}, tie_word_embeddings=arch != "llama", bos_token_id=1, eos_token_id=2,
        pad_token_id=None, architectures=None, attn_implementation="eager", **extra)


def make_model(config, state=None):
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    if state is not None:
        model.load_state_dict(state, strict=False)
        model.tie_weights()
    return model


def random_state(arch, hidden):
    """bfloat16 weights as float32; the same for every rope kind."""
    generator = torch.Generator().manual_seed(ARCHITECTURES.index(arch) + 10)
    model = make_model(make_config(arch, "default", hidden))
    state = {}
    for name, value in model.state_dict().items():
        noise = torch.randn(value.shape, generator=generator)
        value = 1 + 0.2 * noise if "norm" in name else 0.5 * noise if "bias" in name else noise * 0.7 / value.shape[-1] ** 0.5
        if name == "lm_head.weight" and arch != "llama":
            continue  # tied
        state[name] = value.to(torch.bfloat16).float().contiguous()
    return state


def prompts():
    rng = np.random.default_rng(3)
    return [rng.integers(3, VOCAB, PROMPT).tolist() for _ in range(2)]


@torch.no_grad()
def record(name, model, files):
    cases = []
    for ids in prompts():
        logits = model(torch.tensor([ids]), use_cache=False).logits[0, -1]
        cases.append({"ids": ids, "logits": [float(f"{x:.7g}") for x in logits.tolist()]})
        if "dynamic" in name:
            continue  # transformers changes the factor as the sequence grows
        greedy, gaps = [], []
        for _ in range(GREEDY):
            best = torch.topk(logits, 2)
            greedy.append(int(best.indices[0]))
            gaps.append(float(f"{(best.values[0] - best.values[1]).item():.4g}"))
            logits = model(torch.tensor([ids + greedy]), use_cache=False).logits[0, -1]
        cases[-1] |= {"greedy": greedy, "gaps": gaps}
    print(name, float(logits.min()), float(logits.max()))
    return {"name": name, "max_context": PROMPT, **files, "prompts": cases}


def interleave(rows, heads):
    dim = rows.shape[0] // heads
    return rows.reshape(heads, 2, dim // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def random_blocks(rng, qtype, shape):
    """Random blocks of a type that the package cannot quantise to; their scales make values of about the usual size."""
    elements, size = gguf.GGML_QUANT_SIZES[qtype]
    blocks = rng.integers(0, 256, (int(np.prod(shape)) // elements, size), dtype=np.uint8)
    halves = {Q.Q4_K: {0: 2e-4, 2: 1.5e-3}, Q.Q5_K: {0: 1e-4, 2: 1.5e-3}, Q.Q6_K: {208: 5e-5}}[qtype]
    for offset, scale in halves.items():
        d = (scale * rng.uniform(0.5, 1.5, len(blocks))).astype(np.float16)
        blocks[:, offset:offset + 2] = d.view(np.uint8).reshape(-1, 2)
    return blocks.reshape(shape[0], -1)


def write_gguf(path, arch, config, state, types, rope):
    """Writes the file and gives the weights as a reader of it sees them, under transformers' names."""
    rng = np.random.default_rng(5)
    writer = gguf.GGUFWriter(path, arch)
    writer.add_name(path.stem)
    writer.add_block_count(LAYERS)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    if rope in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope))
        writer.add_rope_scaling_factor(ROPES[rope][1]["factor"])
    if rope == "yarn":
        writer.add_rope_scaling_orig_ctx_len(ROPES[rope][1]["original_max_position_embeddings"])
    if rope == "llama3":
        plain = 1 / 10000.0 ** (np.arange(0, config.head_dim, 2) / config.head_dim)
        inverse = make_model(config).model.rotary_emb.inv_freq.numpy()
        writer.add_tensor("rope_freqs.weight", (plain / inverse).astype(np.float32))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([chr(c) for c in range(0x21, 0x7F)] + ["ab"] + [f"<{i}>" for i in range(VOCAB - 95)])
    writer.add_token_types([1] * 95 + [3] * (VOCAB - 95))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    seen, matrices = {}, 0
    for name, value in state.items():
        stem, kind = name.rsplit(".", 1)
        if stem in WHOLE:
            stored = WHOLE[stem]
        else:
            _, _, layer, part = stem.split(".", 3)
            stored = f"blk.{layer}.{NAMES[part]}"
        values = value.numpy()
        heads = HEADS if "q_proj" in name else KV_HEADS if "k_proj" in name else 0
        permuted = arch == "llama" and heads > 0
        if permuted:
            values = interleave(values, heads)
        qtype = Q.F32 if values.ndim == 1 else types[matrices % len(types)]
        matrices += values.ndim == 2
        if qtype in (Q.Q4_K, Q.Q5_K, Q.Q6_K):
            raw = random_blocks(rng, qtype, values.shape)
        else:
            raw = gguf.quants.quantize(np.ascontiguousarray(values), qtype)
        writer.add_tensor(f"{stored}.{kind}", raw, raw_dtype=qtype)
        values = gguf.quants.dequantize(raw, qtype).astype(np.float32).reshape(values.shape)
        if permuted:
            values = values.reshape(heads, -1, 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)
        seen[name] = torch.from_numpy(np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return seen


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    goldens = []
    for arch in ARCHITECTURES:
        state = random_state(arch, 64)
        weights = f"{arch}.safetensors"
        save_file({name: value.to(torch.bfloat16) for name, value in state.items()}, OUT / weights, {"format": "pt"})
        for rope in ROPES:
            config = make_config(arch, rope, 64)
            name = f"{arch}-{rope}"
            (OUT / f"{name}.json").write_text(json.dumps(json.loads(config.to_json_string(use_diff=False)), separators=(",", ":")) + "\n")
            goldens.append(record(name, make_model(config, state), {"config": f"{name}.json", "weights": weights}))
    block_files = [(arch, rope, 64, [Q.Q8_0], f"{arch}-{rope}") for arch in ("llama", "qwen2", "qwen3") for rope in ROPES
                   if rope != "dynamic" and not (arch != "llama" and rope in ("linear", "llama3"))]
    block_files.append(("llama", "default", 64, [Q.Q4_0, Q.Q4_1, Q.Q5_0, Q.Q5_1, Q.F16, Q.BF16], "llama-legacy-blocks"))
    block_files.append(("qwen2", "default", 256, [Q.Q4_K, Q.Q5_K, Q.Q6_K], "qwen2-k-blocks"))
    for arch, rope, hidden, types, name in block_files:
        config = make_config(arch, rope, hidden)
        path = OUT / f"{name}.gguf"
        seen = write_gguf(path, arch, config, random_state(arch, hidden), types, rope)
        goldens.append(record(f"{name}.gguf", make_model(config, seen), {"gguf": path.name}))
    (OUT / "goldens.json").write_text(json.dumps(goldens, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
