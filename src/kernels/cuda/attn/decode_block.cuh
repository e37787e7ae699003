// The arithmetic of decode attention on one block for one warp: 32 of its 64 tokens against up to
// 8 * kTiles query rows, on tensor cores, from a slice in shared memory as the codec stores it.
//
// Keys and values are the A operand (16 rows), queries the B operand (8 columns), so that a group
// of up to 8 query heads fills the units:
//     S^T = K Q^T   rows tokens, columns queries, summed over channels
//     O^T = V^T P^T rows channels, columns queries, summed over tokens
// The slice's pairs (plan/kv_codec.h) are exactly the 32-bit registers of A. Which channel or token
// a register stands for is free as long as both operands agree, and is chosen so that every load
// is 8 or 16 bytes wide and nothing is shuffled but P^T (one movmatrix for 8 x 8).
//
//   token of (m tile i, row g + 8 r):  32 half + 4 Chunk(g) + 2 i + r    a lane's 4 are contiguous
//   channel pair of (k step, register): PairA, PairB below
//   channel of (m tile, row g + 8 r):  RowChannel(m tile, g) + r
//
// Codes become bf16 exactly, less a bias (128, 8 or -128), which goes into the minimum:
//     x = s * code + m = s * (code - bias) + (m + s * bias)
//     q.k = s * q.(code - bias) + (m + s * bias) * sum(q)
//     sum p v = sum (p s) (code - bias) + sum p (m + s * bias)
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/cuda/kv/codes.cuh"
#include "kernels/cuda/ptx/warp_mma.cuh"
#include "plan/tile.h"

namespace lserve::cuda {

template <int kKBits_, int kVBits_, int kDim_, int kTiles_>
struct DecodeConfig {
  static constexpr int kKBits = kKBits_, kVBits = kVBits_, kDim = kDim_, kTiles = kTiles_;
  static constexpr int kSteps = kDim / 16;  // k steps of q.k, and m tiles of p.v
  static constexpr int ElementBytes(int bits) { return kBlockTokens * kDim * bits / 8; }
  static constexpr int ScaleBytes(int bits) { return bits < 16 ? 4 * kBlockTokens : 0; }
  static constexpr int kKScale = ElementBytes(kKBits);
  static constexpr int kV = kKScale + ScaleBytes(kKBits);
  static constexpr int kVScale = kV + ElementBytes(kVBits);
  static constexpr int kSliceBytes = kVScale + ScaleBytes(kVBits);
  static constexpr int kStageBytes = (kSliceBytes + 1023) / 1024 * 1024;
  // V is read in pieces of kVPiece bytes of a token pair, kVPieces of them a lane.
  static constexpr int kVLaneBytes = kDim / 8 * kVBits / 4;
  static constexpr int kVPiece = kVLaneBytes < 16 ? kVLaneBytes : 16;
  static constexpr int kVPieces = kVLaneBytes / kVPiece;
  static constexpr int kPieceChannels = kVPiece * 4 / kVBits;
  static constexpr int kPieceTiles = kPieceChannels / 2;
};

// Bytes at `offset` of a slice that the copy engine wrote with its 128-byte swizzle.
template <typename T>
__device__ __forceinline__ T LoadSlice(const std::byte* slice, int offset) {
  return *reinterpret_cast<const T*>(slice + (offset ^ ((offset >> 3) & 0x70)));
}

template <int kBytes>
struct Words {
  uint32_t w[kBytes / 4];
};
template <int kBytes>
__device__ __forceinline__ Words<kBytes> LoadWords(const std::byte* slice, int offset) {
  Words<kBytes> out;
  if constexpr (kBytes == 16) {
    const uint4 v = LoadSlice<uint4>(slice, offset);
    out.w[0] = v.x, out.w[1] = v.y, out.w[2] = v.z, out.w[3] = v.w;
  } else if constexpr (kBytes == 8) {
    const uint2 v = LoadSlice<uint2>(slice, offset);
    out.w[0] = v.x, out.w[1] = v.y;
  } else {
    out.w[0] = LoadSlice<uint32_t>(slice, offset);
  }
  return out;
}

// Which 4 tokens of a half row g of the m tiles stands for: spread so that the V loads of a
// quarter warp meet few banks twice.
__device__ __forceinline__ int Chunk(int g) { return g ^ ((g >> 1) & 1); }

// Channel pairs of registers a[0..1] and a[2..3] at a k step, for lane t of a row.
template <int kKBits>
__device__ __forceinline__ int PairA(int step, int t) {
  if (kKBits == 16) return 8 * step + t;
  if (kKBits == 8) return 8 * step + 2 * t;
  return 16 * (step / 2) + 4 * t + 2 * (step % 2);
}
template <int kKBits>
__device__ __forceinline__ int PairB(int step, int t) {
  return PairA<kKBits>(step, t) + (kKBits == 16 ? 4 : 1);
}

// Channel of row g of an m tile of O^T; row g + 8 is the next channel.
template <int kPieceChannels>
__device__ __forceinline__ int RowChannel(int m_tile, int g) {
  constexpr int kPerPiece = kPieceChannels / 2;
  return (8 * (m_tile / kPerPiece) + g) * kPieceChannels + 2 * (m_tile % kPerPiece);
}

// s and m + s * bias of the 4 tokens from `token`.
template <int kBits, bool kKeys>
__device__ __forceinline__ void LoadScales(const std::byte* slice, int offset, int token,
                                           float (&s)[4], float (&m)[4]) {
  const Words<8> sw = LoadWords<8>(slice, offset + 2 * token);
  const Words<8> mw = LoadWords<8>(slice, offset + 2 * kBlockTokens + 2 * token);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float2 sf = __half22float2(reinterpret_cast<const __half2&>(sw.w[i]));
    const float2 mf = __half22float2(reinterpret_cast<const __half2&>(mw.w[i]));
    s[2 * i] = sf.x, s[2 * i + 1] = sf.y;
    m[2 * i] = fmaf(sf.x, kBias<kBits, kKeys>, mf.x);
    m[2 * i + 1] = fmaf(sf.y, kBias<kBits, kKeys>, mf.y);
  }
}

// A operand of S^T at one k step: a[i] for m tile i.
template <class C>
__device__ __forceinline__ void LoadKeys(const std::byte* slice, int step, int half, int g, int t,
                                         uint32_t (&a)[2][4]) {
  constexpr int kBytes = C::kKBits;  // of 4 tokens of a channel pair
  const int token = 32 * half + 4 * Chunk(g);
  const auto offset = [&](int pair) { return (pair * kBlockTokens + token) * C::kKBits / 4; };
  const Words<kBytes> x = LoadWords<kBytes>(slice, offset(PairA<C::kKBits>(step, t)));
  const Words<kBytes> y = LoadWords<kBytes>(slice, offset(PairB<C::kKBits>(step, t)));
  if constexpr (C::kKBits == 16) {
#pragma unroll
    for (int n = 0; n < 4; ++n) a[n / 2][n % 2] = x.w[n], a[n / 2][2 + n % 2] = y.w[n];
  } else if constexpr (C::kKBits == 8) {
#pragma unroll
    for (int i = 0; i < 2; ++i)
      Expand8(x.w[i], &a[i][0], &a[i][1]), Expand8(y.w[i], &a[i][2], &a[i][3]);
  } else {
    uint32_t out[4][2];
    Expand4<true>(x.w[0], y.w[0], out);
#pragma unroll
    for (int n = 0; n < 4; ++n) a[n / 2][n % 2] = out[n][0], a[n / 2][2 + n % 2] = out[n][1];
  }
}

// The two queries of a lane (columns 2t, 2t + 1) in each n tile, and what they have seen so far.
template <class C>
struct DecodeState {
  uint32_t q[C::kTiles][C::kSteps][2];  // B operand of S^T
  float q_sum[C::kTiles][2];            // over channels
  int q_pos[C::kTiles][2];
  float max[C::kTiles][2];           // of scores in units of log 2
  float sum[C::kTiles][2];           // of p over this lane's tokens
  float offset[C::kTiles][2];        // of p (m + s bias) of values, over this lane's tokens
  float o[C::kTiles][C::kSteps][4];  // C operand of O^T
};

// What a masked block needs to know: which tokens are visible to whom.
struct BlockMask {
  const Tile* tile;
  int first_pos;  // of the block's first token
  bool on;
};

// A token that no query of the tile sees; its bits may be anything.
__device__ __forceinline__ bool Hidden(const Tile& tile, int pos) {
  return pos > tile.q_pos + tile.q_len - 1 ||
         (pos >= tile.sink_len && pos <= tile.q_pos - tile.window_len);
}

// `scale` is in units of log 2.
template <class C>
__device__ __forceinline__ void DecodeBlock(const std::byte* slice, int half, float scale,
                                            const BlockMask& mask, DecodeState<C>* st) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int token = 32 * half + 4 * Chunk(g);  // this lane's tokens in S^T: 4 from here

  float s[C::kTiles][2][4] = {};
#pragma unroll
  for (int step = 0; step < C::kSteps; ++step) {
    uint32_t a[2][4];
    LoadKeys<C>(slice, step, half, g, t, a);
#pragma unroll
    for (int n = 0; n < C::kTiles; ++n)
#pragma unroll
      for (int i = 0; i < 2; ++i) ptx::MmaBf16(s[n][i], a[i], st->q[n][step][0], st->q[n][step][1]);
  }

  float ks[4], km[4], vs[4], vm[4];
  if constexpr (C::kKBits < 16) {
    LoadScales<C::kKBits, true>(slice, C::kKScale, token, ks, km);
#pragma unroll
    for (int n = 0; n < 4; ++n) ks[n] *= scale, km[n] *= scale;
  }
  if constexpr (C::kVBits < 16) {
    LoadScales<C::kVBits, false>(slice, C::kVScale, token, vs, vm);
    if (mask.on) {
#pragma unroll
      for (int n = 0; n < 4; ++n)
        if (Hidden(*mask.tile, mask.first_pos + token + n)) vs[n] = vm[n] = 0;
    }
  }

  uint32_t p[C::kTiles][2][2];  // P^T, B operand of k step i
#pragma unroll
  for (int n = 0; n < C::kTiles; ++n) {
    float x[4][2];  // [token][query]
#pragma unroll
    for (int k = 0; k < 4; ++k)
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const float dot = s[n][k / 2][2 * (k % 2) + j];
        x[k][j] = C::kKBits < 16 ? fmaf(ks[k], dot, km[k] * st->q_sum[n][j]) : dot * scale;
        if (mask.on && !Visible(*mask.tile, st->q_pos[n][j], mask.first_pos + token + k))
          x[k][j] = -INFINITY;
      }
    float base[2], alpha[2];
    bool moved = false;
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      float top = fmaxf(fmaxf(x[0][j], x[1][j]), fmaxf(x[2][j], x[3][j]));
#pragma unroll
      for (int d = 4; d < 32; d *= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, d));
      const float old = st->max[n][j];
      moved |= top > old;
      st->max[n][j] = top = fmaxf(top, old);
      base[j] = top == -INFINITY ? 0.0f : top;
      alpha[j] = ptx::Exp2(old - base[j]);
    }
    if (__any_sync(~0u, moved)) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        st->sum[n][j] *= alpha[j];
        st->offset[n][j] *= alpha[j];
#pragma unroll
        for (int m = 0; m < C::kSteps; ++m)
          st->o[n][m][j] *= alpha[j], st->o[n][m][2 + j] *= alpha[j];
      }
    }
    uint32_t rows[2][2];  // transposed (i, r)
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      float w[2];
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const float e = ptx::Exp2(x[k][j] - base[j]);
        st->sum[n][j] += e;
        if constexpr (C::kVBits < 16) {
          st->offset[n][j] = fmaf(e, vm[k], st->offset[n][j]);
          w[j] = e * vs[k];
        } else {
          w[j] = e;
        }
      }
      const __nv_bfloat162 pair = __floats2bfloat162_rn(w[0], w[1]);
      rows[k / 2][k % 2] = ptx::Transpose(reinterpret_cast<const uint32_t&>(pair));
    }
    // rows[i][r] holds tokens 2i + r of chunks Chunk(2t) (low) and Chunk(2t + 1) (high).
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if constexpr (C::kVBits == 4) {
        p[n][i][0] = rows[i][0], p[n][i][1] = rows[i][1];
      } else {
        p[n][i][0] = __byte_perm(rows[i][0], rows[i][1], 0x5410);
        p[n][i][1] = __byte_perm(rows[i][0], rows[i][1], 0x7632);
      }
    }
  }

#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int pair_a = 16 * half + 2 * Chunk(2 * t) + i;  // token pairs of the k step
    const int pair_b = 16 * half + 2 * Chunk(2 * t + 1) + i;
    uint32_t keep_a = ~0u, keep_b = ~0u;  // 16-bit values can be NaN, and 0 * NaN is
    if constexpr (C::kVBits == 16) {
      if (mask.on) {
        const auto keep = [&](int pair) {
          const int pos = mask.first_pos + 2 * pair;
          return (Hidden(*mask.tile, pos) ? 0u : 0xffffu) |
                 (Hidden(*mask.tile, pos + 1) ? 0u : 0xffff0000u);
        };
        keep_a = keep(pair_a), keep_b = keep(pair_b);
      }
    }
#pragma unroll
    for (int piece = 0; piece < C::kVPieces; ++piece) {
      const auto offset = [&](int pair) {
        return C::kV + pair * (C::kDim * C::kVBits / 4) + (8 * piece + g) * C::kVPiece;
      };
      const Words<C::kVPiece> x = LoadWords<C::kVPiece>(slice, offset(pair_a));
      const Words<C::kVPiece> y = LoadWords<C::kVPiece>(slice, offset(pair_b));
      uint32_t a[C::kPieceTiles][4];
      if constexpr (C::kVBits == 16) {
#pragma unroll
        for (int w = 0; w < 4; ++w)
          a[w / 2][w % 2] = x.w[w] & keep_a, a[w / 2][2 + w % 2] = y.w[w] & keep_b;
      } else if constexpr (C::kVBits == 8) {
#pragma unroll
        for (int w = 0; w < 4; ++w)
          Expand8(x.w[w], &a[w][0], &a[w][1]), Expand8(y.w[w], &a[w][2], &a[w][3]);
      } else {
#pragma unroll
        for (int w = 0; w < C::kVPiece / 4; ++w) {
          uint32_t out[4][2];
          Expand4<false>(x.w[w], y.w[w], out);
#pragma unroll
          for (int c = 0; c < 4; ++c)
            a[2 * w + c / 2][c % 2] = out[c][0], a[2 * w + c / 2][2 + c % 2] = out[c][1];
        }
      }
#pragma unroll
      for (int n = 0; n < C::kTiles; ++n)
#pragma unroll
        for (int m = 0; m < C::kPieceTiles; ++m)
          ptx::MmaBf16(st->o[n][piece * C::kPieceTiles + m], a[m], p[n][i][0], p[n][i][1]);
    }
  }
}

}  // namespace lserve::cuda
