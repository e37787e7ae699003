// The inner product of attention and of 16-bit weights: rows of bfloat16 against a matrix of
// bfloat16 pairs, in tiles of rows x vectors that fill the registers. Included like simd.h.
#pragma once

#include "kernels/cpu/simd.h"

namespace lserve {
namespace {

constexpr int kTileRows = 6;
// Vectors of a tile beside kRows rows: 32 registers hold 6 x 4 sums, 16 hold 6 x 2; few rows take
// more vectors, so that enough independent sums hide the latency of the multiply-adds.
#if defined(__AVX512F__)
template <int kRows>
constexpr int kTileVecs = 4;
#else
template <int kRows>
constexpr int kTileVecs = kRows == 1   ? 8
                          : kRows == 2 ? 4
                                       : 2;
#endif

// acc[r][v] += x[r][0..1] . w[v][lane][0..1] for one pair of inputs; x is read at r * x_stride.
#if defined(__AVX512BF16__)
typedef uint16_t TileX;  // bfloat16
template <int kRows, int kVecs>
inline void AddPair(const TileX* x, int64_t x_stride, const int32_t* w, VecF (&acc)[kRows][kVecs]) {
  VecI b[kVecs];
  for (int v = 0; v < kVecs; ++v) b[v] = Load<VecI>(w + kLanes * v);
  for (int r = 0; r < kRows; ++r) {
    int32_t pair;
    memcpy(&pair, x + r * x_stride, 4);
    // Not _mm512_set1_epi32: clang 16 crashes on it here; the code is the same.
    const __m512bh a = (__m512bh)_mm512_broadcastd_epi32(_mm_cvtsi32_si128(pair));
    for (int v = 0; v < kVecs; ++v)
      acc[r][v] = (VecF)_mm512_dpbf16_ps((__m512)acc[r][v], a, (__m512bh)b[v]);
  }
}
#else
typedef float TileX;  // widened before, so that an input is broadcast by the load alone
template <int kRows, int kVecs>
inline void AddPair(const TileX* x, int64_t x_stride, const int32_t* w, VecF (&acc)[kRows][kVecs]) {
  // The low halves for all rows, then the high ones: 16 registers hold one set of operands.
  VecF b[kVecs];
  for (int v = 0; v < kVecs; ++v) b[v] = LowBf16(Load<VecI>(w + kLanes * v));
  for (int r = 0; r < kRows; ++r)
    for (int v = 0; v < kVecs; ++v) acc[r][v] = Fma(Splat(x[r * x_stride]), b[v], acc[r][v]);
  for (int v = 0; v < kVecs; ++v) b[v] = HighBf16(Load<VecI>(w + kLanes * v));
  for (int r = 0; r < kRows; ++r)
    for (int v = 0; v < kVecs; ++v) acc[r][v] = Fma(Splat(x[r * x_stride + 1]), b[v], acc[r][v]);
}
#endif

// c[row][kLanes * kVecs] (+)= x[row][2 * pairs] . w, w in pairs [pairs][ldw][2].
template <int kRows, int kVecs>
__attribute__((noinline)) void MicroTile(const TileX* x, int64_t x_stride, const int32_t* w,
                                         int64_t ldw, int pairs, bool accumulate, float* c,
                                         int64_t c_stride) {
  VecF acc[kRows][kVecs] = {};
  if (accumulate)
    for (int r = 0; r < kRows; ++r)
      for (int v = 0; v < kVecs; ++v) acc[r][v] = Load<VecF>(c + r * c_stride + kLanes * v);
  for (int p = 0; p < pairs; ++p) AddPair(x + 2 * p, x_stride, w + p * ldw, acc);
  for (int r = 0; r < kRows; ++r)
    for (int v = 0; v < kVecs; ++v) Store(c + r * c_stride + kLanes * v, acc[r][v]);
}

// The same for `cols` columns, a multiple of 16.
template <int kRows>
inline void TileRow(const TileX* x, int64_t x_stride, const int32_t* w, int64_t ldw, int pairs,
                    int cols, bool accumulate, float* c, int64_t c_stride) {
  constexpr int kVecs = kTileVecs<kRows>;
  int i = 0;
  for (; i + kVecs * kLanes <= cols; i += kVecs * kLanes)
    MicroTile<kRows, kVecs>(x, x_stride, w + i, ldw, pairs, accumulate, c + i, c_stride);
  for (; i < cols; i += 16)
    MicroTile<kRows, kGroupVecs>(x, x_stride, w + i, ldw, pairs, accumulate, c + i, c_stride);
}

// The same for rows of bfloat16.
template <int kRows>
inline void PairProduct(const uint16_t* x, int64_t x_stride, const int32_t* w, int64_t ldw,
                        int pairs, int cols, bool accumulate, float* c, int64_t c_stride) {
#if defined(__AVX512BF16__)
  TileRow<kRows>(x, x_stride, w, ldw, pairs, cols, accumulate, c, c_stride);
#else
  constexpr int kBlock = 256;  // inputs widened at a time
  alignas(64) float wide[kRows][kBlock];
  for (int begin = 0; begin < 2 * pairs; begin += kBlock) {
    const int left = 2 * pairs - begin, count = left < kBlock ? left : kBlock;
    for (int r = 0; r < kRows; ++r) {
      const uint16_t* from = x + r * x_stride + begin;
      int i = 0;
      for (; i + kLanes <= count; i += kLanes) Store(wide[r] + i, LoadBf16(from + i));
      for (; i < count; ++i) {
        const uint32_t bits = static_cast<uint32_t>(from[i]) << 16;
        memcpy(&wide[r][i], &bits, 4);
      }
    }
    TileRow<kRows>(wide[0], kBlock, w + begin / 2 * ldw, ldw, count / 2, cols,
                   accumulate || begin > 0, c, c_stride);
  }
#endif
}

}  // namespace
}  // namespace lserve
