// The decode attention kernel: persistent thread blocks of one copying and eight computing warps.
//
// The copying warp walks the block's segments (decode_schedule.cuh), looks pages up 32 at a time
// and keeps a ring of whole slices full. A computing warp takes 32 tokens of a slice for up to 16
// query rows (decode_block.cuh) with a softmax of its own, so nothing is exchanged until a segment
// ends; then the warps are merged in shared memory. Rows beyond 16 go to other warps, which read
// the same slices. Which warp takes which block depends on the place in the segment only.
#pragma once

#include <cuda.h>

#include "kernels/cuda/attn/decode_block.cuh"
#include "kernels/cuda/attn/decode_schedule.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/numbers.cuh"
#include "kernels/cuda/ptx/bulk_copy.cuh"

namespace lserve::cuda {

inline constexpr int kComputeWarps = 8;
inline constexpr int kDecodeThreads = 32 * (kComputeWarps + 1);
inline constexpr int kHalves = 2;  // warps of different tokens of a block
inline constexpr int kMaxStages = 32;
inline constexpr int kCountHere = 9 * 8;  // tiles up to which every thread block counts for itself

// Partial results: [slot][n tile][m tile][lane] float4, the C operand of O^T divided by the sum of
// weights, and [slot][8 n tiles] log2 of that sum (-infinity: nothing seen).
struct DecodeParams {
  DecodeArgs args;
  float scale;  // args.scale in units of log 2
  int group;    // query heads of a KV head
  int rows, n_tiles, row_groups;
  int stages;
  int* counts;
  int* prefix;
  float* lse;
  float4* partial;
};

struct DecodeMaps {
  CUtensorMap pool[2];  // by HeadClass: rows of 128 bytes, boxes of a slice
};

struct BlockInfo {
  int32_t block, masked;
};

// Shared memory after the stages.
template <class C>
struct DecodeShared {
  float4 merge[kComputeWarps][C::kSteps][32];
  float max[kComputeWarps][16], sum[kComputeWarps][16], offset[kComputeWarps][16];
  BlockInfo info[kMaxStages];
  uint64_t full[kMaxStages], empty[kMaxStages];
};

// The copying warp's way along one segment.
template <class C>
__device__ __forceinline__ void CopySegment(const DecodeParams& p, const DecodeMaps& maps,
                                            const Segment& segment, std::byte* stages,
                                            DecodeShared<C>* shared, int* stage, uint32_t* phase) {
  const int lane = threadIdx.x % 32;
  const Tile tile = p.args.tiles[segment.tile];
  const DeviceView& view = p.args.view;
  const int kv_head = tile.head / p.group;
  const int cls = view.head_class[kv_head], rank = view.head_rank[kv_head];
  const DevicePool& pool = view.pools[cls];
  const int32_t* table = pool.table + tile.seq * pool.table_stride;
  int base = 0;  // list position of the first of 32 runs
  for (int r = tile.run_begin; r < tile.run_end && base < segment.end; r += 32) {
    const Run run = r + lane < tile.run_end ? p.args.runs[r + lane] : Run{};
    int before = run.count;  // inclusive
    for (int d = 1; d < 32; d *= 2) {
      const int other = __shfl_up_sync(~0u, before, d);
      if (lane >= d) before += other;
    }
    const int total = __shfl_sync(~0u, before, 31);
    const int to = min(segment.end, base + total);
    for (int at = max(segment.begin, base); at < to; at += 32) {
      const int position = at + lane - base;
      int i = 0;  // the run that holds this lane's position
      for (int step = 16; step > 0; step /= 2)
        if (__shfl_sync(~0u, before, i + step - 1) <= position) i += step;
      const int start = __shfl_sync(~0u, before - run.count, i);
      const int first = __shfl_sync(~0u, run.first, i), masked = __shfl_sync(~0u, run.masked, i);
      const int block = first + position - start;
      const int page = at + lane < to ? table[block] : 0;
      const int n = min(32, to - at);
      for (int k = 0; k < n; ++k) {
        const int one_page = __shfl_sync(~0u, page, k), one_block = __shfl_sync(~0u, block, k);
        const int one_masked = __shfl_sync(~0u, masked, k);
        const int64_t byte = one_page * pool.page_bytes + rank * C::kSliceBytes;
        ptx::BarrierWait(&shared->empty[*stage], *phase ^ 1);
        std::byte* to_stage = stages + *stage * C::kStageBytes;
        if (lane == 0) shared->info[*stage] = {one_block, one_masked};
#if __CUDA_ARCH__ >= 900
        if (lane == 0) {
          ptx::BarrierExpect(&shared->full[*stage], C::kSliceBytes);
          ptx::CopyBox(to_stage, &maps.pool[cls], 0, static_cast<int>(byte / 128),
                       &shared->full[*stage]);
        }
        __syncwarp();
#else
        for (int o = 16 * lane; o < C::kSliceBytes; o += 512)
          ptx::Copy16(to_stage + (o ^ ((o >> 3) & 0x70)), pool.pages + byte + o);
        ptx::ArriveAfterCopies(&shared->full[*stage]);
        if (lane == 0) ptx::BarrierArrive(&shared->full[*stage]);
#endif
        if (++*stage == p.stages) *stage = 0, *phase ^= 1;
      }
    }
    base += total;
  }
}

template <class C>
__device__ __forceinline__ void LoadQueries(const DecodeParams& p, const Tile& tile, int first_row,
                                            DecodeState<C>* st) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int heads = p.args.shape.heads_per_tile, rows = tile.q_len * heads;
#pragma unroll
  for (int n = 0; n < C::kTiles; ++n) {
    const int row = first_row + 8 * n + g;
    const bool real = row < rows;
    const Bf16* q = p.args.q;
    if (real)
      q += (tile.q_begin + row / heads) * p.args.q_stride +
           static_cast<int64_t>(tile.head + row % heads) * C::kDim;
    float sum = 0;
#pragma unroll
    for (int step = 0; step < C::kSteps; ++step) {
      const auto load = [&](int pair) {
        return real ? *reinterpret_cast<const uint32_t*>(q + 2 * pair) : 0u;
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

// Merges the warps of each row group and writes the segment's result. By all computing warps.
template <class C>
__device__ __forceinline__ void FinishSegment(const DecodeParams& p, const Tile& tile, int slot,
                                              DecodeShared<C>* shared, DecodeState<C>* st) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, t = lane % 4, g = lane / 4;
  const int heads = p.args.shape.heads_per_tile, rows = tile.q_len * heads;
  const int warps = kComputeWarps / p.row_groups;  // of a row group
#pragma unroll
  for (int n = 0; n < C::kTiles; ++n)
#pragma unroll
    for (int j = 0; j < 2; ++j) {
#pragma unroll
      for (int d = 4; d < 32; d *= 2) {
        st->sum[n][j] += __shfl_xor_sync(~0u, st->sum[n][j], d);
        st->offset[n][j] += __shfl_xor_sync(~0u, st->offset[n][j], d);
      }
      if (g == 0) {
        const int i = 8 * n + 2 * t + j;
        shared->max[warp][i] = st->max[n][j];
        shared->sum[warp][i] = st->sum[n][j];
        shared->offset[warp][i] = st->offset[n][j];
      }
    }
#pragma unroll
  for (int n = 0; n < C::kTiles; ++n) {
#pragma unroll
    for (int m = 0; m < C::kSteps; ++m)
      shared->merge[warp][m][lane] =
          make_float4(st->o[n][m][0], st->o[n][m][1], st->o[n][m][2], st->o[n][m][3]);
    ptx::NamedBarrier(1, 32 * kComputeWarps);
    for (int i = warp; i < C::kSteps * p.row_groups; i += kComputeWarps) {
      const int m = i % C::kSteps, row_group = i / C::kSteps, first = row_group * warps;
      float max[2] = {-INFINITY, -INFINITY}, sum[2] = {}, offset[2] = {}, o[4] = {};
      for (int w = first; w < first + warps; ++w)
#pragma unroll
        for (int j = 0; j < 2; ++j) max[j] = fmaxf(max[j], shared->max[w][8 * n + 2 * t + j]);
      for (int w = first; w < first + warps; ++w) {
        const float4 v = shared->merge[w][m][lane];
        const float part[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          const int c = 8 * n + 2 * t + j;
          const float weight = max[j] == -INFINITY ? 0.0f : ptx::Exp2(shared->max[w][c] - max[j]);
          sum[j] = fmaf(weight, shared->sum[w][c], sum[j]);
          offset[j] = fmaf(weight, shared->offset[w][c], offset[j]);
          o[j] = fmaf(weight, part[j], o[j]);
          o[2 + j] = fmaf(weight, part[2 + j], o[2 + j]);
        }
      }
      const int n_tile = row_group * C::kTiles + n, channel = RowChannel<C::kPieceChannels>(m, g);
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const float inverse = sum[j] > 0 ? 1.0f / sum[j] : 0.0f;
        o[j] = (o[j] + offset[j]) * inverse;
        o[2 + j] = (o[2 + j] + offset[j]) * inverse;
        const int row = 8 * n_tile + 2 * t + j;
        const float log_sum = sum[j] > 0 ? max[j] + __log2f(sum[j]) : -INFINITY;
        if (slot >= 0) {
          if (m == 0 && g == 0 && n_tile < p.n_tiles)
            p.lse[static_cast<int64_t>(slot) * 8 * p.n_tiles + row] = log_sum;
        } else if (row < rows) {
          const int64_t token = tile.q_begin + row / heads, head = tile.head + row % heads;
          *reinterpret_cast<uint32_t*>(p.args.out + token * p.args.out_stride + head * C::kDim +
                                       channel) = PackBf16(o[j], o[2 + j]);
          if (m == 0 && g == 0 && p.args.lse)
            p.args.lse[token * p.args.shape.num_q_heads + head] = log_sum * 0.69314718f;
        }
      }
      if (slot >= 0 && n_tile < p.n_tiles)
        p.partial[((static_cast<int64_t>(slot) * p.n_tiles + n_tile) * C::kSteps + m) * 32 + lane] =
            make_float4(o[0], o[1], o[2], o[3]);
    }
    ptx::NamedBarrier(1, 32 * kComputeWarps);
  }
}

template <class C>
__global__ void __launch_bounds__(kDecodeThreads, 1)
    DecodeKernel(const __grid_constant__ DecodeParams p, const __grid_constant__ DecodeMaps maps) {
  extern __shared__ std::byte raw[];
  std::byte* stages = raw + (-ptx::SharedAddress(raw) & 1023);
  auto* shared = reinterpret_cast<DecodeShared<C>*>(stages + p.stages * C::kStageBytes);
  const int num_tiles = p.args.num_tiles;
  int* counts = reinterpret_cast<int*>(shared + 1);
  int* prefix = counts + num_tiles;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int streams = kComputeWarps / kHalves / p.row_groups;  // blocks under way at a time

  if (threadIdx.x == 0) {
    for (int i = 0; i < p.stages; ++i) {
#if __CUDA_ARCH__ >= 900
      ptx::BarrierInit(&shared->full[i], 1);
#else
      ptx::BarrierInit(&shared->full[i], 33);
#endif
      ptx::BarrierInit(&shared->empty[i], kHalves * p.row_groups);
    }
    ptx::BarrierInitFence();
#if __CUDA_ARCH__ >= 900
    ptx::PrefetchMap(&maps.pool[0]);
    ptx::PrefetchMap(&maps.pool[1]);
#endif
  }
  ptx::GridTrigger();
  ptx::GridWait();
  if (num_tiles <= kCountHere)
    CountBlocks(p.args.tiles, p.args.runs, num_tiles, warp, kDecodeThreads / 32,
                [&](int tile, int blocks) { counts[tile] = blocks; });
  else
    for (int i = threadIdx.x; i < num_tiles; i += kDecodeThreads) counts[i] = p.counts[i];
  __syncthreads();
  ScanUnits<kDecodeThreads>(counts, num_tiles, p.args.deterministic, prefix);
  if (blockIdx.x == 0)
    for (int i = threadIdx.x; i <= num_tiles; i += kDecodeThreads) p.prefix[i] = prefix[i];

  const DecodeSchedule schedule{counts, prefix, num_tiles, p.args.deterministic};
  SegmentWalk walk(schedule, blockIdx.x, gridDim.x);
  Segment segment;
  int stage = 0;
  uint32_t phase = 0;
  if (warp == kComputeWarps) {
    while (walk.Next(&segment)) CopySegment<C>(p, maps, segment, stages, shared, &stage, &phase);
    return;
  }

  const int half = warp % kHalves, stream = warp / kHalves % streams;
  const int first_row = warp / kHalves / streams * 16;
  DecodeState<C> st;
  while (walk.Next(&segment)) {
    const Tile tile = p.args.tiles[segment.tile];
    LoadQueries<C>(p, tile, first_row, &st);
    const int blocks = segment.end - segment.begin;
    int at = stage + stream;
    uint32_t at_phase = phase;
    if (at >= p.stages) at -= p.stages, at_phase ^= 1;
    for (int i = stream; i < blocks; i += streams) {
      ptx::BarrierWait(&shared->full[at], at_phase);
      const BlockInfo info = shared->info[at];
      const BlockMask mask{&tile, info.block * kBlockTokens, info.masked != 0};
      DecodeBlock<C>(stages + at * C::kStageBytes, half, p.scale, mask, &st);
      __syncwarp();
      if (lane == 0) ptx::BarrierArrive(&shared->empty[at]);
      at += streams;
      if (at >= p.stages) at -= p.stages, at_phase ^= 1;
    }
    const int next = stage + blocks;
    phase ^= next / p.stages & 1;
    stage = next % p.stages;
    FinishSegment<C>(p, tile, segment.slot, shared, &st);
  }
}

// Launches one configuration; sets p.stages.
template <class C>
cudaError_t RunDecode(DecodeParams p, int grid, cudaStream_t stream);

}  // namespace lserve::cuda
