#!/usr/bin/env python3
"""Writes tests/golden/blocks.bin: random blocks of every block type and their values by the gguf package.

Format, once for each type: name (8 bytes, zero padded), u32 elements, u32 bytes, the bytes, then the elements as float32.
Run: python3 tests/golden/make_block_goldens.py
"""
import pathlib
import struct

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

BLOCKS = 3
# Byte offsets of the half-precision numbers of a block; random bits there could be infinities.
HALVES = {
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0],
    "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "F16": [], "BF16": [],
}


def main():
    rng = np.random.default_rng(7)
    with open(pathlib.Path(__file__).parent / "blocks.bin", "wb") as out:
        for name, halves in HALVES.items():
            qtype = GGMLQuantizationType[name]
            elements, size = GGML_QUANT_SIZES[qtype]
            count = BLOCKS if elements > 1 else 64
            if elements > 1:
                rows = rng.integers(0, 256, (count, size), dtype=np.uint8)
                for offset in halves:
                    d = rng.normal(0, 0.02, count).astype(np.float16)
                    rows[:, offset:offset + 2] = d.view(np.uint8).reshape(count, 2)
            else:
                values = rng.normal(0, 1, count).astype(np.float32)
                rows = quants.quantize(values, qtype).view(np.uint8)
            rows = np.ascontiguousarray(rows).reshape(1, -1)
            values = quants.dequantize(rows.view(np.float16) if name == "F16" else rows, qtype)
            values = values.astype(np.float32).reshape(-1)
            assert values.size == count * elements and np.isfinite(values).all()
            out.write(struct.pack("<8sII", name.encode(), values.size, rows.size))
            out.write(rows.tobytes() + values.tobytes())


if __name__ == "__main__":
    main()
