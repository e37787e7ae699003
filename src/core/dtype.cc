#include "core/dtype.h"

#include <cmath>

#include "core/check.h"

namespace lserve {

const DTypeInfo& Info(DType type) {
  static constexpr DTypeInfo kInfo[] = {
      {"F32", 1, 4},      {"F16", 1, 2},      {"BF16", 1, 2},     {"Q4_0", 32, 18},
      {"Q4_1", 32, 20},   {"Q5_0", 32, 22},   {"Q5_1", 32, 24},   {"Q8_0", 32, 34},
      {"Q4_K", 256, 144}, {"Q5_K", 256, 176}, {"Q6_K", 256, 210},
  };
  return kInfo[static_cast<int>(type)];
}

int64_t RowBytes(DType type, int64_t elements) {
  const DTypeInfo& info = Info(type);
  CHECK(elements % info.block_elements == 0);
  return elements / info.block_elements * info.block_bytes;
}

uint16_t ToBf16Up(float value) {
  const uint16_t nearest = ToBf16(value);
  const float back = FromBf16(nearest);
  if (!(back < value)) return nearest;
  // The next larger bfloat16: away from zero for positive values, towards it for negative ones.
  if (back == 0.0f) return 0x0001;
  return back > 0 ? nearest + 1 : nearest - 1;
}

uint16_t ToBf16Down(float value) { return ToBf16Up(-value) ^ 0x8000; }

float FromF16(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16;
  const uint32_t magnitude = bits & 0x7fff;
  if (magnitude >= 0x7c00)
    return std::bit_cast<float>(sign | 0x7f800000u | ((magnitude & 0x3ff) << 13));
  if (magnitude < 0x0400) {  // zero and subnormals: magnitude * 2^-24
    const float value = static_cast<float>(magnitude) * 0x1p-24f;
    return sign ? -value : value;
  }
  return std::bit_cast<float>(sign | ((magnitude << 13) + 0x38000000u));
}

uint16_t ToF16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return sign | 0x7e00;
  if (magnitude >= 0x47800000u) return sign | 0x7c00;  // 65536 and above
  if (magnitude < 0x38800000u) {  // below 2^-14: subnormal, exact scaling and one rounding
    const float scaled = std::bit_cast<float>(magnitude) * 0x1p24f;
    return sign | static_cast<uint16_t>(std::nearbyint(scaled));
  }
  const uint32_t rounded = magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1);
  return sign | static_cast<uint16_t>(rounded >> 13);
}

}  // namespace lserve
