// Element types of stored tensors, and conversions of the two 16-bit floats. Block types pack
// `block_elements` consecutive elements of a row into `block_bytes` bytes, laid out as in GGUF;
// plain types are blocks of one.
#pragma once

#include <bit>
#include <cstdint>
#include <string_view>

namespace lserve {

enum class DType : uint8_t {
  kF32,
  kF16,
  kBF16,
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ8_0,
  kQ4_K,
  kQ5_K,
  kQ6_K
};

struct DTypeInfo {
  std::string_view name;  // as GGUF tools print it, e.g. "Q4_K"
  int block_elements;
  int block_bytes;
};
const DTypeInfo& Info(DType type);

// Bytes of a row of `elements`. REQUIRES: elements is a multiple of block_elements.
int64_t RowBytes(DType type, int64_t elements);

inline bool IsFloat(DType type) { return type <= DType::kBF16; }

// bfloat16 bits -> float. Exact.
inline float FromBf16(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

// float -> bfloat16 bits, to nearest even. NaN stays NaN.
inline uint16_t ToBf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
}

// float -> bfloat16 rounded towards +infinity (-infinity): the bounds of key statistics must stay
// bounds.
uint16_t ToBf16Up(float value);
uint16_t ToBf16Down(float value);

// IEEE half bits <-> float; ToF16 rounds to nearest even.
float FromF16(uint16_t bits);
uint16_t ToF16(float value);

}  // namespace lserve
