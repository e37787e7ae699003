// Decode plans on the device: tiles and runs of decode rows for a range of layers. One warp a tile.
// The rules are those of the planner and of AppendWindowRuns (sparse/); what differs is that
// adjacent runs of different origin (sinks, chosen pages, local pages) stay apart.
#include "kernels/cuda/device_facts.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/launch_dependent.h"
#include "kernels/cuda/ptx/bulk_copy.cuh"

namespace lserve::cuda {
namespace {

constexpr int kPlanThreads = 256;

__device__ __forceinline__ void Emit(int first, int end, int masked, Run* runs, int* count) {
  if (first < end) runs[(*count)++] = {first, end - first, masked};
}
// Blocks from the diagonal on, which not every query has wholly in its past, are masked.
__device__ __forceinline__ void EmitCut(int first, int end, int diagonal, int masked, Run* runs,
                                        int* count) {
  Emit(first, min(end, diagonal), masked, runs, count);
  Emit(max(first, diagonal), end, 1, runs, count);
}

// All blocks that the tile's sink and window show, partly visible ones masked: at most 7 runs.
__device__ int WindowRuns(const Tile& tile, Run* runs) {
  const int q_first = tile.q_pos, q_last = tile.q_pos + tile.q_len - 1;
  const int diagonal = (q_first + 1) / kBlockTokens, end = q_last / kBlockTokens + 1;
  const int sink_whole = min(tile.sink_len / kBlockTokens, end);
  const int sink_end = min((tile.sink_len + kBlockTokens - 1) / kBlockTokens, end);
  // The window of the oldest query begins furthest back; only what the newest query's window holds
  // too is wholly visible.
  const int window_first = max(0, q_first - tile.window_len + 1) / kBlockTokens;
  const int window_whole = max(0, q_last - tile.window_len + kBlockTokens) / kBlockTokens;
  const int rest = max(window_first, sink_end), whole = min(max(window_whole, rest), end);
  int count = 0;
  EmitCut(0, sink_whole, diagonal, 0, runs, &count);
  EmitCut(sink_whole, sink_end, diagonal, sink_whole < window_whole, runs, &count);
  EmitCut(rest, whole, diagonal, 1, runs, &count);
  EmitCut(whole, end, diagonal, 0, runs, &count);
  return count;
}

// Ascending blocks -> runs of consecutive ones; returns how many. By a whole warp.
__device__ int ListRuns(const int32_t* list, int n, Run* runs) {
  const int lane = threadIdx.x % 32;
  int count = 0, open = 0;  // runs so far; list position where the last one begins
  for (int base = 0; base < n; base += 32) {
    const int i = base + lane;
    const bool begins = i < n && (i == 0 || list[i] != list[i - 1] + 1);
    const unsigned starts = __ballot_sync(~0u, begins);
    const unsigned below = starts & ((1u << lane) - 1);
    if (begins) {
      const int index = count + __popc(below);
      runs[index].first = list[i], runs[index].masked = 0;
      if (index > 0) runs[index - 1].count = i - (below ? base + 31 - __clz(below) : open);
    }
    if (starts) open = base + 31 - __clz(starts);
    count += __popc(starts);
  }
  if (count > 0 && lane == 0) runs[count - 1].count = n - open;
  return count;
}

__global__ void __launch_bounds__(kPlanThreads)
    DecodePlanKernel(const __grid_constant__ DecodePlanLaunch a) {
  ptx::GridTrigger();
  ptx::GridWait();
  const int lane = threadIdx.x % 32;
  const int group = a.q_heads / a.kv_heads, heads_per_tile = a.shared ? group : 1;
  const int lists = a.q_heads / heads_per_tile;
  const int64_t here = static_cast<int64_t>(blockIdx.x) * (kPlanThreads / 32) + threadIdx.x / 32;
  const int64_t index = static_cast<int64_t>(a.layer_begin) * a.num_rows * lists + here;
  const int list = static_cast<int>(index % lists);
  const int row_index = static_cast<int>(index / lists % a.num_rows);
  const int layer = static_cast<int>(index / lists / a.num_rows);
  if (layer >= a.layer_end) return;
  const DecodeRow row = a.rows[row_index];
  const int run_begin = static_cast<int>(index * a.run_capacity);
  Tile tile{};
  tile.run_begin = tile.run_end = run_begin;
  if (row.slot < 0) {
    if (lane == 0) a.tiles[index] = tile;
    if (lane == 0 && a.tile_blocks != nullptr) a.tile_blocks[index] = 0;
    return;
  }
  const int head = list * heads_per_tile, kv_head = head / group;
  const bool streaming = a.head_class[layer * a.kv_heads + kv_head] != 0;
  tile.seq = row.slot, tile.head = head;
  tile.q_begin = row.row, tile.q_len = row.q_len;
  tile.q_pos = row.pos, tile.kv_len = row.pos + row.q_len;
  tile.window_len = kNoWindow;
  if (streaming) tile.sink_len = row.sink_len, tile.window_len = row.window_len;
  Run* runs = a.runs + run_begin;
  int count = 0;
  if (streaming || !row.selected) {
    if (lane == 0) count = WindowRuns(tile, runs);
  } else {
    const int64_t at =
        (static_cast<int64_t>(row.slot) * a.lists.layers + layer) * a.lists.lists_per_layer + list;
    Emit(0, row.sink_blocks, 0, runs, &count);  // every lane writes the same
    __syncwarp();
    count += ListRuns(a.lists.lists + at * a.lists.capacity, a.lists.counts[at], runs + count);
    const int diagonal = (row.pos + 1) / kBlockTokens;
    const int end = (row.pos + row.q_len - 1) / kBlockTokens + 1;
    EmitCut(row.local_begin, end, diagonal, 0, runs, &count);
  }
  if (lane == 0) {
    tile.run_end = run_begin + count;
    a.tiles[index] = tile;
  }
  if (a.tile_blocks == nullptr) return;
  __syncwarp();
  count = __shfl_sync(~0u, count, 0);
  int blocks = 0;
  for (int i = lane; i < count; i += 32) blocks += runs[i].count;
  blocks = __reduce_add_sync(~0u, blocks);
  if (lane == 0) a.tile_blocks[index] = blocks;
}

}  // namespace

cudaError_t LaunchDecodePlan(const DecodePlanLaunch& args, cudaStream_t stream) {
  const int64_t tiles = static_cast<int64_t>(args.layer_end - args.layer_begin) * args.num_rows *
                        (args.shared ? args.kv_heads : args.q_heads);
  if (tiles == 0) return cudaSuccess;
  const int64_t warps = kPlanThreads / 32;
  return LaunchDependent(DecodePlanKernel, dim3(static_cast<unsigned>((tiles + warps - 1) / warps)),
                         kPlanThreads, 0, stream, Facts().capability >= 90, args);
}

}  // namespace lserve::cuda
