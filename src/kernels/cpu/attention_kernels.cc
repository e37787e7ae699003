// The inner parts of attention: one block of 64 keys against the rows of a tile, codes to bfloat16,
// and box scores. Compiled once an instruction set.
#include "kernels/cpu/isa.h"
#include "kernels/cpu/simd.h"

namespace lserve {
namespace {

// c[row][16 * kVecs] (+)= a[row][2 * pairs] x b, b in pairs [pairs][ldb][2]. Both products of
// attention have this form: q x K sums over channels, p x V over tokens.
template <int kRows, int kVecs, bool kAccumulate>
inline void MicroPairs(const uint16_t* a, int64_t a_stride, const int32_t* b, int64_t ldb,
                       int pairs, float* c, int64_t c_stride) {
  VecF acc[kRows][kVecs];
  for (int r = 0; r < kRows; ++r)
    for (int v = 0; v < kVecs; ++v)
      acc[r][v] = kAccumulate ? Load<VecF>(c + r * c_stride + 16 * v) : VecF{};
  for (int p = 0; p < pairs; ++p) {
    VecI w[kVecs];
    for (int v = 0; v < kVecs; ++v) w[v] = Load<VecI>(b + p * ldb + 16 * v);
    for (int r = 0; r < kRows; ++r) {
      int32_t pair;
      memcpy(&pair, a + r * a_stride + 2 * p, 4);
      for (int v = 0; v < kVecs; ++v) acc[r][v] = DotBf16(acc[r][v], pair, w[v]);
    }
  }
  for (int r = 0; r < kRows; ++r)
    for (int v = 0; v < kVecs; ++v) Store(c + r * c_stride + 16 * v, acc[r][v]);
}

constexpr int kRowChunk = 6;

template <int kRows>
inline void RowChunk(const AttnBlockArgs& a, int row) {
  alignas(64) float s[kRows][64];
  alignas(64) uint16_t p[kRows][64];
  const int64_t dim = a.dim;
  MicroPairs<kRows, 4, false>(a.q + row * dim, dim, reinterpret_cast<const int32_t*>(a.k), 64,
                              a.dim / 2, s[0], 64);
  const VecF minus_infinity = Splat(-__builtin_inff());
  for (int r = 0; r < kRows; ++r) {
    VecF x[4];
    for (int v = 0; v < 4; ++v) x[v] = Load<VecF>(s[r] + 16 * v) * Splat(a.scale_log2);
    if (a.masked) {
      const int q_pos = a.q_pos + (row + r) / a.group;
      for (int v = 0; v < 4; ++v) {
        const VecI k_pos = Lanes() + (a.k_pos + 16 * v);
        const VecI visible =
            (k_pos <= q_pos) & ((k_pos < a.sink_len) | (k_pos > q_pos - a.window_len));
        x[v] = Pick(visible, x[v], minus_infinity);
      }
    }
    const float old_max = a.max[row + r];
    const float block_max = ReduceMax(Max(Max(x[0], x[1]), Max(x[2], x[3])));
    const float max = block_max > old_max ? block_max : old_max;
    if (max == -__builtin_inff()) {  // nothing visible so far: exact no-op
      memset(p[r], 0, sizeof(p[r]));
      continue;
    }
    VecF sum{};
    for (int v = 0; v < 4; ++v) {
      const VecF e = Exp2(x[v] - Splat(max));
      sum = sum + e;
      StoreBf16(p[r] + 16 * v, e);
    }
    float* out = a.out + (row + r) * dim;
    if (max != old_max) {
      const float shrink = Exp2(Splat(old_max - max))[0];
      a.sum[row + r] *= shrink;
      for (int i = 0; i < a.dim; i += kLanes) Store(out + i, Load<VecF>(out + i) * Splat(shrink));
      a.max[row + r] = max;
    }
    a.sum[row + r] += ReduceAdd(sum);
  }
  const int32_t* v = reinterpret_cast<const int32_t*>(a.v);
  float* out = a.out + row * dim;
  int c = 0;
  for (; c + 64 <= a.dim; c += 64)
    MicroPairs<kRows, 4, true>(p[0], 64, v + c, dim, 32, out + c, dim);
  for (; c < a.dim; c += 16) MicroPairs<kRows, 1, true>(p[0], 64, v + c, dim, 32, out + c, dim);
}

void AttnBlock(const AttnBlockArgs& a) {
  int row = 0;
  for (; a.rows - row >= kRowChunk; row += kRowChunk) RowChunk<kRowChunk>(a, row);
  switch (a.rows - row) {
    case 5:
      RowChunk<5>(a, row);
      break;
    case 4:
      RowChunk<4>(a, row);
      break;
    case 3:
      RowChunk<3>(a, row);
      break;
    case 2:
      RowChunk<2>(a, row);
      break;
    case 1:
      RowChunk<1>(a, row);
      break;
    default:
      break;
  }
}

// 16 pairs of codes, one pair a lane.
template <int kBits>
inline VecI LoadCodePairs(const uint8_t* p) {
  if constexpr (kBits == 8) {
    typedef uint16_t Words __attribute__((vector_size(32)));
    return __builtin_convertvector(Load<Words>(p), VecI);
  } else {
    typedef uint8_t Bytes __attribute__((vector_size(16)));
    return __builtin_convertvector(Load<Bytes>(p), VecI);
  }
}

template <int kBits>
void DecodeSlice(const DecodeSliceArgs& a) {
  constexpr int kMask = (1 << kBits) - 1, kPairBytes = kBits / 4;
  alignas(64) float scale[64], min[64];
  for (int t = 0; t < 64; t += kLanes) {
    Store(scale + t, LoadF16(a.scale + t));
    Store(min + t, LoadF16(a.min + t));
  }
  const int inner = a.keys ? 64 : a.dim;  // lanes run over tokens or over channels
  const int outer = a.keys ? a.dim / 2 : 32;
  for (int o = 0; o < outer; ++o)
    for (int i = 0; i < inner; i += kLanes) {
      const int64_t pair = static_cast<int64_t>(o) * inner + i;
      const VecI codes = LoadCodePairs<kBits>(a.codes + pair * kPairBytes);
      const VecF low = ToFloat(codes & kMask), high = ToFloat(codes >> kBits);
      VecF x, y;
      if (a.keys) {
        const VecF s = Load<VecF>(scale + i), m = Load<VecF>(min + i);
        x = Fma(low, s, m);
        y = Fma(high, s, m);
      } else {
        x = Fma(low, Splat(scale[2 * o]), Splat(min[2 * o]));
        y = Fma(high, Splat(scale[2 * o + 1]), Splat(min[2 * o + 1]));
      }
      Store(a.out + 2 * pair, PackBf16(x, y));
    }
}

void DecodeSliceAny(const DecodeSliceArgs& a) {
  a.bits == 8 ? DecodeSlice<8>(a) : DecodeSlice<4>(a);
}

template <int kRows>
inline void BestKeysOf(const uint16_t* q, const int32_t* k, int dim, int reach, float* best,
                       float* tail) {
  alignas(64) float s[kRows][64];
  MicroPairs<kRows, 4, false>(q, dim, k, 64, dim / 2, s[0], 64);
  for (int r = 0; r < kRows; ++r) {
    best[r] = ReduceMax(Max(Max(Load<VecF>(s[r]), Load<VecF>(s[r] + 16)),
                            Max(Load<VecF>(s[r] + 32), Load<VecF>(s[r] + 48))));
    tail[r] = -__builtin_inff();
    for (int t = 64 - reach; t < 64; ++t) tail[r] = s[r][t] > tail[r] ? s[r][t] : tail[r];
  }
}

void BestKeys(const uint16_t* q, const uint16_t* k, int rows, int dim, int reach, float* best,
              float* tail) {
  const int32_t* pairs = reinterpret_cast<const int32_t*>(k);
  int row = 0;
  for (; rows - row >= 4; row += 4)
    BestKeysOf<4>(q + row * dim, pairs, dim, reach, best + row, tail + row);
  for (; row < rows; ++row) BestKeysOf<1>(q + row * dim, pairs, dim, reach, best + row, tail + row);
}

void BoxScores(const float* q, const uint16_t* stats, int pages, int dim, float* scores) {
  for (int l = 0; l < pages; ++l, stats += 2 * dim) {
    VecF sum{};
    int i = 0;
    for (; i + kLanes <= dim; i += kLanes) {
      const VecF x = Load<VecF>(q + i);
      sum = sum + Max(x * LoadBf16(stats + i), x * LoadBf16(stats + dim + i));
    }
    scores[l] = ReduceAdd(sum);
  }
}

}  // namespace

namespace LSERVE_ISA {
void FillAttention(CpuKernels* table) {
  table->decode_slice = DecodeSliceAny;
  table->attn_block = AttnBlock;
  table->box_scores = BoxScores;
  table->best_keys = BestKeys;
}
}  // namespace LSERVE_ISA

}  // namespace lserve
