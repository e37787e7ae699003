// LaunchDecode: counting (large batches), the attention kernel, and the merge of partial results.
#include <algorithm>

#include "kernels/cuda/attn/decode_kernel.cuh"
#include "kernels/cuda/device_facts.h"
#include "kernels/cuda/launch_dependent.h"

namespace lserve::cuda {

template <int kKBits>
cudaError_t RunDecodeKeys(const DecodeParams& p, int grid, cudaStream_t stream);
extern template cudaError_t RunDecodeKeys<16>(const DecodeParams&, int, cudaStream_t);
extern template cudaError_t RunDecodeKeys<8>(const DecodeParams&, int, cudaStream_t);
extern template cudaError_t RunDecodeKeys<4>(const DecodeParams&, int, cudaStream_t);

namespace {

constexpr int kMostGrid = 256;  // thread blocks of the attention kernel

// Where things lie in the workspace, in bytes.
struct Layout {
  size_t counts, prefix, lse, partial, end;
};

Layout MakeLayout(int num_tiles, const PlanShape& shape, int dim, bool deterministic) {
  const auto align = [](size_t n) { return (n + 255) / 256 * 256; };
  const size_t tiles = static_cast<size_t>(num_tiles);
  const size_t n_tiles = static_cast<size_t>((shape.heads_per_tile * shape.q_tile + 7) / 8);
  const size_t slots = deterministic ? tiles * kMaxParts : tiles + kMostGrid;
  Layout l{};
  l.prefix = align(tiles * sizeof(int));
  l.lse = l.prefix + align((tiles + 1) * sizeof(int));
  l.partial = l.lse + align(slots * n_tiles * 8 * sizeof(float));
  l.end = l.partial + slots * n_tiles * 8 * static_cast<size_t>(dim) * sizeof(float);
  return l;
}

__global__ void CountKernel(const Tile* tiles, const Run* runs, int num_tiles, int* counts) {
  ptx::GridTrigger();
  ptx::GridWait();
  const int warps = blockDim.x / 32, warp = blockIdx.x * warps + threadIdx.x / 32;
  CountBlocks(tiles, runs, num_tiles, warp, gridDim.x * warps,
              [&](int tile, int blocks) { counts[tile] = blocks; });
}

// One thread block a (tile, n tile); thread (m tile, lane) sums its float4 over the parts.
__global__ void CombineKernel(const DecodeParams p, int decode_grid) {
  extern __shared__ float weights[];  // [8 rows][parts]
  __shared__ float total[8];
  ptx::GridWait();
  const int index = blockIdx.x, n_tile = blockIdx.y;
  const Tile tile = p.args.tiles[index];
  if (tile.q_len == 0) return;
  const DecodeSchedule schedule{nullptr, p.prefix, p.args.num_tiles, p.args.deterministic};
  int first, parts;
  schedule.Parts(index, decode_grid, &first, &parts);
  if (parts < 2) return;  // written by the attention kernel
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int heads = p.args.shape.heads_per_tile, dim = p.args.view.codec.dim, m_tiles = dim / 16;
  for (int r = warp; r < 8; r += blockDim.x / 32) {
    const float* lse = p.lse + (static_cast<int64_t>(first) * p.n_tiles + n_tile) * 8 + r;
    float max = -INFINITY, sum = 0;
    for (int i = lane; i < parts; i += 32) max = fmaxf(max, lse[i * 8 * p.n_tiles]);
    for (int d = 16; d > 0; d /= 2) max = fmaxf(max, __shfl_xor_sync(~0u, max, d));
    for (int i = lane; i < parts; i += 32) {
      const float w = max == -INFINITY ? 0.0f : ptx::Exp2(lse[i * 8 * p.n_tiles] - max);
      weights[r * parts + i] = w;
      sum += w;
    }
    for (int d = 16; d > 0; d /= 2) sum += __shfl_xor_sync(~0u, sum, d);
    if (lane == 0) total[r] = sum > 0 ? 1.0f / sum : 0.0f;
    const int row = 8 * n_tile + r;
    if (lane == 0 && p.args.lse && row < tile.q_len * heads)
      p.args.lse[static_cast<int64_t>(tile.q_begin + row / heads) * p.args.shape.num_q_heads +
                 tile.head + row % heads] = (max + __log2f(sum)) * 0.69314718f;
  }
  __syncthreads();
  const int64_t stride = static_cast<int64_t>(p.n_tiles) * m_tiles * 32;
  const float4* from =
      p.partial + first * stride + static_cast<int64_t>(n_tile) * m_tiles * 32 + threadIdx.x;
  const float *w0 = weights + 2 * t * parts, *w1 = w0 + parts;
  float o[4] = {};
#pragma unroll 8
  for (int i = 0; i < parts; ++i) {
    const float4 v = from[i * stride];
    o[0] = fmaf(w0[i], v.x, o[0]), o[2] = fmaf(w0[i], v.z, o[2]);
    o[1] = fmaf(w1[i], v.y, o[1]), o[3] = fmaf(w1[i], v.w, o[3]);
  }
  const int lane_bytes = dim * p.args.view.codec.v_bits / 32;
  const int piece_channels = min(lane_bytes, 16) * 4 / p.args.view.codec.v_bits;
  const int per_piece = piece_channels / 2;
  const int channel = (8 * (warp / per_piece) + g) * piece_channels + 2 * (warp % per_piece);
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    const int row = 8 * n_tile + 2 * t + j;
    if (row >= tile.q_len * heads) continue;
    const int64_t token = tile.q_begin + row / heads, head = tile.head + row % heads;
    *reinterpret_cast<uint32_t*>(p.args.out + token * p.args.out_stride + head * dim + channel) =
        PackBf16(o[j] * total[2 * t + j], o[2 + j] * total[2 * t + j]);
  }
}

}  // namespace

size_t DecodeWorkspace(int num_tiles, const PlanShape& shape, int dim, bool deterministic) {
  return MakeLayout(num_tiles, shape, dim, deterministic).end;
}

cudaError_t LaunchDecode(const DecodeArgs& args, cudaStream_t stream) {
  if (args.num_tiles == 0) return cudaSuccess;
  const DeviceFacts& device = Facts();
  const bool programmatic = device.capability >= 90;
  const int dim = args.view.codec.dim;
  const Layout layout = MakeLayout(args.num_tiles, args.shape, dim, args.deterministic);
  DecodeParams p{};
  p.args = args;
  p.scale = args.scale * 1.44269504f;
  p.group = args.shape.num_q_heads / args.shape.num_kv_heads;
  p.rows = args.shape.heads_per_tile * args.shape.q_tile;
  if (p.rows < 1 || p.rows > 64) return cudaErrorInvalidValue;
  p.n_tiles = (p.rows + 7) / 8;
  p.row_groups = p.rows <= 16 ? 1 : p.rows <= 32 ? 2 : 4;
  p.counts = reinterpret_cast<int*>(args.workspace + layout.counts);
  p.prefix = reinterpret_cast<int*>(args.workspace + layout.prefix);
  p.lse = reinterpret_cast<float*>(args.workspace + layout.lse);
  p.partial = reinterpret_cast<float4*>(args.workspace + layout.partial);
  const int grid = std::min(device.processors, kMostGrid);

  if (args.num_tiles > kCountHere) {
    const unsigned blocks =
        static_cast<unsigned>(std::min((args.num_tiles + 7) / 8, device.processors));
    const cudaError_t e = LaunchDependent(CountKernel, dim3(blocks), 256, 0, stream, programmatic,
                                          args.tiles, args.runs, args.num_tiles, p.counts);
    if (e != cudaSuccess) return e;
  }
  const int k_bits = args.view.codec.k_bits;
  const cudaError_t e = k_bits == 16  ? RunDecodeKeys<16>(p, grid, stream)
                        : k_bits == 8 ? RunDecodeKeys<8>(p, grid, stream)
                        : k_bits == 4 ? RunDecodeKeys<4>(p, grid, stream)
                                      : cudaErrorInvalidValue;
  if (e != cudaSuccess) return e;
  const int most_parts = args.deterministic ? kMaxParts : grid;
  const dim3 blocks(static_cast<unsigned>(args.num_tiles), static_cast<unsigned>(p.n_tiles));
  return LaunchDependent(CombineKernel, blocks, 2 * dim,
                         8 * static_cast<size_t>(most_parts) * sizeof(float), stream, programmatic,
                         p, grid);
}

}  // namespace lserve::cuda
