// Prefill attention: which kernel a device takes, and the queue of work items that both read.
#include <algorithm>
#include <cstddef>
#include <cstring>
#include <span>
#include <vector>

#include "kernels/cuda/attn/prefill.h"
#include "kernels/cuda/attn/prefill_schedule.h"
#include "kernels/cuda/device_facts.h"

namespace lserve::cuda {
namespace {

bool IsHopper() { return Facts().capability == 90; }

}  // namespace

int PrefillTile(int dim, int) { return IsHopper() ? PrefillTileSm90(dim) : kPrefillTileGeneric; }

size_t PrefillWorkspace(int num_tiles, const PlanShape&) {
  return sizeof(PrefillQueue) + static_cast<size_t>(num_tiles) * sizeof(int32_t);
}

cudaError_t QueuePrefill(const PrefillArgs& args, cudaStream_t stream) {
  const size_t tiles = static_cast<size_t>(args.num_tiles);
  // Half of the L2 cache for K and V: tiles of a section are not quite at the same place.
  const int64_t head_bytes = int64_t{args.host_tiles[0].kv_len} * args.dim * 2 * sizeof(Bf16);
  const int64_t heads_per_section = std::max<int64_t>(1, Facts().l2_bytes / 2 / head_bytes);
  const std::vector<int32_t> order = PrefillOrder(
      {args.host_tiles, tiles}, args.host_runs, args.shape.num_q_heads / args.shape.num_kv_heads,
      static_cast<int>(std::min<int64_t>(heads_per_section, args.shape.num_kv_heads)));
  std::vector<std::byte> queue(PrefillWorkspace(args.num_tiles, args.shape));
  std::memcpy(queue.data() + offsetof(PrefillQueue, order), order.data(), tiles * sizeof(int32_t));
  // From pageable memory: the call returns when the bytes have been read.
  return cudaMemcpyAsync(args.workspace, queue.data(), queue.size(), cudaMemcpyHostToDevice,
                         stream);
}

cudaError_t LaunchPrefill(const PrefillArgs& args, cudaStream_t stream) {
  return IsHopper() ? LaunchPrefillSm90(args, stream) : LaunchPrefillGeneric(args, stream);
}

}  // namespace lserve::cuda
