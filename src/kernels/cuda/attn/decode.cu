// LaunchDecode: counting (large batches, where the plan does not say), then the attention kernel.
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
  size_t counts, lse, partial, end;
};

Layout MakeLayout(int num_tiles, const PlanShape& shape, int dim, bool deterministic) {
  const auto align = [](size_t n) { return (n + 255) / 256 * 256; };
  const size_t tiles = static_cast<size_t>(num_tiles);
  const size_t n_tiles = static_cast<size_t>((shape.heads_per_tile * shape.q_tile + 7) / 8);
  const size_t slots = static_cast<size_t>(DecodeSlots(num_tiles, deterministic));
  Layout l{};
  l.lse = align(tiles * sizeof(int));
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

}  // namespace

size_t DecodeWorkspace(int num_tiles, const PlanShape& shape, int dim, bool deterministic) {
  return MakeLayout(num_tiles, shape, dim, deterministic).end;
}

cudaError_t LaunchDecode(const DecodeArgs& args, cudaStream_t stream) {
  if (args.num_tiles == 0) return cudaSuccess;
  if (args.num_tiles > kMostTiles || (args.settled && args.tile_blocks == nullptr))
    return cudaErrorInvalidValue;
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
  // A segment costs about as much as reading 64 KB, beside its blocks.
  p.tile_lead = 65536 / args.view.codec.slice_bytes;
  p.lse = reinterpret_cast<float*>(args.workspace + layout.lse);
  p.partial = reinterpret_cast<float*>(args.workspace + layout.partial);
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
  if (k_bits == 16) return RunDecodeKeys<16>(p, grid, stream);
  if (k_bits == 8) return RunDecodeKeys<8>(p, grid, stream);
  if (k_bits == 4) return RunDecodeKeys<4>(p, grid, stream);
  return cudaErrorInvalidValue;
}

}  // namespace lserve::cuda
