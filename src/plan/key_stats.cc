#include "plan/key_stats.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/dtype.h"

namespace lserve {
namespace {

constexpr int kMaxDim = 256;            // KvCodec's
constexpr float kMostCoded = 0x1p126f;  // larger bounds count as this: a range must be a number

// A side's record in 8 bits.
struct Side {
  uint8_t* codes;       // [D]
  uint16_t* scale_min;  // [2]
};

Side SideOf(const KeyStats& layout, int page, int side, uint16_t* stats) {
  const int record = 2 * page + side;
  uint8_t* codes = reinterpret_cast<uint8_t*>(stats);
  return {codes + record * layout.dim, stats + layout.pages_per_block() * layout.dim + 2 * record};
}

// Codes of minima round down, of maxima up.
void EncodeSide(const float* bounds, int dim, bool up, Side side) {
  float x[kMaxDim] = {};
  for (int c = 0; c < dim; ++c) x[c] = std::clamp(bounds[c], -kMostCoded, kMostCoded);
  const float least = *std::min_element(x, x + dim), most = *std::max_element(x, x + dim);
  // +0 and -0 are one minimum: which of them is found depends on the order of comparison.
  const uint16_t min_bits = ToBf16Down(least == 0 ? 0.0f : least);
  const float m = FromBf16(min_bits);
  uint16_t scale_bits = most > m ? ToBf16Up((most - m) / 255.0f) : 0;
  // Their quotient was rounded to nearest before it was rounded up.
  if (FromBf16(scale_bits) * 255.0f + m < most) ++scale_bits;
  const float s = FromBf16(scale_bits);
  side.scale_min[0] = scale_bits;
  side.scale_min[1] = min_bits;
  for (int c = 0; c < dim; ++c) {
    // By rounded arithmetic; then outward until it is, which code 0 of minima and 255 of maxima
    // are. A code times a scale is exact, so a fused multiply changes nothing.
    const float exact = s > 0 ? (x[c] - m) / s : 0.0f;
    float code = std::clamp(up ? std::ceil(exact) : std::floor(exact), 0.0f, 255.0f);
    while (up ? s * code + m < x[c] : s * code + m > x[c]) code += up ? 1.0f : -1.0f;
    side.codes[c] = static_cast<uint8_t>(code);
  }
}

}  // namespace

size_t KeyStats::slice_bytes() const {
  const size_t sides = 2 * static_cast<size_t>(pages_per_block()), d = static_cast<size_t>(dim);
  if (bits == 16) return sides * d * 2;
  return (sides * (d + 4) + 31) / 32 * 32;
}

void KeyStats::Store(const KvCodec& codec, const std::byte* slice, int page,
                     uint16_t* stats) const {
  float key[kMaxDim], low[kMaxDim], high[kMaxDim];
  std::fill_n(low, dim, std::numeric_limits<float>::infinity());
  std::fill_n(high, dim, -std::numeric_limits<float>::infinity());
  for (int t = page * logical_tokens; t < (page + 1) * logical_tokens; ++t) {
    codec.DecodeK(slice, t, key);
    for (int c = 0; c < dim; ++c) {
      if (key[c] < low[c]) low[c] = key[c];
      if (key[c] > high[c]) high[c] = key[c];
    }
  }
  Encode(low, high, page, stats);
}

void KeyStats::Encode(const float* low, const float* high, int page, uint16_t* stats) const {
  if (bits == 8) {
    EncodeSide(low, dim, false, SideOf(*this, page, 0, stats));
    EncodeSide(high, dim, true, SideOf(*this, page, 1, stats));
    return;
  }
  uint16_t* out = stats + page * 2 * dim;
  for (int c = 0; c < dim; ++c) {
    out[c] = ToBf16Down(low[c]);
    out[dim + c] = ToBf16Up(high[c]);
  }
}

void KeyStats::Decode(const uint16_t* stats, int page, float* low, float* high) const {
  for (int upper : {0, 1}) {
    float* out = upper ? high : low;
    if (bits == 8) {
      const Side side = SideOf(*this, page, upper, const_cast<uint16_t*>(stats));
      const float s = FromBf16(side.scale_min[0]), m = FromBf16(side.scale_min[1]);
      for (int c = 0; c < dim; ++c) out[c] = s * static_cast<float>(side.codes[c]) + m;
    } else {
      const uint16_t* from = stats + (2 * page + upper) * dim;
      for (int c = 0; c < dim; ++c) out[c] = FromBf16(from[c]);
    }
  }
}

}  // namespace lserve
