// Prefill attention: which kernel a device takes, and the queue of work items that the Hopper
// kernel reads.
#include <algorithm>
#include <cstddef>
#include <vector>

#include "kernels/cuda/attn/prefill.h"
#include "kernels/cuda/device_facts.h"
#include "kernels/cuda/numbers.cuh"

namespace lserve::cuda {
namespace {

// Lists travel as kernel arguments (32 KB at most): a copy from the host's pageable memory could
// wait for the stream.
constexpr int kMostArguments = 16 << 10;

struct QueuePart {
  PrefillQueue* queue;
  int begin, count;
  PrefillPiece pieces[(kMostArguments - 16) / sizeof(PrefillPiece)];
};

__global__ void WriteQueue(const __grid_constant__ QueuePart part) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < part.count) part.queue->pieces[part.begin + i] = part.pieces[i];
  if (i == 0) part.queue->next = 0;
}

struct MergeArgs {
  Bf16* out;
  float* lse;  // or null
  int64_t out_stride;
  const Tile* tiles;
  PrefillParts parts;
  int heads_per_tile, num_q_heads;
  PrefillMerge merges[(kMostArguments - 128) / sizeof(PrefillMerge)];
};

// A warp has a row of one head: block x is (merge, head), block y some rows.
constexpr int kMergeWarps = 8;

template <int kDim>
__global__ void __launch_bounds__(32 * kMergeWarps)
    MergeKernel(const __grid_constant__ MergeArgs a) {
  const PrefillMerge merge = a.merges[blockIdx.x / a.heads_per_tile];
  const int head = static_cast<int>(blockIdx.x) % a.heads_per_tile;
  const int row = static_cast<int>(blockIdx.y * kMergeWarps + threadIdx.x / 32);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const Tile& tile = a.tiles[merge.tile];
  if (row >= tile.q_len) return;
  const auto at = [&](int part) {
    return (static_cast<int64_t>(merge.part + part) * a.heads_per_tile + head) * a.parts.rows + row;
  };
  float most = -INFINITY;
  for (int p = lane; p < merge.parts; p += 32) most = fmaxf(most, a.parts.lse[at(p)]);
  for (int i = 16; i > 0; i /= 2) most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, i));
  constexpr int kEach = kDim / 32;
  float sum = 0, o[kEach] = {};
  for (int p = 0; p < merge.parts; ++p) {
    const float lse = a.parts.lse[at(p)];
    if (lse == -INFINITY) continue;  // the row sees nothing there
    const float weight = __expf(lse - most);
    sum += weight;
    const uint32_t* from =
        reinterpret_cast<const uint32_t*>(a.parts.out + at(p) * kDim + lane * kEach);
#pragma unroll
    for (int c = 0; c < kEach; c += 2) {
      const uint32_t pair = from[c / 2];
      o[c] += weight * __uint_as_float(pair << 16);
      o[c + 1] += weight * __uint_as_float(pair & 0xffff0000u);
    }
  }
  const float inverse = sum > 0 ? 1 / sum : 0;
  const int64_t out_row = tile.q_begin + row;
  uint32_t* out = reinterpret_cast<uint32_t*>(a.out + out_row * a.out_stride +
                                              (tile.head + head) * kDim + lane * kEach);
#pragma unroll
  for (int c = 0; c < kEach; c += 2) out[c / 2] = PackBf16(o[c] * inverse, o[c + 1] * inverse);
  if (a.lse != nullptr && lane == 0)
    a.lse[out_row * a.num_q_heads + tile.head + head] = sum > 0 ? most + logf(sum) : -INFINITY;
}

bool IsHopper() { return Facts().capability == 90; }

}  // namespace

int PrefillTile(int dim, int) { return IsHopper() ? PrefillTileSm90(dim) : kPrefillTileGeneric; }

namespace {

size_t Aligned(size_t bytes) { return (bytes + 255) / 256 * 256; }
size_t QueueBytes(int num_tiles) {
  return Aligned(sizeof(PrefillQueue) +
                 static_cast<size_t>(num_tiles + MostPrefillParts(Facts().processors)) *
                     sizeof(PrefillPiece));
}
size_t PartRows(const PlanShape& shape) {
  return static_cast<size_t>(MostPrefillParts(Facts().processors) * shape.q_tile);
}

}  // namespace

size_t PrefillWorkspace(int num_tiles, const PlanShape& shape) {
  if (!IsHopper()) return 0;
  constexpr size_t kMostDim = 128;
  return QueueBytes(num_tiles) + PartRows(shape) * (kMostDim * sizeof(Bf16) + sizeof(float));
}

cudaError_t QueuePrefill(const PrefillArgs& args, cudaStream_t stream, QueuedPrefill* queued) {
  // Half of the L2 cache for K and V: tiles of a section are not quite at the same place.
  const int64_t head_bytes = int64_t{args.host_tiles[0].kv_len} * args.dim * 2 * sizeof(Bf16);
  const int64_t heads_per_section = std::max<int64_t>(1, Facts().l2_bytes / 2 / head_bytes);
  PrefillScheduleOptions options;
  options.group = args.shape.num_q_heads / args.shape.num_kv_heads;
  options.heads_per_tile = args.shape.heads_per_tile;
  options.heads_per_section =
      static_cast<int>(std::min<int64_t>(heads_per_section, args.shape.num_kv_heads));
  options.processors = args.deterministic ? 0 : Facts().processors;
  PrefillSchedule schedule = SchedulePrefill({args.host_tiles, static_cast<size_t>(args.num_tiles)},
                                             args.host_runs, options);
  queued->queue = reinterpret_cast<PrefillQueue*>(args.workspace);
  queued->num_pieces = static_cast<int>(schedule.pieces.size());
  queued->parts.lse = reinterpret_cast<float*>(args.workspace + QueueBytes(args.num_tiles));
  queued->parts.out = reinterpret_cast<Bf16*>(queued->parts.lse + PartRows(args.shape));
  queued->parts.rows = args.shape.q_tile;
  queued->merges = std::move(schedule.merges);
  QueuePart part;
  part.queue = queued->queue;
  constexpr int kMost = std::size(QueuePart{}.pieces), kThreads = 128;
  for (part.begin = 0; part.begin < queued->num_pieces; part.begin += kMost) {
    part.count = std::min(kMost, queued->num_pieces - part.begin);
    std::copy_n(schedule.pieces.begin() + part.begin, part.count, part.pieces);
    WriteQueue<<<(part.count - 1) / kThreads + 1, kThreads, 0, stream>>>(part);
  }
  return cudaGetLastError();
}

cudaError_t MergePrefill(const PrefillArgs& args, const QueuedPrefill& queued,
                         cudaStream_t stream) {
  MergeArgs merge;
  merge.out = args.out;
  merge.lse = args.lse;
  merge.out_stride = args.out_stride;
  merge.tiles = args.tiles;
  merge.parts = queued.parts;
  merge.heads_per_tile = args.shape.heads_per_tile;
  merge.num_q_heads = args.shape.num_q_heads;
  constexpr size_t kMost = std::size(MergeArgs{}.merges);
  for (size_t begin = 0; begin < queued.merges.size(); begin += kMost) {
    const size_t count = std::min(kMost, queued.merges.size() - begin);
    std::copy_n(queued.merges.begin() + static_cast<int64_t>(begin), count, merge.merges);
    const dim3 grid(static_cast<unsigned>(count) * args.shape.heads_per_tile,
                    (args.shape.q_tile + kMergeWarps - 1) / kMergeWarps);
    const auto kernel = args.dim == 128 ? MergeKernel<128> : MergeKernel<64>;
    kernel<<<grid, 32 * kMergeWarps, 0, stream>>>(merge);
  }
  return cudaGetLastError();
}

cudaError_t LaunchPrefill(const PrefillArgs& args, cudaStream_t stream) {
  return IsHopper() ? LaunchPrefillSm90(args, stream) : LaunchPrefillGeneric(args, stream);
}

}  // namespace lserve::cuda
