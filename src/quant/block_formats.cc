#include "quant/block_formats.h"

#include <cstring>

#include "core/check.h"

namespace lserve {
namespace {

template <typename T>
T Load(const uint8_t* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}
float LoadF16(const uint8_t* from) { return FromF16(Load<uint16_t>(from)); }

// Code i in [0, 2n) of a lo/hi array of n bytes.
int Nibble(const uint8_t* codes, int n, int i) { return i < n ? codes[i] & 15 : codes[i - n] >> 4; }

void Q4_0(const uint8_t* block, float* out) {
  const float d = LoadF16(block);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(Nibble(block + 2, 16, i) - 8);
}

void Q4_1(const uint8_t* block, float* out) {
  const float d = LoadF16(block), m = LoadF16(block + 2);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(Nibble(block + 4, 16, i)) + m;
}

int FiveBits(const uint8_t* fifth, const uint8_t* codes, int i) {
  return Nibble(codes, 16, i) | (fifth[i / 8] >> (i % 8) & 1) << 4;
}

void Q5_0(const uint8_t* block, float* out) {
  const float d = LoadF16(block);
  for (int i = 0; i < 32; ++i)
    out[i] = d * static_cast<float>(FiveBits(block + 2, block + 6, i) - 16);
}

void Q5_1(const uint8_t* block, float* out) {
  const float d = LoadF16(block), m = LoadF16(block + 2);
  for (int i = 0; i < 32; ++i)
    out[i] = d * static_cast<float>(FiveBits(block + 4, block + 8, i)) + m;
}

void Q8_0(const uint8_t* block, float* out) {
  const float d = LoadF16(block);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(static_cast<int8_t>(block[2 + i]));
}

// Q4_K and Q5_K; `fifth` is null for Q4_K.
void KBlock(const uint8_t* block, const uint8_t* fifth, const uint8_t* codes, float* out) {
  const float d = LoadF16(block), dmin = LoadF16(block + 2);
  for (int s = 0; s < 8; ++s) {
    const SubScale sub = UnpackSubScale(block + 4, s);
    const float scale = d * static_cast<float>(sub.scale), min = dmin * static_cast<float>(sub.min);
    for (int i = 0; i < 32; ++i) {
      int q = Nibble(codes + s / 2 * 32, 32, s % 2 * 32 + i);
      if (fifth) q |= (fifth[i] >> s & 1) << 4;
      out[s * 32 + i] = scale * static_cast<float>(q) - min;
    }
  }
}
void Q4_K(const uint8_t* block, float* out) { KBlock(block, nullptr, block + 16, out); }
void Q5_K(const uint8_t* block, float* out) { KBlock(block, block + 16, block + 48, out); }

void Q6_K(const uint8_t* block, float* out) {
  const float d = LoadF16(block + 208);
  for (int e = 0; e < 256; ++e) {
    const int half = e / 128, quarter = e % 128 / 32, i = e % 32;
    const int low = Nibble(block + half * 64, 64, quarter * 32 + i);
    const int high = block[128 + half * 32 + i] >> (2 * quarter) & 3;
    const float scale = d * static_cast<float>(static_cast<int8_t>(block[192 + e / 16]));
    out[e] = scale * static_cast<float>((low | high << 4) - 32);
  }
}

template <void (*kBlock)(const uint8_t*, float*)>
void Blocks(DType type, const uint8_t* row, int64_t elements, float* out) {
  const DTypeInfo& info = Info(type);
  for (int64_t i = 0; i < elements; i += info.block_elements, row += info.block_bytes)
    kBlock(row, out + i);
}

}  // namespace

void DequantizeRow(DType type, const std::byte* row, int64_t elements, float* out) {
  CHECK(elements % Info(type).block_elements == 0);
  const uint8_t* bytes = reinterpret_cast<const uint8_t*>(row);
  switch (type) {
    case DType::kF32:
      if (elements > 0) std::memcpy(out, bytes, static_cast<size_t>(elements) * sizeof(float));
      return;
    case DType::kF16:
      for (int64_t i = 0; i < elements; ++i) out[i] = LoadF16(bytes + 2 * i);
      return;
    case DType::kBF16:
      for (int64_t i = 0; i < elements; ++i) out[i] = FromBf16(Load<uint16_t>(bytes + 2 * i));
      return;
    case DType::kQ4_0:
      return Blocks<Q4_0>(type, bytes, elements, out);
    case DType::kQ4_1:
      return Blocks<Q4_1>(type, bytes, elements, out);
    case DType::kQ5_0:
      return Blocks<Q5_0>(type, bytes, elements, out);
    case DType::kQ5_1:
      return Blocks<Q5_1>(type, bytes, elements, out);
    case DType::kQ8_0:
      return Blocks<Q8_0>(type, bytes, elements, out);
    case DType::kQ4_K:
      return Blocks<Q4_K>(type, bytes, elements, out);
    case DType::kQ5_K:
      return Blocks<Q5_K>(type, bytes, elements, out);
    case DType::kQ6_K:
      return Blocks<Q6_K>(type, bytes, elements, out);
  }
}

}  // namespace lserve
