// Vectors of one register for the CPU kernels, on the compiler's vector extension, so that one
// source serves AVX-512, AVX2 and NEON; intrinsics are for what the extension does not express or
// compiles badly (wider vectors than the registers are among that: they go through the stack).
// Included only by kernel files that are compiled once an instruction set (isa.h): everything here
// is static, because an inline function shared between instruction sets could be linked in the
// wrong version. For the same reason those files use no std templates.
#pragma once

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace lserve {
namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif
typedef float VecF __attribute__((vector_size(4 * kLanes)));
typedef int32_t VecI __attribute__((vector_size(4 * kLanes)));
typedef uint32_t VecU __attribute__((vector_size(4 * kLanes)));
// The memory layouts are in groups of 16 (packed_weight.h, kv_codec.h): registers a group.
constexpr int kGroupVecs = 16 / kLanes;

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
// Not VecF{} + x, which is an addition where x may be -0.
inline VecF Splat(float x) {
#if defined(__AVX512F__)
  return (VecF)_mm512_set1_ps(x);
#elif defined(__AVX2__)
  return (VecF)_mm256_set1_ps(x);
#else
  return VecF{x, x, x, x};
#endif
}
inline VecI SplatI(int32_t x) { return VecI{} + x; }
inline VecI Lanes() {
  VecI lanes{};
  for (int i = 0; i < kLanes; ++i) lanes[i] = i;
  return lanes;
}
inline VecF ToFloat(VecI x) { return __builtin_convertvector(x, VecF); }
inline VecF AsFloat(VecI x) { return reinterpret_cast<VecF>(x); }
inline VecI AsInt(VecF x) { return reinterpret_cast<VecI>(x); }

// mask lanes are 0 or -1, as comparisons give them.
inline VecF Pick(VecI mask, VecF yes, VecF no) {
#if defined(__AVX2__) && !defined(__AVX512F__)
  return (VecF)_mm256_blendv_ps((__m256)no, (__m256)yes, (__m256)mask);
#else
  return AsFloat((mask & AsInt(yes)) | (~mask & AsInt(no)));
#endif
}

// a where it is greater, else b.
inline VecF Max(VecF a, VecF b) {
#if defined(__AVX512F__)
  return (VecF)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
  return (VecF)_mm256_max_ps((__m256)a, (__m256)b);
#else
  return Pick(a > b, a, b);
#endif
}

// a * b + c with one rounding where the machine has it; the same expression everywhere, so that a
// row's result does not depend on which kernel variant made it.
inline VecF Fma(VecF a, VecF b, VecF c) {
#if defined(__AVX512F__)
  return (VecF)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__) && defined(__FMA__)
  return (VecF)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
  return a * b + c;
#endif
}

inline float ReduceMax(VecF v) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_ps((__m512)v);
#elif defined(__AVX2__)
  __m128 x = _mm_max_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
  x = _mm_max_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
#else
  float best = v[0];
  for (int i = 1; i < kLanes; ++i) best = v[i] > best ? v[i] : best;
  return best;
#endif
}

// Fixed order: halves are added together until one is left.
inline float ReduceAdd(VecF v) {
#if defined(__AVX2__) && !defined(__AVX512F__)
  __m128 x = _mm_add_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
  x = _mm_add_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
#else
  float lane[kLanes];
  Store(lane, v);
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) lane[i] += lane[i + half];
  return lane[0];
#endif
}

// kLanes half floats -> float.
inline VecF LoadF16(const uint16_t* p) {
#if defined(__AVX512F__)
  return (VecF)_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(__AVX2__) && defined(__F16C__)
  return (VecF)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
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

// kLanes unsigned bytes or words -> integers.
inline VecI LoadU8(const uint8_t* p) {
#if defined(__AVX512F__)
  return (VecI)_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#elif defined(__AVX2__)
  return (VecI)_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
#else
  VecI out;
  for (int i = 0; i < kLanes; ++i) out[i] = p[i];
  return out;
#endif
}
inline VecI LoadU16(const void* p) {
#if defined(__AVX512F__)
  return (VecI)_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(__AVX2__)
  return (VecI)_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#else
  uint16_t words[kLanes];
  memcpy(words, p, sizeof(words));
  VecI out;
  for (int i = 0; i < kLanes; ++i) out[i] = words[i];
  return out;
#endif
}

// The low and the high bfloat16 of each 32-bit lane.
inline VecF LowBf16(VecI pairs) { return AsFloat(pairs << 16); }
inline VecF HighBf16(VecI pairs) { return AsFloat(pairs & static_cast<int32_t>(0xffff0000)); }

// Floats -> bfloat16 bits in the low half of each lane, to nearest even.
inline VecI RoundBf16(VecF v) {
  const VecI bits = AsInt(v);
  return reinterpret_cast<VecI>(reinterpret_cast<VecU>(bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
inline VecI PackBf16(VecF low, VecF high) { return RoundBf16(low) | (RoundBf16(high) << 16); }
inline void StoreBf16(uint16_t* p, VecF v) {
#if defined(__AVX512BF16__)
  const __m256bh out = _mm512_cvtneps_pbh((__m512)v);
  memcpy(p, &out, 32);
#elif defined(__AVX2__)
  const __m256i bits = (__m256i)RoundBf16(v);
  const __m256i words = _mm256_packus_epi32(bits, bits);  // within each half
  Store(p, _mm256_castsi256_si128(_mm256_permute4x64_epi64(words, 0x08)));
#else
  const VecI bits = RoundBf16(v);
  for (int i = 0; i < kLanes; ++i) p[i] = static_cast<uint16_t>(bits[i]);
#endif
}
inline VecF LoadBf16(const uint16_t* p) { return AsFloat(LoadU16(p) << 16); }

// acc + sum of four products: unsigned bytes `codes` (4 * kLanes) below 2^kBits times one quad of
// signed bytes for all lanes.
template <int kBits>
inline VecI DotU8S8(VecI acc, const uint8_t* codes, int32_t quad) {
#if defined(__AVX512VNNI__)
  return (VecI)_mm512_dpbusd_epi32((__m512i)acc, _mm512_loadu_si512(codes),
                                   _mm512_set1_epi32(quad));
#elif defined(__AVX2__)
  const __m256i c = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes));
  const __m256i q = _mm256_set1_epi32(quad);
  if constexpr (kBits < 8) {  // two products below 2^15 together: no saturation
    const __m256i words = _mm256_maddubs_epi16(c, q);
    return acc + (VecI)_mm256_madd_epi16(words, _mm256_set1_epi16(1));
  } else {
    // Even and odd bytes apart: products of one byte with one byte fit 16 bits.
    const __m256i q_even = _mm256_srai_epi16(_mm256_slli_epi16(q, 8), 8);
    const __m256i q_odd = _mm256_srai_epi16(q, 8);
    const __m256i even = _mm256_and_si256(c, _mm256_set1_epi16(0x00ff));
    const __m256i odd = _mm256_srli_epi16(c, 8);
    return acc + (VecI)_mm256_madd_epi16(even, q_even) + (VecI)_mm256_madd_epi16(odd, q_odd);
  }
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
