// 8- and 4-bit codes of K and V (plan/kv_codec.h) to bf16 pairs, for products on tensor units. The
// codes come out less a bias, which a factor of the token's scale and the sum of the other operand
// puts back.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

namespace lserve::cuda {

__device__ __forceinline__ uint32_t SubBf16(uint32_t a, uint32_t b) {
  const __nv_bfloat162 d = __hsub2(reinterpret_cast<const __nv_bfloat162&>(a),
                                   reinterpret_cast<const __nv_bfloat162&>(b));
  return reinterpret_cast<const uint32_t&>(d);
}

// Bytes 0, 1 of a word -> low, bytes 2, 3 -> high; less 128. With h the byte's highest bit, the
// rest r: 128 + r and 128 + 128 (1 - h) are bf16 by or-ing bits into 128.0, their difference is
// r + 128 h - 128.
__device__ __forceinline__ void Expand8(uint32_t bytes, uint32_t* low, uint32_t* high) {
  const uint32_t x = __byte_perm(bytes, 0x43434343, 0x4140);
  const uint32_t y = __byte_perm(bytes, 0x43434343, 0x4342);
  *low = SubBf16(x & 0xff7fff7f, (x ^ 0x00800080) & 0xff80ff80);
  *high = SubBf16(y & 0xff7fff7f, (y ^ 0x00800080) & 0xff80ff80);
}

// Byte j of both words -> out[j][0] = (low nibble of a, of b), out[j][1] = high nibbles; less 8, or
// for keys more 128: what needs no subtraction costs one instruction less a pair. (For values it
// would not do: sums of weights grow over a whole list, and 128 times their rounding with them.)
template <bool kKeys>
__device__ __forceinline__ void Expand4(uint32_t a, uint32_t b, uint32_t (&out)[4][2]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const uint32_t x = __byte_perm(a, b, half == 0 ? 0x5410 : 0x7632);
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      const uint32_t y = ((x >> (4 * n)) & 0x000f000f) | 0x43004300;
      out[2 * half + n / 2][n % 2] = kKeys ? y : SubBf16(y, 0x43084308);  // 136
    }
  }
}

// The bias of a code, see above.
template <int kBits, bool kKeys>
constexpr float kBias = kBits == 8 ? 128.0f
                        : kKeys    ? -128.0f
                                   : 8.0f;

}  // namespace lserve::cuda
