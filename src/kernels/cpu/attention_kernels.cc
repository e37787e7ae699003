// The inner parts of attention: one block of 64 keys against the rows of a tile, codes to bfloat16,
// and box scores. Compiled once an instruction set.
#include "kernels/cpu/isa.h"
#include "kernels/cpu/micro_tile.h"

namespace lserve {
namespace {

constexpr int kKeyVecs = 64 / kLanes;  // a block of keys

inline float MaxOf(const VecF (&x)[kKeyVecs]) {
  VecF best = x[0];
  for (int v = 1; v < kKeyVecs; ++v) best = Max(best, x[v]);
  return ReduceMax(best);
}

template <int kRows>
inline void RowChunk(const AttnBlockArgs& a, int row) {
  alignas(64) float s[kRows][64];
  alignas(64) uint16_t p[kRows][64];
  const int64_t dim = a.dim;
  PairProduct<kRows>(a.q + row * dim, dim, reinterpret_cast<const int32_t*>(a.k), 64, a.dim / 2, 64,
                     false, s[0], 64);
  const VecF minus_infinity = Splat(-__builtin_inff());
  for (int r = 0; r < kRows; ++r) {
    VecF x[kKeyVecs];
    for (int v = 0; v < kKeyVecs; ++v) x[v] = Load<VecF>(s[r] + kLanes * v) * Splat(a.scale_log2);
    if (a.masked) {
      const int q_pos = a.q_pos + (row + r) / a.group;
      for (int v = 0; v < kKeyVecs; ++v) {
        const VecI k_pos = Lanes() + (a.k_pos + kLanes * v);
        const VecI visible =
            (k_pos <= q_pos) & ((k_pos < a.sink_len) | (k_pos > q_pos - a.window_len));
        x[v] = Pick(visible, x[v], minus_infinity);
      }
    }
    const float old_max = a.max[row + r];
    const float block_max = MaxOf(x);
    const float max = block_max > old_max ? block_max : old_max;
    if (max == -__builtin_inff()) {  // nothing visible so far: exact no-op
      memset(p[r], 0, sizeof(p[r]));
      continue;
    }
    VecF sum{};
    for (int v = 0; v < kKeyVecs; ++v) {
      const VecF e = Exp2(x[v] - Splat(max));
      sum = sum + e;
      StoreBf16(p[r] + kLanes * v, e);
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
  PairProduct<kRows>(p[0], 64, reinterpret_cast<const int32_t*>(a.v), dim, 32, a.dim, true,
                     a.out + row * dim, dim);
}

void AttnBlock(const AttnBlockArgs& a) {
  int row = 0;
  for (; a.rows - row >= kTileRows; row += kTileRows) RowChunk<kTileRows>(a, row);
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

// Pairs of codes, one pair a lane.
template <int kBits>
inline VecI LoadCodePairs(const uint8_t* p) {
  return kBits == 8 ? LoadU16(p) : LoadU8(p);
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
  PairProduct<kRows>(q, dim, k, 64, dim / 2, 64, false, s[0], 64);
  for (int r = 0; r < kRows; ++r) {
    VecF x[kKeyVecs];
    for (int v = 0; v < kKeyVecs; ++v) x[v] = Load<VecF>(s[r] + kLanes * v);
    best[r] = MaxOf(x);
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

inline float Bf16(uint16_t bits) { return LowBf16(SplatI(bits))[0]; }

// Minima count where q is negative, maxima where it is positive. Codes are multiplied as they are;
// scale and minimum of a side follow: q.(s c + m) = s q.c + m sum(q).
template <int kBits>
void BoxScoresOf(const float* q, const uint16_t* stats, int pages, int dim, float* scores) {
  const uint8_t* codes = reinterpret_cast<const uint8_t*>(stats);
  const uint16_t* scale_min = stats + pages * dim;
  const VecF zero{};
  VecF q_low{}, q_high{};
  for (int i = 0; kBits == 8 && i + kLanes <= dim; i += kLanes) {
    const VecF x = Load<VecF>(q + i), positive = Max(x, zero);
    q_low = q_low + (x - positive), q_high = q_high + positive;
  }
  const float sum_low = ReduceAdd(q_low), sum_high = ReduceAdd(q_high);
  for (int l = 0; l < pages; ++l, stats += 2 * dim, codes += 2 * dim, scale_min += 4) {
    VecF low{}, high{};
    for (int i = 0; i + kLanes <= dim; i += kLanes) {
      const VecF x = Load<VecF>(q + i), positive = Max(x, zero), negative = x - positive;
      if constexpr (kBits == 8) {
        low = Fma(negative, ToFloat(LoadU8(codes + i)), low);
        high = Fma(positive, ToFloat(LoadU8(codes + dim + i)), high);
      } else {
        low = Fma(negative, LoadBf16(stats + i), low);
        high = Fma(positive, LoadBf16(stats + dim + i), high);
      }
    }
    scores[l] = kBits == 16
                    ? ReduceAdd(low + high)
                    : Bf16(scale_min[0]) * ReduceAdd(low) + Bf16(scale_min[1]) * sum_low +
                          Bf16(scale_min[2]) * ReduceAdd(high) + Bf16(scale_min[3]) * sum_high;
  }
}

void BoxScores(const float* q, const uint16_t* stats, int bits, int pages, int dim, float* scores) {
  (bits == 8 ? BoxScoresOf<8> : BoxScoresOf<16>)(q, stats, pages, dim, scores);
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
