// Sixteen-lane vectors for the CPU kernels, on the compiler's vector extension, so that one source
// serves AVX-512, AVX2 and NEON; the products that an instruction set has special instructions for
// (bfloat16 pairs, 8-bit quads) are the only intrinsics. Included only by kernel files that are
// compiled once an instruction set (isa.h): everything here is static, because an inline function
// shared between instruction sets could be linked in the wrong version. For the same reason those
// files use no std templates.
#pragma once

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace lserve {
namespace {

constexpr int kLanes = 16;
typedef float VecF __attribute__((vector_size(64)));
typedef int32_t VecI __attribute__((vector_size(64)));
typedef uint32_t VecU __attribute__((vector_size(64)));

template <typename V>
inline V Load(const void* p) {
  V v;
  memcpy(&v, p, sizeof(V));
  return v;
}
template <typename V>
inline void Store(void* p, V v) {
  memcpy(p, &v, sizeof(V));
}
inline VecF Splat(float x) { return VecF{} + x; }
inline VecI SplatI(int32_t x) { return VecI{} + x; }
inline VecI Lanes() { return VecI{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}; }
inline VecF ToFloat(VecI x) { return __builtin_convertvector(x, VecF); }
inline VecF AsFloat(VecI x) { return reinterpret_cast<VecF>(x); }
inline VecI AsInt(VecF x) { return reinterpret_cast<VecI>(x); }
// mask lanes are 0 or -1, as comparisons give them.
inline VecF Pick(VecI mask, VecF yes, VecF no) {
  return AsFloat((mask & AsInt(yes)) | (~mask & AsInt(no)));
}
inline VecF Max(VecF a, VecF b) { return Pick(a > b, a, b); }

// a * b + c with one rounding where the machine has it; the same expression everywhere, so that a
// row's result does not depend on which kernel variant made it.
inline VecF Fma(VecF a, VecF b, VecF c) {
#if defined(__AVX512F__)
  return (VecF)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#else
  return a * b + c;
#endif
}

inline float ReduceMax(VecF v) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_ps((__m512)v);
#else
  float best = v[0];
  for (int i = 1; i < kLanes; ++i) best = v[i] > best ? v[i] : best;
  return best;
#endif
}

// Fixed order: halves are added together until one is left.
inline float ReduceAdd(VecF v) {
  float lane[16];
  Store(lane, v);
  for (int half = 8; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) lane[i] += lane[i + half];
  return lane[0];
}

// 16 half floats -> float.
inline VecF LoadF16(const uint16_t* p) {
#if defined(__AVX512F__)
  return (VecF)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(__F16C__)
  VecF out;
  const __m256 low = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  const __m256 high = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p) + 1));
  memcpy(&out, &low, 32);
  memcpy(reinterpret_cast<char*>(&out) + 32, &high, 32);
  return out;
#else
  // Exponent and mantissa moved into place and scaled by 2^112: exact for normal and subnormal
  // halves; infinities and NaN do not occur in scales.
  VecF out;
  for (int i = 0; i < kLanes; ++i) {
    const uint32_t bits =
        (static_cast<uint32_t>(p[i] & 0x8000) << 16) | (static_cast<uint32_t>(p[i] & 0x7fff) << 13);
    float value;
    memcpy(&value, &bits, 4);
    out[i] = value * 0x1p112f;
  }
  return out;
#endif
}

// The low and the high bfloat16 of each 32-bit lane.
inline VecF LowBf16(VecI pairs) { return AsFloat(pairs << 16); }
inline VecF HighBf16(VecI pairs) { return AsFloat(pairs & static_cast<int32_t>(0xffff0000)); }

// 16 floats -> bfloat16 bits in the low half of each lane, to nearest even.
inline VecI RoundBf16(VecF v) {
  const VecI bits = AsInt(v);
  return reinterpret_cast<VecI>(reinterpret_cast<VecU>(bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
inline VecI PackBf16(VecF low, VecF high) { return RoundBf16(low) | (RoundBf16(high) << 16); }
inline void StoreBf16(uint16_t* p, VecF v) {
#if defined(__AVX512BF16__)
  const __m256bh out = _mm512_cvtneps_pbh((__m512)v);
  memcpy(p, &out, 32);
#else
  const VecI bits = RoundBf16(v);
  for (int i = 0; i < kLanes; ++i) p[i] = static_cast<uint16_t>(bits[i]);
#endif
}
inline VecF LoadBf16(const uint16_t* p) {
#if defined(__AVX512F__)
  return AsFloat(
      (VecI)_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))) << 16);
#else
  VecI bits;
  for (int i = 0; i < kLanes; ++i)
    bits[i] = static_cast<int32_t>(static_cast<uint32_t>(p[i]) << 16);
  return AsFloat(bits);
#endif
}

// acc + a.low * b.low + a.high * b.high over pairs of bfloat16; `a` is one pair for all lanes.
inline VecF DotBf16(VecF acc, int32_t a, VecI b) {
#if defined(__AVX512BF16__)
  // Not _mm512_set1_epi32: clang 16 crashes on it here; the code is the same.
  const __m512bh pair = (__m512bh)_mm512_broadcastd_epi32(_mm_cvtsi32_si128(a));
  return (VecF)_mm512_dpbf16_ps((__m512)acc, pair, (__m512bh)b);
#else
  const VecI pair = SplatI(a);
  return Fma(HighBf16(pair), HighBf16(b), Fma(LowBf16(pair), LowBf16(b), acc));
#endif
}

// acc + sum of four products: unsigned bytes `codes` (64) times one quad of signed bytes for all
// lanes.
inline VecI DotU8S8(VecI acc, const uint8_t* codes, int32_t quad) {
#if defined(__AVX512VNNI__)
  return (VecI)_mm512_dpbusd_epi32((__m512i)acc, _mm512_loadu_si512(codes),
                                   _mm512_set1_epi32(quad));
#elif defined(__AVX2__)
  // Even and odd bytes apart: products of one byte with one byte fit 16 bits, so nothing saturates.
  const __m256i even_mask = _mm256_set1_epi16(0x00ff);
  const __m256i q = _mm256_set1_epi32(quad);
  const __m256i q_even = _mm256_srai_epi16(_mm256_slli_epi16(q, 8), 8),
                q_odd = _mm256_srai_epi16(q, 8);
  VecI out = acc;
  for (int half = 0; half < 2; ++half) {
    const __m256i c = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes + 32 * half));
    const __m256i even = _mm256_madd_epi16(_mm256_and_si256(c, even_mask), q_even);
    const __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(c, 8), q_odd);
    __m256i sum;
    memcpy(&sum, reinterpret_cast<char*>(&out) + 32 * half, 32);
    sum = _mm256_add_epi32(sum, _mm256_add_epi32(even, odd));
    memcpy(reinterpret_cast<char*>(&out) + 32 * half, &sum, 32);
  }
  return out;
#else
  int8_t q[4];
  memcpy(q, &quad, 4);
  for (int i = 0; i < kLanes; ++i)
    acc[i] += codes[4 * i] * q[0] + codes[4 * i + 1] * q[1] + codes[4 * i + 2] * q[2] +
              codes[4 * i + 3] * q[3];
  return acc;
#endif
}

// 2^x for x <= 127, exactly 0 below -126 and for -infinity. Relative error below 2e-7 (degree-6
// Taylor-like minimax on [-0.5, 0.5]).
inline VecF Exp2(VecF x) {
  const VecI tiny = x < -126.0f;
  x = Pick(tiny, Splat(-126.0f), x);
  const VecF magic = Splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const VecF shifted = x + magic;
  const VecI n = AsInt(shifted) - AsInt(magic);
  const VecF f = x - (shifted - magic);
  VecF p = Splat(1.5403530393381609954e-4f);
  p = Fma(p, f, Splat(1.3333558146428443e-3f));
  p = Fma(p, f, Splat(9.6181291076284772e-3f));
  p = Fma(p, f, Splat(5.5504108664821580e-2f));
  p = Fma(p, f, Splat(2.4022650695910071e-1f));
  p = Fma(p, f, Splat(6.9314718055994531e-1f));
  p = Fma(p, f, Splat(1.0f));
  return Pick(tiny, VecF{}, AsFloat(AsInt(p) + (n << 23)));
}

}  // namespace
}  // namespace lserve
