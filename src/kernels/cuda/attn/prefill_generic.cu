// Block-sparse prefill attention for any architecture from sm_80 on: the plain version. A CTA is
// four warps of 16 query rows of one head; it walks the tile's runs block by block through shared
// memory and multiplies with mma.sync.
#include <cstdint>

#include "kernels/cuda/attn/prefill.h"
#include "kernels/cuda/attn/prefill_softmax.cuh"
#include "kernels/cuda/numbers.cuh"
#include "kernels/cuda/ptx/warp_mma.cuh"

namespace lserve::cuda {
namespace {

constexpr int kRows = kPrefillTileGeneric, kThreads = kRows / 16 * 32;

// Rows of shared memory are 16 bytes longer than a head, so that the eight rows of a fragment lie
// in different banks.
template <int kDim>
struct Block {
  static constexpr int kStride = kDim + 8;
  uint16_t rows[kBlockTokens][kStride];

  // Tokens from `valid` on become zero: what is stored there may be NaN.
  __device__ void Load(const Bf16* from, int valid) {
    constexpr int kChunks = kDim / 8;
#pragma unroll
    for (int i = static_cast<int>(threadIdx.x); i < kBlockTokens * kChunks; i += kThreads) {
      const int row = i / kChunks, chunk = i % kChunks;
      uint4 value = make_uint4(0, 0, 0, 0);
      if (row < valid) value = *reinterpret_cast<const uint4*>(from + row * kDim + chunk * 8);
      *reinterpret_cast<uint4*>(&rows[row][chunk * 8]) = value;
    }
  }
  __device__ uint32_t Pair(int row, int column) const {
    return *reinterpret_cast<const uint32_t*>(&rows[row][column]);
  }
};

template <int kDim>
__global__ void __launch_bounds__(kThreads)
    PrefillGenericKernel(const PrefillArgs args, int group, float scale) {
  __shared__ Block<kDim> k, v;
  const int heads = args.shape.heads_per_tile, item = static_cast<int>(blockIdx.x);
  const Tile tile = args.tiles[item / heads];
  const int head = tile.head + item % heads;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int row_begin = static_cast<int>(blockIdx.y) * kRows;
  if (row_begin >= tile.q_len) return;
  const int row = row_begin + static_cast<int>(threadIdx.x) / 32 * 16 + lane / 4;  // and row + 8
  const int64_t kv =
      ScratchHead(head / group, args.first_kv_head, args.kept_heads, args.kept_first) *
      args.head_stride;

  uint32_t q[kDim / 16][4];
  const Bf16* q_rows = args.q + tile.q_begin * args.q_stride + head * kDim + lane % 4 * 2;
#pragma unroll
  for (int i = 0; i < kDim / 16; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int r = row + j % 2 * 8;
      q[i][j] =
          r < tile.q_len
              ? *reinterpret_cast<const uint32_t*>(q_rows + r * args.q_stride + i * 16 + j / 2 * 8)
              : 0;
    }

  float o[kDim / 8][4] = {};
  SoftmaxRows rows;
  for (int r = tile.run_end - 1; r >= tile.run_begin; --r) {
    const Run run = args.runs[r];
    for (int block = run.first + run.count - 1; block >= run.first; --block) {
      const int first = block * kBlockTokens;
      __syncthreads();
      k.Load(args.k + kv + int64_t{first} * kDim, tile.kv_len - first);
      v.Load(args.v + kv + int64_t{first} * kDim, tile.kv_len - first);
      __syncthreads();
      float s[32] = {};
#pragma unroll
      for (int g = 0; g < 8; ++g) {
        float(&c)[4] = reinterpret_cast<float(&)[4]>(s[4 * g]);
#pragma unroll
        for (int i = 0; i < kDim / 16; ++i)
          ptx::MmaBf16(c, q[i], k.Pair(g * 8 + lane / 4, i * 16 + lane % 4 * 2),
                       k.Pair(g * 8 + lane / 4, i * 16 + 8 + lane % 4 * 2));
      }
      if (run.masked) {
#pragma unroll
        for (int i = 0; i < 32; ++i)
          if (!Visible(tile, tile.q_pos + row + (i % 4 < 2 ? 0 : 8),
                       first + i / 4 * 8 + lane % 4 * 2 + i % 2))
            s[i] = -INFINITY;
      }
      float rescale[2];
      SoftmaxStep(s, scale, &rows, rescale);
#pragma unroll
      for (int n = 0; n < kDim / 8; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) o[n][e] *= rescale[e / 2];
#pragma unroll
      for (int i = 0; i < kBlockTokens / 16; ++i) {
        const float* c = s + 8 * i;
        const uint32_t p[4] = {PackBf16(c[0], c[1]), PackBf16(c[2], c[3]), PackBf16(c[4], c[5]),
                               PackBf16(c[6], c[7])};
#pragma unroll
        for (int n = 0; n < kDim / 8; ++n)
          ptx::MmaBf16(o[n], p, ptx::Transpose(v.Pair(i * 16 + lane / 4, n * 8 + lane % 4 * 2)),
                       ptx::Transpose(v.Pair(i * 16 + 8 + lane / 4, n * 8 + lane % 4 * 2)));
      }
    }
  }

#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const float sum = QuadSum(rows.sum[r]);
    if (row + 8 * r >= tile.q_len) continue;
    const float inverse = sum > 0.f ? 1.f / sum : 0.f;
    const int64_t out_row = tile.q_begin + row + 8 * r;
    Bf16* out = args.out + out_row * args.out_stride + head * kDim + lane % 4 * 2;
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n)
      *reinterpret_cast<uint32_t*>(out + n * 8) =
          PackBf16(o[n][2 * r] * inverse, o[n][2 * r + 1] * inverse);
    if (args.lse != nullptr && lane % 4 == 0)
      args.lse[out_row * args.shape.num_q_heads + head] = LogSum(rows.max[r], sum, scale);
  }
}

}  // namespace

cudaError_t LaunchPrefillGeneric(const PrefillArgs& args, cudaStream_t stream) {
  if (args.num_tiles == 0) return cudaSuccess;
  const PlanShape& shape = args.shape;
  const dim3 grid(static_cast<unsigned>(args.num_tiles * shape.heads_per_tile),
                  static_cast<unsigned>((shape.q_tile + kRows - 1) / kRows));
  const int group = shape.num_q_heads / shape.num_kv_heads;
  const float scale = args.scale * kLog2E;
  if (args.dim == 128)
    PrefillGenericKernel<128><<<grid, kThreads, 0, stream>>>(args, group, scale);
  else
    PrefillGenericKernel<64><<<grid, kThreads, 0, stream>>>(args, group, scale);
  return cudaGetLastError();
}

}  // namespace lserve::cuda
