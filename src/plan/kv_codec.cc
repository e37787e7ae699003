#include "plan/kv_codec.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/dtype.h"

namespace lserve {
namespace {

size_t ElementBytes(KvType type, int dim) {
  return static_cast<size_t>(kBlockTokens) * static_cast<size_t>(dim) *
         static_cast<size_t>(KvBits(type)) / 8;
}

size_t ScaleBytes(KvType type) { return IsQuantised(type) ? 2 * KvCodec::kMinAfterScale : 0; }

// Infinities and NaN cannot be coded: they become the nearest number, or zero.
float Finite(float x) {
  if (std::isnan(x)) return 0;
  return std::clamp(x, -65504.0f, 65504.0f);
}

// The minimum goes down and the scale up, so that every value is inside the range of codes.
// REQUIRES: |x| <= 65504.
uint16_t ToF16Down(float x) {
  const uint16_t bits = ToF16(x);
  if (FromF16(bits) <= x) return bits;
  return bits & 0x8000 ? bits + 1 : bits - 1;  // bits is not +0 here: x would be negative, bits -0
}

// REQUIRES: 0 <= x <= 65504.
uint16_t ToF16Up(float x) {
  const uint16_t bits = ToF16(x);
  return FromF16(bits) < x ? bits + 1 : bits;
}

// One token of one side. `index(channel)` is the element order.
template <typename Index>
void Encode(KvType type, const float* values, int dim, int token, std::byte* elements,
            std::byte* scales, Index index) {
  if (type == KvType::kKv32) {
    for (int c = 0; c < dim; ++c) std::memcpy(elements + 4 * index(c), values + c, 4);
    return;
  }
  if (type == KvType::kKv16) {
    for (int c = 0; c < dim; ++c) {
      const uint16_t bits = ToBf16(values[c]);
      std::memcpy(elements + 2 * index(c), &bits, 2);
    }
    return;
  }
  float low = Finite(values[0]), high = low;
  for (int c = 1; c < dim; ++c) {
    low = std::min(low, Finite(values[c]));
    high = std::max(high, Finite(values[c]));
  }
  const int levels = (1 << KvBits(type)) - 1;
  // +0 and -0 are one minimum: which of them is found depends on the order of comparison.
  const uint16_t min_bits = ToF16Down(low == 0 ? 0.0f : low);
  const float m = FromF16(min_bits);
  const uint16_t scale_bits = high > low ? ToF16Up((high - m) / static_cast<float>(levels)) : 0;
  const float s = FromF16(scale_bits);
  std::memcpy(scales + 2 * token, &scale_bits, 2);
  std::memcpy(scales + KvCodec::kMinAfterScale + 2 * token, &min_bits, 2);
  const float inverse = s > 0 ? 1.0f / s : 0.0f;
  for (int c = 0; c < dim; ++c) {
    const float code = std::clamp(std::nearbyint((Finite(values[c]) - m) * inverse), 0.0f,
                                  static_cast<float>(levels));
    const int i = index(c);
    const uint8_t bits = static_cast<uint8_t>(code);
    if (type == KvType::kKv8) {
      elements[i] = std::byte{bits};
    } else {
      const int shift = 4 * (i % 2);
      elements[i / 2] = (elements[i / 2] & std::byte(0xf0 >> shift)) | std::byte(bits << shift);
    }
  }
}

template <typename Index>
void Decode(KvType type, const std::byte* elements, const std::byte* scales, int dim, int token,
            float* values, Index index) {
  if (type == KvType::kKv32) {
    for (int c = 0; c < dim; ++c) std::memcpy(values + c, elements + 4 * index(c), 4);
    return;
  }
  if (type == KvType::kKv16) {
    for (int c = 0; c < dim; ++c) {
      uint16_t bits;
      std::memcpy(&bits, elements + 2 * index(c), 2);
      values[c] = FromBf16(bits);
    }
    return;
  }
  uint16_t scale_bits, min_bits;
  std::memcpy(&scale_bits, scales + 2 * token, 2);
  std::memcpy(&min_bits, scales + KvCodec::kMinAfterScale + 2 * token, 2);
  const float s = FromF16(scale_bits), m = FromF16(min_bits);
  for (int c = 0; c < dim; ++c) {
    const int i = index(c);
    const int code = type == KvType::kKv8
                         ? static_cast<int>(elements[i])
                         : (static_cast<int>(elements[i / 2]) >> (4 * (i % 2))) & 15;
    values[c] = s * static_cast<float>(code) + m;
  }
}

}  // namespace

KvCodec::KvCodec(KvType k, KvType v, int dim) : k_(k), v_(v), dim_(dim) {
  CHECK(dim >= 2 && dim <= 256 && dim % 2 == 0);
  k_scale_ = ElementBytes(k, dim);
  v_offset_ = k_scale_ + ScaleBytes(k);
  v_scale_ = v_offset_ + ElementBytes(v, dim);
  slice_bytes_ = v_scale_ + ScaleBytes(v);
}

void KvCodec::EncodeK(const float* values, int token, std::byte* slice) const {
  Encode(k_, values, dim_, token, slice, slice + k_scale_, [&](int c) { return KIndex(token, c); });
}

void KvCodec::EncodeV(const float* values, int token, std::byte* slice) const {
  Encode(v_, values, dim_, token, slice + v_offset_, slice + v_scale_,
         [&](int c) { return VIndex(token, c); });
}

void KvCodec::DecodeK(const std::byte* slice, int token, float* values) const {
  Decode(k_, slice, slice + k_scale_, dim_, token, values, [&](int c) { return KIndex(token, c); });
}

void KvCodec::DecodeV(const std::byte* slice, int token, float* values) const {
  Decode(v_, slice + v_offset_, slice + v_scale_, dim_, token, values,
         [&](int c) { return VIndex(token, c); });
}

std::string KvCodec::name() const {
  if (k_ == v_) return fmt::format("kv{}", KvBits(k_));
  return fmt::format("k{}v{}", KvBits(k_), KvBits(v_));
}

Result<KvTypes> ParseKvTypes(const std::string& text) {
  const auto type = [](const std::string& bits) -> std::optional<KvType> {
    for (KvType t : {KvType::kKv32, KvType::kKv16, KvType::kKv8, KvType::kKv4})
      if (bits == std::to_string(KvBits(t))) return t;
    return std::nullopt;
  };
  if (text.starts_with("kv")) {
    if (const auto both = type(text.substr(2))) return KvTypes{*both, *both};
  } else if (const size_t v = text.find('v'); text.starts_with("k") && v != std::string::npos) {
    const auto k_type = type(text.substr(1, v - 1)), v_type = type(text.substr(v + 1));
    if (k_type && v_type) return KvTypes{*k_type, *v_type};
  }
  return InvalidArgument("KV type '{}': expected kv32, kv16, kv8, kv4 or two widths as in k8v4",
                         text);
}

}  // namespace lserve
