// The decode attention kernel: persistent thread blocks of one copying and eight computing warps.
//
// The copying warp walks the block's segments (decode_schedule.h), looks pages up 32 at a time
// and keeps a ring of whole slices full. A computing warp takes 32 tokens of a slice for up to 16
// query rows (decode_block.cuh) with a softmax of its own, so nothing is exchanged until a segment
// ends; then the warps are merged in shared memory. Rows beyond 16 go to other warps, which read
// the same slices. Which warp takes which block depends on the place in the segment only.
//
// A tile of several segments is merged by the thread block that ends its last one, in the order of
// the slots (decode_merge.cuh).
#pragma once

#include <cuda.h>

#include "kernels/cuda/attn/decode_block.cuh"
#include "kernels/cuda/attn/decode_merge.cuh"
#include "kernels/cuda/attn/decode_schedule.cuh"
#include "kernels/cuda/attn/decode_segment.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/numbers.cuh"
#include "kernels/cuda/ptx/bulk_copy.cuh"

namespace lserve::cuda {

struct DecodeMaps {
  CUtensorMap pool[2];  // by HeadClass: rows of 128 bytes, boxes of a slice
};

__device__ __forceinline__ Run LoadRun(const DecodeParams& p, const Tile& tile, int r) {
  Run run{};
  if (r < tile.run_end) {
    const int* words = reinterpret_cast<const int*>(p.args.runs + r);
    run = {__ldcg(words), __ldcg(words + 1), __ldcg(words + 2)};
  }
  return run;
}

// The copying warp's way along one segment. `run`: this lane's of the tile's first 32. start() is
// called once: at first if `waited`, else before the first block for which the ring has no room yet
// or which this step may have written.
template <class C, class Start>
__device__ __forceinline__ void CopySegment(const DecodeParams& p, const DecodeMaps& maps,
                                            const Tile& tile, const Segment& segment, Run run,
                                            std::byte* stages, DecodeShared<C>* shared, Ring* ring,
                                            bool waited, Start start) {
  const int lane = threadIdx.x % 32;
  const DeviceView& view = p.args.view;
  const int kv_head = tile.head / p.group;
  const int cls = view.head_class[kv_head], rank = view.head_rank[kv_head];
  const DevicePool& pool = view.pools[cls];
  const int32_t* table = pool.table + tile.seq * pool.table_stride;
  bool started = false;
  int base = 0;  // list position of the first of 32 runs
#pragma unroll 1
  for (int r = tile.run_begin; r < tile.run_end && base < segment.end; r += 32) {
    if (r > tile.run_begin) run = LoadRun(p, tile, r + lane);
    int before = run.count;  // inclusive
    for (int d = 1; d < 32; d *= 2) {
      const int other = __shfl_up_sync(~0u, before, d);
      if (lane >= d) before += other;
    }
    const int total = __shfl_sync(~0u, before, 31);
    const int to = min(segment.end, base + total);
#pragma unroll 1
    for (int at = max(segment.begin, base); at < to; at += 32) {
      const int position = at + lane - base;
      int i = 0;  // the run that holds this lane's position
      for (int step = 16; step > 0; step /= 2)
        if (__shfl_sync(~0u, before, i + step - 1) <= position) i += step;
      const int run_begin = __shfl_sync(~0u, before - run.count, i);
      const int first = __shfl_sync(~0u, run.first, i), masked = __shfl_sync(~0u, run.masked, i);
      const int block = first + position - run_begin;
      const int page = at + lane < to ? __ldcg(table + block) : 0;
      const int n = min(32, to - at);
#pragma unroll 1
      for (int k = 0; k < n; ++k) {
        const int one_page = __shfl_sync(~0u, page, k), one_block = __shfl_sync(~0u, block, k);
        const int one_masked = __shfl_sync(~0u, masked, k);
        const int64_t byte = one_page * pool.page_bytes + rank * C::kSliceBytes;
        const int stage = ring->stage;
        if (!started &&
            (waited || ring->number >= p.stages || (one_block + 1) * kBlockTokens > tile.q_pos)) {
          start();
          started = true;
        }
        ptx::BarrierWait(&shared->empty[stage], ring->phase ^ 1);
        std::byte* to_stage = stages + stage * C::kStageBytes;
        if (lane == 0) {
          shared->info[stage].block = one_block, shared->info[stage].masked = one_masked;
          *const_cast<volatile int*>(&shared->info[stage].number) = ring->number;
        }
#if __CUDA_ARCH__ >= 900
        if (lane == 0) {
          ptx::BarrierExpect(&shared->full[stage], C::kSliceBytes);
          ptx::CopyBox(to_stage, &maps.pool[cls], 0, static_cast<int>(byte / 128),
                       &shared->full[stage]);
        }
        __syncwarp();
#else
        for (int o = 16 * lane; o < C::kSliceBytes; o += 512)
          ptx::Copy16(to_stage + (o ^ ((o >> 3) & 0x70)), pool.pages + byte + o);
        ptx::ArriveAfterCopies(&shared->full[stage]);
        if (lane == 0) ptx::BarrierArrive(&shared->full[stage]);
#endif
        ring->Advance(1, p.stages);
      }
    }
    base += total;
  }
  if (!started) start();
}

// `queries`: the tile's rows in shared memory.
template <class C>
__device__ __forceinline__ void LoadQueries(const DecodeParams& p, const Tile& tile, int first_row,
                                            const std::byte* queries, DecodeState<C>* st) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int heads = p.args.shape.heads_per_tile, rows = tile.q_len * heads;
#pragma unroll
  for (int n = 0; n < C::kTiles; ++n) {
    const int row = first_row + 8 * n + g;
    const bool real = row < rows;
    const std::byte* q = queries + row * kQueryBytes<C>;
    float sum = 0;
#pragma unroll
    for (int step = 0; step < C::kSteps; ++step) {
      const auto load = [&](int pair) {
        return real ? *reinterpret_cast<const uint32_t*>(q + 4 * pair) : 0u;
      };
      const uint32_t x = load(PairA<C::kKBits>(step, t)), y = load(PairB<C::kKBits>(step, t));
      const float2 xf = UnpackBf16(x), yf = UnpackBf16(y);
      sum += (xf.x + xf.y) + (yf.x + yf.y);
      if constexpr (C::kKBits == 4) {  // registers of keys hold one channel of either pair
        st->q[n][step][0] = __byte_perm(x, y, 0x5410);
        st->q[n][step][1] = __byte_perm(x, y, 0x7632);
      } else {
        st->q[n][step][0] = x, st->q[n][step][1] = y;
      }
    }
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      st->q_sum[n][j] = __shfl_sync(~0u, sum, 4 * (2 * t + j));
      const int own = min(first_row + 8 * n + 2 * t + j, rows - 1);
      st->q_pos[n][j] = tile.q_pos + own / heads;
      st->max[n][j] = -INFINITY;
      st->sum[n][j] = st->offset[n][j] = 0;
#pragma unroll
      for (int m = 0; m < C::kSteps; ++m) st->o[n][m][j] = st->o[n][m][2 + j] = 0;
    }
  }
}

// Puts an order into the queue, with the queries of its segment, which the predecessor may write:
// `waited` for it already? By the copying warp.
template <class C>
__device__ __forceinline__ void Push(const DecodeParams& p, const Order& order, bool waited,
                                     std::byte* queries, DecodeShared<C>* shared, Ring* queue) {
  const int lane = threadIdx.x % 32, heads = p.args.shape.heads_per_tile;
  const int rows = order.segment.tile >= 0 ? order.tile.q_len * heads : 0;
  uint64_t* queued = &shared->queued[queue->stage];
  ptx::BarrierWait(&shared->taken[queue->stage], queue->phase ^ 1);
  std::byte* to = queries + queue->stage * p.rows * kQueryBytes<C>;
  const auto from = [&](int row) {
    const int token = order.tile.q_len == 1 ? 0 : row / heads;
    return p.args.q + (order.tile.q_begin + token) * p.args.q_stride +
           static_cast<int64_t>(order.tile.head + row - token * heads) * C::kDim;
  };
  if (lane == 0) shared->orders[queue->stage] = order;
  if (!waited) ptx::GridWait();
#if __CUDA_ARCH__ >= 900
  if (lane == 0) ptx::BarrierExpect(queued, rows * 2 * C::kDim);
  __syncwarp();
#pragma unroll 1
  for (int row = lane; row < rows; row += 32)
    ptx::CopyBytes(to + row * kQueryBytes<C>, from(row), 2 * C::kDim, queued);
#else
  for (int i = lane; i < rows * (C::kDim / 8); i += 32)
    ptx::Copy16(to + i / (C::kDim / 8) * kQueryBytes<C> + i % (C::kDim / 8) * 16,
                from(i / (C::kDim / 8)) + i % (C::kDim / 8) * 8);
  ptx::ArriveAfterCopies(queued);
  if (lane == 0) ptx::BarrierArrive(queued);
#endif
  __syncwarp();
  queue->Advance(1, kQueue);
}

// The copying warp. Until it has waited for the predecessor it may read what is settled
// (DecodeArgs), no more.
template <class C>
__device__ __forceinline__ void Copy(const DecodeParams& p, const DecodeMaps& maps, bool waited,
                                     int* counts, std::byte* stages, std::byte* queries,
                                     DecodeShared<C>* shared) {
  const int lane = threadIdx.x % 32, num_tiles = p.args.num_tiles;
  const int grid = static_cast<int>(gridDim.x);
  DecodeSchedule schedule;
  MakeSchedule(counts, num_tiles, p.args.deterministic, grid, p.tile_lead, counts + num_tiles,
               &schedule);
  const Tile* tiles = num_tiles <= kFewTiles ? shared->tiles : p.args.tiles;
  Ring ring, queue;
  Order order{};
  int split = 0;  // segments with partial results
  // A share of the first line (deterministic: of the second), then what the counter deals.
  const int dealt = schedule.deterministic ? grid : 0;
  const int left = max(0, schedule.lines[1].shares - dealt);
  SegmentWalk walk(schedule);
  walk.Start(schedule.deterministic ? 1 : 0, blockIdx.x);
#pragma unroll 1
  for (;;) {
    if (!walk.Next(&order.segment)) {
      if (!waited) ptx::GridWait();
      waited = true;
      if (left == 0) break;
      int next = 0;
      if (lane == 0) next = static_cast<int>(atomicAdd(&shares_taken, 1));
      next = __shfl_sync(~0u, next, 0);
      // Each thread block asks once too often, and the last of them clears the counter.
      if (next == left + grid - 1 && lane == 0) shares_taken = 0;
      if (next >= left) break;
      walk.Start(1, dealt + next);
      continue;
    }
    order.tile = tiles[order.segment.tile];
    const Run run = LoadRun(p, order.tile, order.tile.run_begin + lane);  // on its way during Push
    CopySegment<C>(p, maps, order.tile, order.segment, run, stages, shared, &ring, waited, [&] {
      Push<C>(p, order, waited, queries, shared, &queue);
      waited = true;
    });
    if (order.segment.slot < 0) continue;
    // Before the next order is there, which may be the last.
    if (lane == 0)
      shared->split[split % (2 * kMostPending)] = {order.segment.tile,
                                                   schedule.Slots(order.segment.tile)};
    ++split;
  }
  order.segment.tile = -1, order.tile.q_len = 0;
  Push<C>(p, order, true, queries, shared, &queue);
}

// A computing warp.
template <class C>
__device__ __forceinline__ void Compute(const DecodeParams& p, const std::byte* stages,
                                        const std::byte* queries, DecodeShared<C>* shared) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int streams = kComputeWarps<C> / kHalves / p.row_groups;  // blocks under way at a time
  const int half = warp % kHalves, stream = warp / kHalves % streams;
  const int first_row = warp / kHalves / streams * 16;
  Ring ring, queue;
  DecodeState<C> st;
  int split = 0, pending = 0;  // segments with partial results: announced, not yet
#pragma unroll 1
  for (;;) {
    ptx::BarrierWait(&shared->queued[queue.stage], queue.phase);
    const Order& order = shared->orders[queue.stage];
    const bool end = order.segment.tile < 0;
    if (pending == kMostPending || (end && pending > 0)) {
      MergeTiles<C>(p, split, pending, shared);
      split += pending, pending = 0;
    }
    if (end) return;
    LoadQueries<C>(p, order.tile, first_row, queries + queue.stage * p.rows * kQueryBytes<C>, &st);
    const int blocks = order.segment.end - order.segment.begin;
    Ring at = ring;
    at.Advance(stream, p.stages);
#pragma unroll 1
    for (int i = stream; i < blocks; i += streams) {
      // Another warp's block may still be on its way into this stage, and the barrier tells odd
      // laps from even ones only: first be sure of the lap.
      while (*const_cast<volatile int*>(&shared->info[at.stage].number) != at.number) {
      }
      ptx::BarrierWait(&shared->full[at.stage], at.phase);
      const BlockInfo info = shared->info[at.stage];
      const BlockMask mask{&order.tile, info.block * kBlockTokens, info.masked != 0};
      DecodeBlock<C>(stages + at.stage * C::kStageBytes, half, p.scale, mask, &st);
      __syncwarp();
      if (lane == 0) ptx::BarrierArrive(&shared->empty[at.stage]);
      at.Advance(streams, p.stages);
    }
    ring.Advance(blocks, p.stages);
    pending += order.segment.slot >= 0;
    FinishSegment<C>(p, order.tile, order.segment, shared, &st);
    __syncwarp();
    if (lane == 0) ptx::BarrierArrive(&shared->taken[queue.stage]);
    queue.Advance(1, kQueue);
  }
}

template <class C>
__global__ void __launch_bounds__(kDecodeThreads<C>, 1)
    DecodeKernel(const __grid_constant__ DecodeParams p, const __grid_constant__ DecodeMaps maps) {
  extern __shared__ std::byte raw[];
  std::byte* stages = raw + (-ptx::SharedAddress(raw) & 1023);
  std::byte* queries = stages + p.stages * C::kStageBytes;
  auto* shared = reinterpret_cast<DecodeShared<C>*>(queries + kQueue * p.rows * kQueryBytes<C>);
  const int num_tiles = p.args.num_tiles;
  int* counts = reinterpret_cast<int*>(shared + 1);
  const int warp = threadIdx.x / 32;

  if (threadIdx.x == 0) {
#pragma unroll 1
    for (int i = 0; i < p.stages; ++i) {
#if __CUDA_ARCH__ >= 900
      ptx::BarrierInit(&shared->full[i], 1);
#else
      ptx::BarrierInit(&shared->full[i], 33);
#endif
      ptx::BarrierInit(&shared->empty[i], kHalves * p.row_groups);
      shared->info[i].number = -1;
    }
#pragma unroll 1
    for (int i = 0; i < kQueue; ++i) {
#if __CUDA_ARCH__ >= 900
      ptx::BarrierInit(&shared->queued[i], 1);
#else
      ptx::BarrierInit(&shared->queued[i], 33);
#endif
      ptx::BarrierInit(&shared->taken[i], kComputeWarps<C>);
    }
    ptx::BarrierInitFence();
#if __CUDA_ARCH__ >= 900
    ptx::PrefetchMap(&maps.pool[0]);
    ptx::PrefetchMap(&maps.pool[1]);
#endif
  }
  // No GridTrigger: with it thread blocks of the next kernels, which wait for this one and for each
  // other, would follow on every multiprocessor without a gap, and it would keep this kernel's
  // division of its memory, with little left for the first-level cache, for a whole layer.
  if (!p.args.settled) ptx::GridWait();
  constexpr int kThreads = kDecodeThreads<C>, kTileWords = sizeof(Tile) / sizeof(int);
  if (num_tiles <= kFewTiles)
#pragma unroll 1
    for (int i = threadIdx.x; i < num_tiles * kTileWords; i += kThreads)
      reinterpret_cast<int*>(shared->tiles)[i] =
          __ldcg(reinterpret_cast<const int*>(p.args.tiles) + i);
  if (p.counts != nullptr)
#pragma unroll 1
    for (int i = threadIdx.x; i < num_tiles; i += kThreads) counts[i] = __ldcg(p.counts + i);
  else
    CountBlocks(p.args.tiles, p.args.runs, num_tiles, warp, kThreads / 32,
                [&](int tile, int blocks) { counts[tile] = blocks; });
  __syncthreads();
  if (warp == kComputeWarps<C>)
    Copy<C>(p, maps, !p.args.settled, counts, stages, queries, shared);
  else
    Compute<C>(p, stages, queries, shared);
}

// Launches one configuration; sets p.stages.
template <class C>
cudaError_t RunDecode(DecodeParams p, int grid, cudaStream_t stream);

}  // namespace lserve::cuda
