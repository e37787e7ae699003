// LaunchDecode: counting (large batches, where the plan does not say), the attention kernel, and
// the merge of partial results.
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

// Where things lie in the workspace, in bytes.
struct Layout {
  size_t counts, lines, prefixes, lse, partial, end;
};

Layout MakeLayout(int num_tiles, const PlanShape& shape, int dim, bool deterministic) {
  const auto align = [](size_t n) { return (n + 255) / 256 * 256; };
  const size_t tiles = static_cast<size_t>(num_tiles);
  const size_t n_tiles = static_cast<size_t>((shape.heads_per_tile * shape.q_tile + 7) / 8);
  const size_t slots = static_cast<size_t>(DecodeSlots(num_tiles, deterministic));
  Layout l{};
  l.lines = align(tiles * sizeof(int));
  l.prefixes = l.lines + align(2 * sizeof(Line));
  l.lse = l.prefixes + align(2 * (tiles + 1) * sizeof(int));
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

// One thread block a (tile, n tile). First a warp a row: weights of the partial results; then a
// warp an m tile: their sum, in the order of the slots.
__global__ void __launch_bounds__(256) CombineKernel(const __grid_constant__ DecodeParams p) {
  __shared__ float weights[8][kMostSlots];
  __shared__ float total[8];
  ptx::GridTrigger();
  ptx::GridWait();
  const int index = blockIdx.x, n_tile = blockIdx.y;
  const Tile tile = p.args.tiles[index];
  DecodeSchedule schedule;
  schedule.deterministic = p.args.deterministic;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    schedule.lines[i] = p.lines[i];
    schedule.lines[i].prefix = p.prefixes + i * (p.args.num_tiles + 1);
  }
  const TileSlots slots = schedule.Slots(index);
  const int rows = tile.q_len * p.args.shape.heads_per_tile, parts = slots.Total();
  if (parts < 2 || 8 * n_tile >= rows) return;  // written by the attention kernel, or nothing

  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const float* lse = p.lse + 8 * n_tile + warp;
  float max = -INFINITY, sum = 0;
  for (int i = lane; i < parts; i += 32) {
    const float x = lse[static_cast<int64_t>(slots.At(i)) * 8 * p.n_tiles];
    weights[warp][i] = x;
    max = fmaxf(max, x);
  }
  for (int d = 16; d > 0; d /= 2) max = fmaxf(max, __shfl_xor_sync(~0u, max, d));
  for (int i = lane; i < parts; i += 32) {
    const float w = max == -INFINITY ? 0.0f : ptx::Exp2(weights[warp][i] - max);
    weights[warp][i] = w;
    sum += w;
  }
  for (int d = 16; d > 0; d /= 2) sum += __shfl_xor_sync(~0u, sum, d);
  if (lane == 0) {
    total[warp] = sum > 0 ? 1.0f / sum : 0.0f;
    StoreLse(p, tile, 8 * n_tile + warp, max + __log2f(sum));
  }
  __syncthreads();

  const int dim = p.args.view.codec.dim, m_tiles = dim / 16, bits = p.args.view.codec.v_bits;
  if (warp >= m_tiles || 8 * n_tile + 2 * t >= rows) return;
  const float4* from = p.partial + (n_tile * m_tiles + warp) * 32 + lane;
  const int64_t stride = static_cast<int64_t>(p.n_tiles) * m_tiles * 32;
  const float *w0 = weights[2 * t], *w1 = weights[2 * t + 1];
  float o[4] = {};
  constexpr int kBatch = 16;  // loads under way
  for (int i = 0; i < parts; i += kBatch) {
    float4 v[kBatch];
#pragma unroll
    for (int k = 0; k < kBatch; ++k) v[k] = from[slots.At(min(i + k, parts - 1)) * stride];
#pragma unroll
    for (int k = 0; k < kBatch; ++k) {
      const float a = i + k < parts ? w0[i + k] : 0.0f, b = i + k < parts ? w1[i + k] : 0.0f;
      o[0] = fmaf(a, v[k].x, o[0]), o[2] = fmaf(a, v[k].z, o[2]);
      o[1] = fmaf(b, v[k].y, o[1]), o[3] = fmaf(b, v[k].w, o[3]);
    }
  }
#pragma unroll
  for (int j = 0; j < 2; ++j) o[j] *= total[2 * t + j], o[2 + j] *= total[2 * t + j];
  const int piece = min(dim / 8 * bits / 4, 16) * 4 / bits;  // channels, as in DecodeConfig
  const int channel = (8 * (warp / (piece / 2)) + g) * piece + 2 * (warp % (piece / 2));
  StoreRows(p, tile, n_tile, channel, o);
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
  p.lines = reinterpret_cast<Line*>(args.workspace + layout.lines);
  p.prefixes = reinterpret_cast<int*>(args.workspace + layout.prefixes);
  p.lse = reinterpret_cast<float*>(args.workspace + layout.lse);
  p.partial = reinterpret_cast<float4*>(args.workspace + layout.partial);
  const int grid = std::min(device.processors, kMostGrid);

  p.counts = args.tile_blocks;
  if (p.counts == nullptr && args.num_tiles > kFewTiles) {
    const unsigned blocks =
        static_cast<unsigned>(std::min((args.num_tiles + 7) / 8, device.processors));
    int* counts = reinterpret_cast<int*>(args.workspace + layout.counts);
    const cudaError_t e = LaunchDependent(CountKernel, dim3(blocks), 256, 0, stream, programmatic,
                                          args.tiles, args.runs, args.num_tiles, counts);
    if (e != cudaSuccess) return e;
    p.counts = counts;
  }
  const int k_bits = args.view.codec.k_bits;
  const cudaError_t e = k_bits == 16  ? RunDecodeKeys<16>(p, grid, stream)
                        : k_bits == 8 ? RunDecodeKeys<8>(p, grid, stream)
                        : k_bits == 4 ? RunDecodeKeys<4>(p, grid, stream)
                                      : cudaErrorInvalidValue;
  if (e != cudaSuccess) return e;
  const dim3 blocks(static_cast<unsigned>(args.num_tiles), static_cast<unsigned>(p.n_tiles));
  return LaunchDependent(CombineKernel, blocks, 256, 0, stream, programmatic, p);
}

}  // namespace lserve::cuda
