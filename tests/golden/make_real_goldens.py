#!/usr/bin/env python3
"""Writes tests/golden/real_NAME.json.gz: what Hugging Face transformers computes, in float32 on a CPU, for a real model.

    python3 tests/golden/make_real_goldens.py NAME MODEL [--tokenizer tokenizer.json]

MODEL is a GGUF (its weights are dequantised by the gguf package, the q and k rows of a Llama put back into half-split order) or a Hugging Face
directory. The format is in README.md beside this script.
"""
import argparse
import gzip
import inspect
import json
import pathlib

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

GREEDY, TOP, SAMPLE, LONG = 64, 50, 200, 4096
PROMPTS = [
    "The capital of France is",
    "Once upon a time, in a small village at the foot of a mountain,",
    "def fibonacci(n):\n    \"\"\"Return the n-th Fibonacci number.\"\"\"\n",
    "1, 2, 4, 8, 16, 32,",
    "#include <vector>\n\nint main() {\n  std::vector<int> values = {3, 1, 2};\n",
    "Q: Why is the sky blue?\nA:",
    "A list of the planets, from the sun outwards:\n1. Mercury\n2. Venus\n",
    "Chère Madame,\n\nJe vous remercie de votre lettre du 3 mai. 東京は日本の首都です。 🙂\n\n",
    inspect.getsource(json)[:6000],
]

# Names inside a layer: GGUF -> transformers.
LAYER = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}
WHOLE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def half_split(rows, heads):
    """Llama GGUFs store row i of a head's first half at 2i and of its second at 2i + 1."""
    dim = rows.shape[0] // heads
    return rows.reshape(heads, dim // 2, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def load_gguf(path):
    from gguf import GGUFReader, quants
    reader = GGUFReader(path)
    meta = {key: field for key, field in reader.fields.items()}
    arch = meta["general.architecture"].contents()
    get = lambda key: meta[f"{arch}.{key}"].contents()
    heads, kv_heads = get("attention.head_count"), get("attention.head_count_kv")
    state = {}
    for tensor in reader.tensors:
        weights = quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        weights = weights.reshape(tuple(int(n) for n in reversed(tensor.shape)))
        stem, kind = tensor.name.rsplit(".", 1)
        if arch == "llama" and stem.endswith("attn_q"):
            weights = half_split(weights, heads)
        if arch == "llama" and stem.endswith("attn_k"):
            weights = half_split(weights, kv_heads)
        if stem.startswith("blk."):
            _, layer, part = stem.split(".")
            name = f"model.layers.{layer}.{LAYER[part]}"
        else:
            name = WHOLE[stem]
        state[f"{name}.{kind}"] = torch.from_numpy(np.ascontiguousarray(weights))
    embedding = state["model.embed_tokens.weight"]
    config, model = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen2": (Qwen2Config, Qwen2ForCausalLM)}[arch]
    tied = "lm_head.weight" not in state
    model = model(config(
        vocab_size=embedding.shape[0], hidden_size=get("embedding_length"), num_hidden_layers=get("block_count"),
        intermediate_size=get("feed_forward_length"), num_attention_heads=heads, num_key_value_heads=kv_heads,
        max_position_embeddings=get("context_length"), rms_norm_eps=get("attention.layer_norm_rms_epsilon"),
        rope_theta=get("rope.freq_base"), rope_parameters={"rope_type": "default", "rope_theta": get("rope.freq_base")},
        tie_word_embeddings=tied, attn_implementation="sdpa"))
    if tied:
        state["lm_head.weight"] = embedding
    model.load_state_dict(state, strict=True)
    tokens = {text: i for i, text in enumerate(meta["tokenizer.ggml.tokens"].contents())}
    merges = [tuple(pair.split(" ")) for pair in meta["tokenizer.ggml.merges"].contents()]
    tokenizer = Tokenizer(models.BPE(tokens, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return model.float().eval(), tokenizer


def logits_record(position, logits, sample):
    order = torch.topk(logits, TOP).indices.tolist()
    rounded = lambda ids: [float(f"{logits[i].item():.6g}") for i in ids]
    return {"position": position, "min": logits.min().item(), "max": logits.max().item(), "top_ids": order,
            "top_logits": rounded(order), "sample_logits": rounded(sample)}


@torch.no_grad()
def prompt_record(model, ids, sample):
    n = len(ids)
    output = model(torch.tensor([ids]), use_cache=True, logits_to_keep=torch.tensor(sorted({0, n // 4, n // 2, n - 1})))
    positions = sorted({0, n // 4, n // 2, n - 1})
    record = {"ids": ids, "logits": [logits_record(p, output.logits[0, i], sample) for i, p in enumerate(positions)]}
    greedy, gaps, logits, cache = [], [], output.logits[0, -1], output.past_key_values
    for _ in range(GREEDY):
        best = torch.topk(logits, 2)
        greedy.append(int(best.indices[0]))
        gaps.append(float(f"{(best.values[0] - best.values[1]).item():.4g}"))
        output = model(torch.tensor([[greedy[-1]]]), past_key_values=cache, use_cache=True)
        logits, cache = output.logits[0, -1], output.past_key_values
    record.update(greedy=greedy, gaps=gaps)
    return record


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("model")
    parser.add_argument("--tokenizer")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.model.endswith(".gguf"):
        model, tokenizer = load_gguf(args.model)
    else:
        model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
        tokenizer = Tokenizer.from_file(args.tokenizer or args.model + "/tokenizer.json")
    vocab = model.config.vocab_size
    sample = sorted(np.random.default_rng(1).choice(vocab, SAMPLE, replace=False).tolist())
    prompts = [tokenizer.encode(text, add_special_tokens=False).ids for text in PROMPTS]
    prompts.append(tokenizer.encode(inspect.getsource(argparse), add_special_tokens=False).ids[:LONG])
    assert len(prompts[-1]) == LONG
    records = []
    for ids in prompts:
        records.append(prompt_record(model, ids, sample))
        print(len(ids), repr(tokenizer.decode(records[-1]["greedy"]))[:100], flush=True)
    golden = {"model": args.name, "vocab": vocab, "sample_ids": sample, "prompts": records}
    path = pathlib.Path(__file__).parent / f"real_{args.name}.json.gz"
    path.write_bytes(gzip.compress(json.dumps(golden, separators=(",", ":")).encode(), 9, mtime=0))


if __name__ == "__main__":
    main()
