"""GGUF files in numpy: enough to read the base models that lserve ships adapters for and to write Q8_0 models.

A field is kept as (type, value), an array as (9, (element type, list)), so that fields can be copied unchanged from file to file.
"""
import dataclasses
import mmap
import struct
import typing

import numpy as np

STRING, ARRAY, UINT32, FLOAT32 = 8, 9, 4, 6
F32, F16, Q4_1, Q8_0 = 0, 1, 3, 8
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_Q4_1_BLOCK = np.dtype([("scale", "<f2"), ("minimum", "<f2"), ("codes", "u1", 16)])  # low nibbles: elements 0-15
_Q8_0_BLOCK = np.dtype([("scale", "<f2"), ("codes", "i1", 32)])


@dataclasses.dataclass
class Tensor:
    name: str
    shape: tuple[int, ...]  # row-major: (rows, columns)
    type: int
    offset: int  # from the start of the file


class GgufFile:
    def __init__(self, path):
        with open(path, "rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._at = 4
        if self._map[:4] != b"GGUF":
            raise ValueError(f"{path}: not a GGUF file")
        version, tensor_count, field_count = self._take("<I"), self._take("<Q"), self._take("<Q")
        if version not in (2, 3):
            raise ValueError(f"{path}: GGUF version {version}")
        self.fields = {}
        for _ in range(field_count):
            key = self._string()
            kind = self._take("<I")
            self.fields[key] = (kind, self._value(kind))
        self.tensors = []
        for _ in range(tensor_count):
            name = self._string()
            dims = [self._take("<Q") for _ in range(self._take("<I"))]
            self.tensors.append(Tensor(name, tuple(reversed(dims)), self._take("<I"), self._take("<Q")))
        alignment = self.get("general.alignment", 32)
        base = -(-self._at // alignment) * alignment
        for tensor in self.tensors:
            tensor.offset += base

    def get(self, key, default=None):
        """The plain value of a field."""
        if key not in self.fields:
            return default
        kind, value = self.fields[key]
        return value[1] if kind == ARRAY else value

    def load(self, tensor: Tensor) -> np.ndarray:
        """The dequantised tensor, float32."""
        count = int(np.prod(tensor.shape))
        if tensor.type == F32:
            values = np.frombuffer(self._map, "<f4", count, tensor.offset).copy()
        elif tensor.type == F16:
            values = np.frombuffer(self._map, "<f2", count, tensor.offset).astype(np.float32)
        elif tensor.type == Q4_1:
            blocks = np.frombuffer(self._map, _Q4_1_BLOCK, count // 32, tensor.offset)
            codes = np.concatenate([blocks["codes"] & 15, blocks["codes"] >> 4], axis=1).astype(np.float32)
            values = codes * blocks["scale"].astype(np.float32)[:, None] + blocks["minimum"].astype(np.float32)[:, None]
        elif tensor.type == Q8_0:
            blocks = np.frombuffer(self._map, _Q8_0_BLOCK, count // 32, tensor.offset)
            values = blocks["codes"].astype(np.float32) * blocks["scale"].astype(np.float32)[:, None]
        else:
            raise ValueError(f"tensor {tensor.name}: type {tensor.type} is not read here")
        return values.reshape(tensor.shape)

    def _take(self, form):
        (value,) = struct.unpack_from(form, self._map, self._at)
        self._at += struct.calcsize(form)
        return value

    def _string(self):
        length = self._take("<Q")
        self._at += length
        return self._map[self._at - length:self._at].decode("utf-8")

    def _value(self, kind):
        if kind == STRING:
            return self._string()
        if kind == ARRAY:
            element, count = self._take("<I"), self._take("<Q")
            return element, [self._value(element) for _ in range(count)]
        return self._take(_SCALARS[kind])


def quantize_q8_0(values: np.ndarray) -> bytes:
    """Blocks of 32 along a row: scale = largest magnitude / 127, rounded to half precision; codes to nearest."""
    rows = values.astype(np.float32).reshape(-1, 32)
    scale = np.abs(rows).max(axis=1) / np.float32(127)
    inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale > 0)
    blocks = np.empty(len(rows), _Q8_0_BLOCK)
    blocks["scale"] = scale
    blocks["codes"] = np.rint(rows * inverse[:, None])
    return blocks.tobytes()


def write_gguf(path, fields: dict, tensors: list[tuple[str, tuple[int, ...], int, typing.Callable[[], bytes]]]):
    """tensors: (name, row-major shape, F32 or Q8_0, function that makes the bytes), made and written one after the other."""

    def string(text):
        encoded = text.encode("utf-8")
        return struct.pack("<Q", len(encoded)) + encoded

    def value(kind, content):
        if kind == STRING:
            return string(content)
        if kind == ARRAY:
            element, items = content
            return struct.pack("<IQ", element, len(items)) + b"".join(value(element, item) for item in items)
        return struct.pack(_SCALARS[kind], content)

    def stored_bytes(shape, kind):
        count = int(np.prod(shape))
        return count * 4 if kind == F32 else count // 32 * _Q8_0_BLOCK.itemsize

    header = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(fields))]
    for key, (kind, content) in fields.items():
        header += [string(key), struct.pack("<I", kind), value(kind, content)]
    offset = 0
    for name, shape, kind, _ in tensors:
        header += [string(name), struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape)), struct.pack("<IQ", kind, offset)]
        offset += -(-stored_bytes(shape, kind) // 32) * 32
    with open(path, "wb") as out:
        out.write(b"".join(header))
        for name, shape, kind, make in tensors:
            out.write(bytes(-out.tell() % 32))
            content = make()
            if len(content) != stored_bytes(shape, kind):
                raise ValueError(f"tensor {name}: {len(content)} bytes, expected {stored_bytes(shape, kind)}")
            out.write(content)
