"""Base GGUF (Llama architecture) + LoRA adapter -> a model, as a Hugging Face directory in bfloat16 or as a GGUF in Q8_0.

W = W_base + (alpha / rank) * B @ A in float64, rounded once, so that every machine gets the same bits. The adapter holds A and B as
int8 with a float32 scale a row, and whole norm weights. GGUF keeps the rows of Llama's q and k interleaved for its own rope;
Hugging Face order is the two halves. Needs numpy; holds one tensor at a time.
"""
import json
import pathlib
import struct

import numpy as np

import gguf_file

_LAYER_NAMES = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
                "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
                "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
_SAFETENSORS_TYPES = {"I8": "<i1", "F32": "<f4"}


def hugging_face_name(name: str) -> str:
    if name == "token_embd.weight":
        return "model.embed_tokens.weight"
    if name == "output_norm.weight":
        return "model.norm.weight"
    _, layer, kind, _ = name.split(".")
    return f"model.layers.{layer}.{_LAYER_NAMES[kind]}.weight"


def halves_from_interleaved(rows: np.ndarray, heads: int) -> np.ndarray:
    out, inner = rows.shape
    return rows.reshape(heads, out // heads // 2, 2, inner).swapaxes(1, 2).reshape(out, inner)


def interleaved_from_halves(rows: np.ndarray, heads: int) -> np.ndarray:
    out, inner = rows.shape
    return rows.reshape(heads, 2, out // heads // 2, inner).swapaxes(1, 2).reshape(out, inner)


def read_safetensors(path) -> tuple[dict, dict[str, np.ndarray]]:
    content = pathlib.Path(path).read_bytes()
    (length,) = struct.unpack_from("<Q", content)
    header = json.loads(content[8:8 + length])
    metadata = header.pop("__metadata__", {})
    return metadata, {name: np.frombuffer(content, _SAFETENSORS_TYPES[info["dtype"]], int(np.prod(info["shape"])),
                                          8 + length + info["data_offsets"][0]).reshape(info["shape"])
                      for name, info in header.items()}


def bfloat16_bits(values: np.ndarray) -> np.ndarray:
    """float64 -> bit patterns, to nearest even in one rounding: the step to float32 is made 'round to odd'."""
    single = values.astype(np.float32)
    bits = single.view(np.uint32)
    widened = single.astype(np.float64)
    bits = np.where(np.abs(widened) > np.abs(values), bits - 1, bits)
    bits = np.where(widened != values, bits | 1, bits)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


class Merged:
    """The merged tensors under both naming schemes, computed when asked for."""

    def __init__(self, base_path, adapter_folder):
        self.base = gguf_file.GgufFile(base_path)
        self.folder = pathlib.Path(adapter_folder)
        metadata, self._adapter = read_safetensors(self.folder / "adapter.safetensors")
        self._scale = float(metadata["alpha"]) / float(metadata["r"])
        self.config = json.loads((self.folder / "config.json").read_text())

    def rope_heads(self, tensor) -> int:
        """How many heads' rows GGUF interleaves in this tensor; 0: none."""
        if ".attn_q." in tensor.name:
            return self.config["num_attention_heads"]
        return self.config["num_key_value_heads"] if ".attn_k." in tensor.name else 0

    def load(self, tensor) -> np.ndarray:
        """float64, in Hugging Face order."""
        name = hugging_face_name(tensor.name)
        if name.endswith("norm.weight") and name in self._adapter:
            return self._adapter[name].astype(np.float64)
        rows = self.base.load(tensor)
        if heads := self.rope_heads(tensor):
            rows = halves_from_interleaved(rows, heads)
        rows = rows.astype(np.float64)
        stem = name.removesuffix(".weight")
        if f"{stem}.lora_A.q" in self._adapter:
            a, b = (self._adapter[f"{stem}.lora_{x}.q"].astype(np.float64)
                    * self._adapter[f"{stem}.lora_{x}.s"].astype(np.float64)[:, None] for x in "AB")
            rows += self._scale * (b @ a)
        return rows


def write_hugging_face(merged: Merged, folder: pathlib.Path, progress) -> None:
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for tensor in merged.base.tensors:
        size = 2 * int(np.prod(tensor.shape))
        header[hugging_face_name(tensor.name)] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [offset, offset + size]}
        offset += size
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with open(folder / "model.safetensors", "wb") as out:
        out.write(struct.pack("<Q", len(encoded)) + encoded)
        for number, tensor in enumerate(merged.base.tensors, 1):
            out.write(bfloat16_bits(merged.load(tensor)).tobytes())
            progress(number, len(merged.base.tensors))

    def write_json(name, content):
        (folder / name).write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")

    config = merged.config
    write_json("config.json", config)
    write_json("tokenizer_config.json", {
        "tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False, "clean_up_tokenization_spaces": False,
        "bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>", "unk_token": "<|endoftext|>",
        "model_max_length": config["max_position_embeddings"], "chat_template": merged.base.get("tokenizer.chat_template")})
    write_json("generation_config.json", {f"{x}_token_id": config[f"{x}_token_id"] for x in ("bos", "eos", "pad")})
    (folder / "tokenizer.json").write_bytes((merged.folder / "tokenizer.json").read_bytes())


def write_q8_0(merged: Merged, path: pathlib.Path, name: str, progress) -> None:
    fields = dict(merged.base.fields)
    fields["general.name"] = (gguf_file.STRING, name)
    fields["general.file_type"] = (gguf_file.UINT32, 7)  # mostly Q8_0
    fields["general.quantization_version"] = (gguf_file.UINT32, 2)
    fields["llama.context_length"] = (gguf_file.UINT32, merged.config["max_position_embeddings"])
    fields["llama.rope.freq_base"] = (gguf_file.FLOAT32, merged.config["rope_theta"])
    count = len(merged.base.tensors)

    def make(number, tensor):
        values = merged.load(tensor)
        if heads := merged.rope_heads(tensor):
            values = interleaved_from_halves(values, heads)
        progress(number, count)
        return values.astype("<f4").tobytes() if values.ndim == 1 else gguf_file.quantize_q8_0(values)

    gguf_file.write_gguf(path, fields, [
        (t.name, t.shape, gguf_file.F32 if len(t.shape) == 1 else gguf_file.Q8_0, lambda n=n, t=t: make(n, t))
        for n, t in enumerate(merged.base.tensors, 1)])
