// Conversions of the 16-bit floats on the device, with the roundings of core/dtype.h and
// plan/kv_codec.cc: what is stored must be the same bytes on every backend.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace lserve::cuda {

__device__ inline float Bf16ToFloat(uint16_t bits) {
  return __uint_as_float(static_cast<uint32_t>(bits) << 16);
}
__device__ inline uint16_t FloatToBf16(float x) {
  return __bfloat16_as_ushort(__float2bfloat16_rn(x));
}
// A bf16x2 word: `low` in the low half.
__device__ inline uint32_t PackBf16(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return reinterpret_cast<const uint32_t&>(pair);
}
__device__ inline float2 UnpackBf16(uint32_t pair) {
  return {__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u)};
}
__device__ inline uint16_t FloatToBf16Down(float x) {
  return __bfloat16_as_ushort(__float2bfloat16_rd(x));
}
__device__ inline uint16_t FloatToBf16Up(float x) {
  return __bfloat16_as_ushort(__float2bfloat16_ru(x));
}
__device__ inline float F16ToFloat(uint16_t bits) { return __half2float(__ushort_as_half(bits)); }
__device__ inline uint16_t FloatToF16Down(float x) { return __half_as_ushort(__float2half_rd(x)); }
__device__ inline uint16_t FloatToF16Up(float x) { return __half_as_ushort(__float2half_ru(x)); }

}  // namespace lserve::cuda
