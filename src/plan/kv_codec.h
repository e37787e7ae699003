// The waist, third fact: HOW a block is stored. A slice is one KV head's share of a page: the keys
// and values of 64 tokens, contiguous, so that one bulk copy fetches it:
//     K elements | K scales f16[64] | K minima f16[64]
//     V elements | V scales f16[64] | V minima f16[64]
// (scales and minima only with kv8 and kv4). K and V types are chosen apart. docs/formats.md shows
// the bytes.
//
// Quantisation is per token and head over the D channels, asymmetric, dynamic: x_hat = s * code + m
// with m = min(x), s = (max(x) - min(x)) / (2^bits - 1), rounded to f16 first, m down and s up, so
// that every x lies in the range of codes and |x_hat - x| <= s / 2; s = 0 when all values are
// equal. NaN is stored as 0 and numbers beyond f16 as +-65504.
//
// Element order. Products on tensor units and on AVX-512 take pairs along the dimension that is
// summed over: channels for K, tokens for V. So
//     K element (token t, channel c) has index ((c / 2) * 64 + t) * 2 + c % 2
//     V element (token t, channel c) has index ((t / 2) * D  + c) * 2 + t % 2
// kv32 and kv16 store element i at i * 4 and i * 2 bytes, kv8 at byte i, kv4 at byte i / 2, low
// nibble for even i.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "core/status.h"
#include "plan/attn_plan.h"

namespace lserve {

enum class KvType : uint8_t { kKv32, kKv16, kKv8, kKv4 };  // float, bfloat16, 8 and 4 bit codes

inline int KvBits(KvType type) { return 32 >> static_cast<int>(type); }
inline bool IsQuantised(KvType type) { return type >= KvType::kKv8; }

// Layout of a slice for one head dimension. Cheap to copy.
class KvCodec {
 public:
  KvCodec() = default;
  // REQUIRES: dim even, 2 .. 256.
  KvCodec(KvType k, KvType v, int dim);

  KvType k_type() const { return k_; }
  KvType v_type() const { return v_; }
  int dim() const { return dim_; }

  size_t slice_bytes() const { return slice_bytes_; }  // multiple of 64 for dim >= 16
  size_t k_scale_offset() const { return k_scale_; }   // bytes from the slice's start
  size_t v_offset() const { return v_offset_; }
  size_t v_scale_offset() const { return v_scale_; }
  static constexpr size_t kMinAfterScale = kBlockTokens * 2;  // minima follow the scales

  int KIndex(int token, int channel) const {
    return ((channel / 2) * kBlockTokens + token) * 2 + channel % 2;
  }
  int VIndex(int token, int channel) const {
    return ((token / 2) * dim_ + channel) * 2 + token % 2;
  }

  // One token's D values into / out of a slice. `token` in [0, 64). The plain definition: every
  // fast version must store the same bytes.
  void EncodeK(const float* values, int token, std::byte* slice) const;
  void EncodeV(const float* values, int token, std::byte* slice) const;
  void DecodeK(const std::byte* slice, int token, float* values) const;
  void DecodeV(const std::byte* slice, int token, float* values) const;

  // "kv8", or "k8v4" where they differ.
  std::string name() const;
  bool operator==(const KvCodec&) const = default;

 private:
  KvType k_ = KvType::kKv16, v_ = KvType::kKv16;
  int dim_ = 0;
  size_t k_scale_ = 0, v_offset_ = 0, v_scale_ = 0, slice_bytes_ = 0;
};

// "kv16", "kv8", "kv4", "kv32", "k8v4", ...; the error lists what is accepted.
struct KvTypes {
  KvType k, v;
};
Result<KvTypes> ParseKvTypes(const std::string& text);

}  // namespace lserve
