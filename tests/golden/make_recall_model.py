#!/usr/bin/env python3
"""Writes a model with hand-set weights that answers passkeys exactly, and whose heads have known roles: ground truth for sparse attention.

    tests/golden/make_recall_model.py FOLDER

Two layers of two KV heads, two query heads each (D = 128); no head but these two does anything:
    layer 0, KV head 0   previous-token head: adds the code of token t - 1. It needs a window only, so it may stream.
    layer 1, KV head 0   induction head: finds the place after an earlier occurrence of the current token and gives the token there.
                         It needs the whole context: streaming it destroys the answers.
The residual stream is [A: the token's code | B: the code of the token before | C: the answer's code | one constant]; the MLPs are zero.

RoPE is on. The fast pairs of channels tell positions (previous-token head); codes lie in the slowest pairs, which turn by 0.01 rad over
16K tokens, so that matching does not depend on the distance.

A code has four ones. Fillers have theirs in dims of their own. Token j of passkey i shares three with the other tokens of i and has one
for j: pages of one passkey score high together, as pages about one matter do, and a page list made a few tokens ago still serves.
Numpy only; the same bytes everywhere.
"""
import itertools
import json
import pathlib
import struct
import sys

import numpy as np

HEADS, KV_HEADS, DIM = 4, 2, 128
FILLER_DIMS, ID_DIMS, STEP_DIMS = 16, 24, 8
CODE = FILLER_DIMS + ID_DIMS + STEP_DIMS
A, B, C, CONSTANT, HIDDEN = 0, CODE, 2 * CODE, 3 * CODE, 160
FILLERS, PASSKEYS, STEPS = 120, 64, 5  # a passkey: its name, then four values
BOS, VOCAB = 0, 1 + FILLERS + PASSKEYS * STEPS + 7
THETA, CONTEXT = 1e10, 32768
FAST_PAIRS, SLOW_PAIR = 12, DIM // 2 - CODE // 2  # pairs [0, FAST_PAIRS) and [SLOW_PAIR, DIM / 2)


def filler(i: int) -> int:
    return 1 + i


def passkey(i: int) -> list[int]:
    """The name and the values that follow it."""
    first = 1 + FILLERS + i * STEPS
    return list(range(first, first + STEPS))


def codes() -> np.ndarray:
    """[VOCAB][CODE] of zeros and ones; a code is used once."""
    table = np.zeros((VOCAB, CODE), np.float32)
    fours = list(itertools.combinations(range(FILLER_DIMS), 4))
    table[BOS, list(fours[-1])] = 1
    for i in range(FILLERS):
        table[filler(i), list(fours[i * 7])] = 1
    threes = list(itertools.combinations(range(ID_DIMS), 3))
    for i in range(PASSKEYS):
        for step, token in enumerate(passkey(i)):
            table[token, [FILLER_DIMS + d for d in threes[i * 31]]] = 1
            table[token, FILLER_DIMS + ID_DIMS + step] = 1
    return table


def code_channels() -> list[int]:
    """The channels of a head that carry a code: both halves of the slow pairs."""
    return [*range(SLOW_PAIR, DIM // 2), *range(DIM // 2 + SLOW_PAIR, DIM)]


def tensors() -> dict[str, np.ndarray]:
    table = codes()
    embedding = np.zeros((VOCAB, HIDDEN), np.float32)
    embedding[:, A:A + CODE] = table
    embedding[:, CONSTANT] = 2
    output = np.zeros((VOCAB, HIDDEN), np.float32)
    output[:, C:C + CODE] = table
    out = {"model.embed_tokens.weight": embedding, "lm_head.weight": output, "model.norm.weight": np.ones(HIDDEN, np.float32)}
    for layer in range(2):
        q, k = np.zeros((HEADS, DIM, HIDDEN), np.float32), np.zeros((KV_HEADS, DIM, HIDDEN), np.float32)
        v, o = np.zeros((KV_HEADS, DIM, HIDDEN), np.float32), np.zeros((HIDDEN, HEADS, DIM), np.float32)
        v[0, range(CODE), range(A, A + CODE)] = 1
        if layer == 0:
            # After RoPE the product is proportional to the sum over pairs of cos((t - s - 1) f): largest at s = t - 1.
            for pair in range(FAST_PAIRS):
                f = THETA ** (-2 * pair / DIM)
                q[:2, pair, CONSTANT], q[:2, pair + DIM // 2, CONSTANT] = 4 * np.cos(f), -4 * np.sin(f)
                k[0, pair, CONSTANT] = 1
            o[range(B, B + CODE), :2, range(CODE)] = 0.125  # both query heads of the group say the same
        else:
            q[:2, code_channels(), range(A, A + CODE)] = 20
            k[0, code_channels(), range(B, B + CODE)] = 1
            o[range(C, C + CODE), :2, range(CODE)] = 0.5
        name = f"model.layers.{layer}."
        out |= {name + "self_attn.q_proj.weight": q.reshape(-1, HIDDEN), name + "self_attn.k_proj.weight": k.reshape(-1, HIDDEN),
                name + "self_attn.v_proj.weight": v.reshape(-1, HIDDEN), name + "self_attn.o_proj.weight": o.reshape(HIDDEN, -1),
                name + "mlp.gate_proj.weight": np.zeros((32, HIDDEN), np.float32), name + "mlp.up_proj.weight": np.zeros((32, HIDDEN), np.float32),
                name + "mlp.down_proj.weight": np.zeros((HIDDEN, 32), np.float32), name + "input_layernorm.weight": np.ones(HIDDEN, np.float32),
                name + "post_attention_layernorm.weight": np.ones(HIDDEN, np.float32)}
    return out


def write_safetensors(path: pathlib.Path, named: dict[str, np.ndarray]) -> None:
    """In bfloat16; values are rounded to nearest."""
    header, pieces, offset = {}, [], 0
    for name, values in named.items():
        bits = np.ascontiguousarray(values).view(np.uint32)
        stored = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()
        header[name] = {"dtype": "BF16", "shape": list(values.shape), "data_offsets": [offset, offset + len(stored)]}
        pieces.append(stored)
        offset += len(stored)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(pieces))


def write_gates(path: pathlib.Path, retrieval_layer: int) -> None:
    """A head pattern whose one retrieval head at static sparsity 0.75 is KV head 0 of the layer."""
    rows = [[0.1, 0.05], [0.1, 0.05]]
    rows[retrieval_layer][0] = 1.0
    path.write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))


def write_model(folder: pathlib.Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_safetensors(folder / "model.safetensors", tensors())
    (folder / "config.json").write_text(json.dumps({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": VOCAB, "hidden_size": HIDDEN, "intermediate_size": 32,
        "num_hidden_layers": 2, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": DIM, "rms_norm_eps": 1e-6,
        "max_position_embeddings": CONTEXT, "rope_theta": THETA, "tie_word_embeddings": False, "hidden_act": "silu", "torch_dtype": "bfloat16",
        "bos_token_id": BOS, "eos_token_id": VOCAB - 1}, indent=1))
    steps = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    (folder / "tokenizer.json").write_text(json.dumps({
        "version": "1.0", "added_tokens": [], "normalizer": None, "pre_tokenizer": steps, "post_processor": None, "decoder": steps,
        "model": {"type": "BPE", "vocab": {f"t{i}": i for i in range(VOCAB)}, "merges": []}}))
    write_gates(folder / "full_attention_heads.tsv", retrieval_layer=1)


if __name__ == "__main__":
    write_model(pathlib.Path(sys.argv[1]))
