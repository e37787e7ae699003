#!/usr/bin/env python3
"""Writes the seeds of corpus/gguf, corpus/safetensors and corpus/config_json. Run: python3 tests/fuzz/make_model_corpora.py (standard library only)."""
import json
import pathlib
import struct

CORPUS = pathlib.Path(__file__).parent / "corpus"
U32, F32, BOOL, STRING, ARRAY, I32 = 4, 6, 7, 8, 9, 5


def text(value):
    return struct.pack("<Q", len(value.encode())) + value.encode()


def value(kind, item):
    if kind == STRING:
        return text(item)
    return struct.pack({U32: "<I", I32: "<i", F32: "<f", BOOL: "<B"}[kind], item)


def pair(key, kind, item):
    if isinstance(item, list):
        body = struct.pack("<IIQ", ARRAY, kind, len(item)) + b"".join(value(kind, x) for x in item)
    else:
        body = struct.pack("<I", kind) + value(kind, item)
    return text(key) + body


def gguf(pairs, tensors, version=3, alignment=32):
    """tensors: (name, dims, type, offset); the data is 64 bytes a tensor of zeros."""
    out = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(pairs)) + b"".join(pairs)
    for name, dims, kind, offset in tensors:
        out += text(name) + struct.pack("<I", len(dims)) + struct.pack(f"<{len(dims)}Q", *dims) + struct.pack("<IQ", kind, offset)
    return out + bytes(-len(out) % alignment) + bytes(4096)


def llama_pairs(arch):
    return [
        pair("general.architecture", STRING, arch), pair("general.name", STRING, "seed"), pair(f"{arch}.block_count", U32, 1),
        pair(f"{arch}.context_length", U32, 64), pair(f"{arch}.embedding_length", U32, 8), pair(f"{arch}.feed_forward_length", U32, 8),
        pair(f"{arch}.attention.head_count", U32, 2), pair(f"{arch}.attention.head_count_kv", U32, 1),
        pair(f"{arch}.attention.layer_norm_rms_epsilon", F32, 1e-5), pair(f"{arch}.rope.scaling.type", STRING, "yarn"),
        pair(f"{arch}.rope.scaling.factor", F32, 4.0),
    ]


def main():
    for folder in ("gguf", "safetensors", "config_json"):
        (CORPUS / folder).mkdir(parents=True, exist_ok=True)
    bpe = [pair("tokenizer.ggml.model", STRING, "gpt2"), pair("tokenizer.ggml.pre", STRING, "qwen2"),
           pair("tokenizer.ggml.tokens", STRING, ["a", "b", "ab", "<|im_end|>"]), pair("tokenizer.ggml.token_type", I32, [1, 1, 1, 3]),
           pair("tokenizer.ggml.merges", STRING, ["a b"]), pair("tokenizer.ggml.eos_token_id", U32, 3)]
    spm = [pair("tokenizer.ggml.model", STRING, "llama"), pair("tokenizer.ggml.tokens", STRING, ["<unk>", "a", "<0x0A>"]),
           pair("tokenizer.ggml.scores", F32, [0.0, -1.0, 0.0]), pair("tokenizer.ggml.token_type", I32, [2, 1, 6])]
    tensors = [("token_embd.weight", [8, 4], 0, 0), ("rope_freqs.weight", [2], 0, 128), ("blk.0.attn_q.weight", [32, 2], 8, 160)]
    seeds = {
        "qwen2": gguf(llama_pairs("qwen2") + bpe, tensors), "llama": gguf(llama_pairs("llama") + spm, tensors),
        "v2": gguf(llama_pairs("llama"), tensors[:1], version=2), "empty": gguf([], []), "alignment": gguf([pair("general.alignment", U32, 64)], [], 3, 64),
        "huge_count": b"GGUF" + struct.pack("<IQQ", 3, 2**63, 2**63), "overlap": gguf([], [("a", [8], 0, 0), ("b", [8], 0, 0)]),
        "overflow": gguf([], [("a", [2**31, 2**31], 0, 0)]), "cut": gguf(llama_pairs("llama"), tensors)[:200],
    }
    for name, seed in seeds.items():
        (CORPUS / "gguf" / name).write_bytes(seed)

    def safetensors(header, size=64):
        body = header if isinstance(header, bytes) else json.dumps(header).encode()
        return struct.pack("<Q", len(body)) + body + bytes(size)

    tensor = lambda begin, end, dtype="F32", shape=(2, 4): {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    seeds = {
        "two": safetensors({"__metadata__": {"format": "pt"}, "a": tensor(0, 32), "b": tensor(32, 48, "BF16")}),
        "overlap": safetensors({"a": tensor(0, 32), "b": tensor(16, 48)}), "huge_header": struct.pack("<Q", 2**63) + b"{}",
        "deep": safetensors(b'{"a":' * 1000), "twice": safetensors(b'{"a":{},"a":{}}'), "vector": safetensors({"a": tensor(0, 8, "F16", (4,))}),
    }
    for name, seed in seeds.items():
        (CORPUS / "safetensors" / name).write_bytes(seed)

    base = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "vocab_size": 256,
            "rope_theta": 10000.0, "eos_token_id": [1, 2], "hidden_act": "silu"}
    ropes = {"default": None, "linear": {"type": "linear", "factor": 2.0}, "dynamic": {"type": "dynamic", "factor": 2.0},
             "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "mscale": 1.0, "mscale_all_dim": 0.5},
             "llama3": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                        "original_max_position_embeddings": 32}}
    for kind, scaling in ropes.items():
        (CORPUS / "config_json" / kind).write_text(json.dumps({**base, "rope_scaling": scaling}))
    (CORPUS / "config_json" / "qwen3").write_text(json.dumps(
        {**base, "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "head_dim": 32, "use_sliding_window": True, "sliding_window": 16,
         "max_window_layers": 0, "rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}}))
    (CORPUS / "config_json" / "mistral").write_text(json.dumps({**base, "model_type": "mistral", "sliding_window": None, "architectures": None}))


if __name__ == "__main__":
    main()
