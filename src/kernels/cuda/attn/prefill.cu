// Prefill attention: which kernel a device takes, and the queue of work items that the Hopper
// kernel reads.
#include <algorithm>
#include <cstddef>
#include <vector>

#include "kernels/cuda/attn/prefill.h"
#include "kernels/cuda/attn/prefill_schedule.h"
#include "kernels/cuda/device_facts.h"

namespace lserve::cuda {
namespace {

// The order travels as kernel arguments (4 KB at most): a copy from the host's pageable memory
// could wait for the stream.
struct QueuePart {
  PrefillQueue* queue;
  int begin, count;
  int32_t order[1000];
};

__global__ void WriteQueue(const __grid_constant__ QueuePart part) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < part.count) part.queue->order[part.begin + i] = part.order[i];
  if (i == 0) part.queue->next = 0;
}

bool IsHopper() { return Facts().capability == 90; }

}  // namespace

int PrefillTile(int dim, int) { return IsHopper() ? PrefillTileSm90(dim) : kPrefillTileGeneric; }

size_t PrefillWorkspace(int num_tiles, const PlanShape&) {
  return sizeof(PrefillQueue) + static_cast<size_t>(num_tiles) * sizeof(int32_t);
}

cudaError_t QueuePrefill(const PrefillArgs& args, cudaStream_t stream) {
  // Half of the L2 cache for K and V: tiles of a section are not quite at the same place.
  const int64_t head_bytes = int64_t{args.host_tiles[0].kv_len} * args.dim * 2 * sizeof(Bf16);
  const int64_t heads_per_section = std::max<int64_t>(1, Facts().l2_bytes / 2 / head_bytes);
  const std::vector<int32_t> order =
      PrefillOrder({args.host_tiles, static_cast<size_t>(args.num_tiles)}, args.host_runs,
                   args.shape.num_q_heads / args.shape.num_kv_heads,
                   static_cast<int>(std::min<int64_t>(heads_per_section, args.shape.num_kv_heads)));
  QueuePart part;
  part.queue = reinterpret_cast<PrefillQueue*>(args.workspace);
  constexpr int kMost = std::size(QueuePart{}.order), kThreads = 128;
  for (part.begin = 0; part.begin < args.num_tiles; part.begin += kMost) {
    part.count = std::min(kMost, args.num_tiles - part.begin);
    std::copy_n(order.begin() + part.begin, part.count, part.order);
    WriteQueue<<<(part.count - 1) / kThreads + 1, kThreads, 0, stream>>>(part);
  }
  return cudaGetLastError();
}

cudaError_t LaunchPrefill(const PrefillArgs& args, cudaStream_t stream) {
  return IsHopper() ? LaunchPrefillSm90(args, stream) : LaunchPrefillGeneric(args, stream);
}

}  // namespace lserve::cuda
