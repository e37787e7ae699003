// Turns a stored row of any DType into floats: the definition that faster kernels are tested
// against. Stateless, any thread.
//
// Layouts of the block types, byte offsets inside a block. f16 is a little-endian IEEE half; a
// "lo/hi" array of n bytes holds 2n four-bit codes, byte i giving code i in its low half and code i
// + n in its high half. Formulas and layouts: GGUF's specification and the gguf Python package
// (quants.py).
//
//   Q4_0   0 d f16,  2 codes 16 lo/hi                                       x = d (q - 8)
//   Q4_1   0 d f16,  2 m f16,  4 codes 16 lo/hi                             x = d q + m
//   Q5_0   0 d f16,  2 fifth bits u32 (bit i: code i),  6 codes 16 lo/hi    x = d (q - 16)
//   Q5_1   0 d f16,  2 m f16,  4 fifth bits u32,  8 codes 16 lo/hi          x = d q + m
//   Q8_0   0 d f16,  2 codes 32 int8                                        x = d q
//   Q4_K   0 d f16,  2 dmin f16,  4 scales 12 (6-bit pairs, see SubScale),  16 codes 128: four
//   lo/hi groups of 32 bytes, 64 elements each Q5_K   as Q4_K with  16 fifth bits 32 (bit s of byte
//   i: element i of sub-block s),  48 codes 128
//            x = d scale_s q - dmin min_s,  eight sub-blocks s of 32 elements
//   Q6_K   0 low bits 128,  128 high bits 64,  192 scales 16 int8,  208 d f16
//            x = d scale_(e / 16) (q - 32); each half of 128 elements has four quarters of 32:
//            element i of quarter c has its low four bits in half c / 2 of byte 32 (c % 2) + i of
//            64, and its high two at bit 2 c of byte i of 32
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/dtype.h"

namespace lserve {

// out[0, elements) = the values of `row`. REQUIRES: elements is a multiple of
// Info(type).block_elements; row holds RowBytes(type, elements) bytes, of any alignment.
void DequantizeRow(DType type, const std::byte* row, int64_t elements, float* out);

// The 6-bit scale and minimum of sub-block s in [0, 8) of a Q4_K or Q5_K block; `packed` are its 12
// scale bytes.
struct SubScale {
  int scale, min;
};
inline SubScale UnpackSubScale(const uint8_t* packed, int s) {
  if (s < 4) return {packed[s] & 63, packed[s + 4] & 63};
  return {(packed[s + 4] & 15) | (packed[s - 4] >> 6 << 4),
          (packed[s + 4] >> 4) | (packed[s] >> 6 << 4)};
}

}  // namespace lserve
