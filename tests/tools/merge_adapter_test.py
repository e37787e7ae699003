"""tools/gguf_file.py and tools/merge_adapter.py on small made-up models."""
import json
import pathlib
import struct
import sys
import tempfile
import unittest

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tools"))
import gguf_file
import merge_adapter

HEADS, KV_HEADS, DIM, HIDDEN, INNER, RANK = 4, 2, 8, 64, 96, 2


def f32(values):
    return lambda: np.asarray(values, "<f4").tobytes()


def q8_0(values):
    return lambda: gguf_file.quantize_q8_0(values)


def write_adapter(path, tensors: dict[str, np.ndarray]) -> None:
    header, body = {"__metadata__": {"alpha": "64", "r": "32"}}, b""
    for name, array in tensors.items():
        kind = {"int8": "I8", "float32": "F32"}[str(array.dtype)]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [len(body), len(body) + array.nbytes]}
        body += array.tobytes()
    encoded = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + body)


class Folder(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = pathlib.Path(scratch.name)
        self.random = np.random.default_rng(7)


class GgufTest(Folder):
    def test_what_is_written_is_read(self):
        fields = {"general.architecture": (8, "llama"), "a.flag": (7, True), "a.number": (4, 7), "a.real": (6, 0.5), "a.wide": (10, 1 << 40),
                  "a.list": (9, (8, ["x", "", "ä€"])), "a.numbers": (9, (5, [-1, 2]))}
        matrix = self.random.standard_normal((3, 64)).astype(np.float32)
        path = self.folder / "model.gguf"
        gguf_file.write_gguf(path, fields, [("odd", (3,), gguf_file.F32, f32([1, 2, 3])), ("matrix", (3, 64), gguf_file.Q8_0, q8_0(matrix))])
        read = gguf_file.GgufFile(path)
        self.assertEqual(read.fields, fields)
        self.assertEqual([(t.name, t.shape) for t in read.tensors], [("odd", (3,)), ("matrix", (3, 64))])
        self.assertEqual(read.load(read.tensors[0]).tolist(), [1, 2, 3])
        error = np.abs(read.load(read.tensors[1]) - matrix).reshape(-1, 32).max(axis=1)
        scale = np.abs(matrix).reshape(-1, 32).max(axis=1) / 127
        self.assertTrue((error <= scale * (0.5 + 127 / 2048)).all(), "half a step, and the scale's rounding to f16")

    def test_zeros_stay_zero(self):
        self.assertEqual(gguf_file.quantize_q8_0(np.zeros(64, np.float32)), bytes(2 * 34))

    def test_q4_1_blocks(self):
        path = self.folder / "model.gguf"
        gguf_file.write_gguf(path, {}, [("t", (32,), gguf_file.F32, f32(np.zeros(32)))])
        content = bytearray(path.read_bytes())
        block = np.array([0.5, -1], "<f2").tobytes() + bytes(i | (15 - i) << 4 for i in range(16))
        start = gguf_file.GgufFile(path).tensors[0].offset
        content[start:start + len(block)] = block
        path.write_bytes(content)
        read = gguf_file.GgufFile(path)
        read.tensors[0].type = gguf_file.Q4_1
        codes = [*range(16), *range(15, -1, -1)]
        self.assertEqual(read.load(read.tensors[0]).tolist(), [0.5 * c - 1 for c in codes])

    def test_other_files_are_refused(self):
        path = self.folder / "model.gguf"
        path.write_bytes(b"GGML" + bytes(60))
        with self.assertRaisesRegex(ValueError, "not a GGUF"):
            gguf_file.GgufFile(path)


class Bfloat16Test(unittest.TestCase):
    def test_rounds_once_to_nearest_even(self):
        def bits(value):
            return int(merge_adapter.bfloat16_bits(np.array([value], np.float64))[0])

        step = 2.0 ** -7  # of bfloat16 at 1
        self.assertEqual(bits(1.0), 0x3F80)
        self.assertEqual(bits(1 + step / 2), 0x3F80, "a tie goes to even")
        self.assertEqual(bits(1 + 1.5 * step), 0x3F82)
        self.assertEqual(bits(1 + step / 2 + 2.0 ** -40), 0x3F81, "by way of float32 this would look like a tie")
        self.assertEqual(bits(-(1 + step / 2 + 2.0 ** -40)), 0xBF81)
        self.assertEqual(bits(1 + step / 2 - 2.0 ** -40), 0x3F80)


class MergeTest(Folder):
    def make(self):
        """A one-layer base in GGUF with an adapter on q and on the norm; returns Merged and what q must be, in Hugging Face order."""
        q = self.random.standard_normal((HEADS * DIM, HIDDEN)).astype(np.float32)
        k = self.random.standard_normal((KV_HEADS * DIM, HIDDEN)).astype(np.float32)
        base = self.folder / "base.gguf"
        gguf_file.write_gguf(base, {"llama.context_length": (4, 128), "tokenizer.chat_template": (8, "{{ x }}")}, [
            ("blk.0.attn_norm.weight", (HIDDEN,), gguf_file.F32, f32(np.ones(HIDDEN))),
            ("blk.0.attn_q.weight", (HEADS * DIM, HIDDEN), gguf_file.F32, f32(merge_adapter.interleaved_from_halves(q, HEADS))),
            ("blk.0.attn_k.weight", (KV_HEADS * DIM, HIDDEN), gguf_file.F32, f32(merge_adapter.interleaved_from_halves(k, KV_HEADS)))])
        stem = "model.layers.0.self_attn.q_proj"
        a, b = (self.random.integers(-127, 128, shape).astype(np.int8) for shape in ((RANK, HIDDEN), (HEADS * DIM, RANK)))
        sa, sb = (self.random.random(n).astype(np.float32) / 1000 for n in (RANK, HEADS * DIM))
        write_adapter(self.folder / "adapter.safetensors", {
            f"{stem}.lora_A.q": a, f"{stem}.lora_A.s": sa, f"{stem}.lora_B.q": b, f"{stem}.lora_B.s": sb,
            "model.layers.0.input_layernorm.weight": np.full(HIDDEN, 3, np.float32)})
        (self.folder / "config.json").write_text(json.dumps({
            "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "max_position_embeddings": 131072, "rope_theta": 8e6,
            "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}))
        (self.folder / "tokenizer.json").write_text("{}")
        update = np.zeros(q.shape)
        for o in range(q.shape[0]):
            for r in range(RANK):
                update[o] += 2.0 * (float(b[o, r]) * float(sb[o])) * (a[r].astype(float) * float(sa[r]))
        return merge_adapter.Merged(base, self.folder), q + update, k

    def test_adds_the_adapter_in_hugging_face_order(self):
        merged, q, k = self.make()
        norm, got_q, got_k = (merged.load(t) for t in merged.base.tensors)
        np.testing.assert_allclose(got_q, q, rtol=1e-12)
        np.testing.assert_array_equal(got_k, k)
        np.testing.assert_array_equal(norm, np.full(HIDDEN, 3))

    def test_directory(self):
        merged, q, _ = self.make()
        out = self.folder / "out"
        out.mkdir()
        merge_adapter.write_hugging_face(merged, out, lambda *_: None)
        content = (out / "model.safetensors").read_bytes()
        (length,) = struct.unpack_from("<Q", content)
        info = json.loads(content[8:8 + length])["model.layers.0.self_attn.q_proj.weight"]
        begin, end = info["data_offsets"]
        bits = np.frombuffer(content[8 + length + begin:8 + length + end], "<u2").astype(np.uint32) << 16
        np.testing.assert_allclose(bits.view(np.float32).reshape(q.shape), q, rtol=2.0 ** -8)
        self.assertEqual(json.loads((out / "tokenizer_config.json").read_text())["chat_template"], "{{ x }}")

    def test_gguf_is_interleaved_again(self):
        merged, q, _ = self.make()
        path = self.folder / "out.gguf"
        merge_adapter.write_q8_0(merged, path, "made", lambda *_: None)
        read = gguf_file.GgufFile(path)
        self.assertEqual(read.get("llama.rope.freq_base"), 8e6)
        self.assertEqual(read.get("llama.context_length"), 131072)
        rows = merge_adapter.halves_from_interleaved(read.load(read.tensors[1]), HEADS)
        self.assertLess(np.abs(rows - q).max(), np.abs(q).max() / 127)


if __name__ == "__main__":
    unittest.main()
