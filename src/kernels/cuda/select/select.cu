// Page selection: scores of closed pages from their key statistics, then the exact k best.
//
// A score is a product of two vectors of 2 D numbers,
//     S = sum_i max(q_i min_i, q_i max_i) = sum_i min(q_i, 0) min_i + max(q_i, 0) max_i,
// so 16 logical pages times up to 8 query heads is a product on tensor units whose A operand are
// the statistics as they lie in memory: each is read once, 16 bytes a lane, for all heads.
//
// ScoreKernel: warps take equal shares of all (row, head set, 16 logical pages). TopKKernel
// (topk.cuh): one thread block a list.
#include <cuda_bf16.h>

#include "kernels/cuda/device_facts.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/launch_dependent.h"
#include "kernels/cuda/ptx/bulk_copy.cuh"
#include "kernels/cuda/ptx/warp_mma.cuh"
#include "kernels/cuda/select/topk.cuh"

namespace lserve::cuda {
namespace {

constexpr int kScoreThreads = 256;
constexpr int kSetHeads = 8;  // query heads of one product

struct ScoreParams {
  SelectLaunch args;
  float* scores;    // [row][q head][max_blocks], from sink_blocks on
  int group, sets;  // head sets of a KV head
  int num_heads;    // retrieval heads
  uint8_t heads[kMaxKvHeads];
};

__device__ __forceinline__ uint32_t Negative(uint32_t pair) {
  const __nv_bfloat162 x = __hmin2(reinterpret_cast<const __nv_bfloat162&>(pair), __nv_bfloat162{});
  return reinterpret_cast<const uint32_t&>(x);
}
__device__ __forceinline__ uint32_t Positive(uint32_t pair) {
  const __nv_bfloat162 x = __hmax2(reinterpret_cast<const __nv_bfloat162&>(pair), __nv_bfloat162{});
  return reinterpret_cast<const uint32_t&>(x);
}

// One row's blocks to score; none where every one will be chosen.
__device__ __forceinline__ int Ranked(const DecodeRow& row) {
  if (row.slot < 0 || !row.due) return 0;
  const int blocks = row.local_begin - row.sink_blocks;
  return blocks > row.k ? blocks : 0;
}

// kDim channels, kPages logical pages of a block.
template <int kDim, int kPages>
__global__ void __launch_bounds__(kScoreThreads, 2)
    ScoreKernel(const __grid_constant__ ScoreParams p) {
  constexpr int kItemBlocks = 16 / kPages;  // of 16 logical pages
  constexpr int kLoads = kDim / 16;         // of 16 bytes, of a lane and logical page
  extern __shared__ int prefix[];           // [num_rows + 1] items before each row
  const SelectLaunch& a = p.args;
  ptx::GridTrigger();
  ptx::GridWait();
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int sets = p.num_heads * p.sets;
  if (threadIdx.x < 32) {
    int before = 0;
    for (int base = 0; base < a.num_rows; base += 32) {
      const int i = base + lane;
      const int items =
          i < a.num_rows ? (Ranked(a.rows[i]) + kItemBlocks - 1) / kItemBlocks * sets : 0;
      int sum = items;
      for (int d = 1; d < 32; d *= 2) {
        const int other = __shfl_up_sync(~0u, sum, d);
        if (lane >= d) sum += other;
      }
      if (i < a.num_rows) prefix[i] = before + sum - items;
      before += __shfl_sync(~0u, sum, 31);
    }
    if (lane == 0) prefix[a.num_rows] = before;
  }
  __syncthreads();

  const int warps = gridDim.x * (kScoreThreads / 32);
  const int warp = (threadIdx.x / 32) * gridDim.x + blockIdx.x;
  const int each = prefix[a.num_rows] / warps, extra = prefix[a.num_rows] % warps;
  int item = warp * each + min(warp, extra);
  const int end = item + each + (warp < extra ? 1 : 0);
  if (item >= end) return;
  int row_index = 0;
  while (prefix[row_index + 1] <= item) ++row_index;

  while (item < end) {  // one (row, head set) after the other
    while (prefix[row_index + 1] <= item) ++row_index;
    const DecodeRow row = a.rows[row_index];
    const int blocks = row.local_begin - row.sink_blocks;
    const int items = (blocks + kItemBlocks - 1) / kItemBlocks;
    const int set = (item - prefix[row_index]) / items;
    const int first = (item - prefix[row_index]) % items;
    const int last = min(items, first + end - item);
    item += last - first;
    const int kv_head = p.heads[set / p.sets];
    const int head = kv_head * p.group + set % p.sets * kSetHeads;
    const int heads = min(kSetHeads, p.group - set % p.sets * kSetHeads);
    const DevicePool& pool = a.view.pools[a.view.head_class[kv_head]];
    const int32_t* table = pool.table + row.slot * pool.table_stride + row.sink_blocks;
    const uint16_t* stats = pool.stats + a.view.head_rank[kv_head] * (kPages * 2 * kDim);

    uint4 q[kLoads / 2];  // of head g: 8 channels from 32 j + 8 t
    const Bf16* q_row =
        a.q + (row.row + row.q_len - 1) * a.q_stride + static_cast<int64_t>(head + g) * kDim;
#pragma unroll
    for (int j = 0; j < kLoads / 2; ++j)
      q[j] = g < heads ? *reinterpret_cast<const uint4*>(q_row + 32 * j + 8 * t) : uint4{};
    float* scores = p.scores + (static_cast<int64_t>(row_index) * a.q_heads + head) * a.max_blocks;

    // Rows g and g + 8 of the product are logical pages g and g + 8 of the item.
    const auto page = [&](int at, int r) {
      return at < last ? table[min(at * kItemBlocks + (g + 8 * r) / kPages, blocks - 1)] : 0;
    };
    int next[2] = {page(first, 0), page(first, 1)};
    for (int at = first; at < last; ++at) {
      uint4 x[2][kLoads];
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const uint16_t* from =
            stats + next[r] * pool.stats_page_elements + (g + 8 * r) % kPages * (2 * kDim) + 8 * t;
#pragma unroll
        for (int j = 0; j < kLoads; ++j)
          x[r][j] = __ldcs(reinterpret_cast<const uint4*>(from + 32 * j));
      }
      next[0] = page(at + 1, 0), next[1] = page(at + 1, 1);
      float s[2][4] = {};
#pragma unroll
      for (int j = 0; j < kLoads; ++j) {
        const uint4 y = q[j % (kLoads / 2)];
        const auto part = [&](uint32_t w) { return j < kLoads / 2 ? Negative(w) : Positive(w); };
        const uint32_t even[4] = {x[0][j].x, x[1][j].x, x[0][j].y, x[1][j].y};
        const uint32_t odd[4] = {x[0][j].z, x[1][j].z, x[0][j].w, x[1][j].w};
        ptx::MmaBf16(s[0], even, part(y.x), part(y.y));
        ptx::MmaBf16(s[1], odd, part(y.z), part(y.w));
      }
#pragma unroll
      for (int r = 0; r < 2; ++r)
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          // An empty logical page gives NaN or -infinity, and counts for nothing.
          float best = fmaxf(s[0][2 * r + h] + s[1][2 * r + h], -INFINITY);
#pragma unroll
          for (int d = 1; d < kPages; d *= 2) best = fmaxf(best, __shfl_xor_sync(~0u, best, 4 * d));
          const int block = at * kItemBlocks + (g + 8 * r) / kPages;
          if (g % kPages == 0 && 2 * t + h < heads && block < blocks)
            scores[(2 * t + h) * static_cast<int64_t>(a.max_blocks) + block] = best;
        }
    }
  }
}

template <int kDim>
cudaError_t Score(const ScoreParams& p, unsigned grid, bool programmatic, cudaStream_t stream) {
  const size_t shared = (static_cast<size_t>(p.args.num_rows) + 1) * sizeof(int);
  const auto launch = [&](auto kernel) {
    return LaunchDependent(kernel, dim3(grid), kScoreThreads, shared, stream, programmatic, p);
  };
  switch (p.args.view.logical_tokens) {
    case 16:
      return launch(ScoreKernel<kDim, 4>);
    case 32:
      return launch(ScoreKernel<kDim, 2>);
    case 64:
      return launch(ScoreKernel<kDim, 1>);
    default:
      return cudaErrorInvalidValue;
  }
}

__global__ void __launch_bounds__(kTopKThreads) TopKKernel(const __grid_constant__ ScoreParams p) {
  extern __shared__ uint32_t keys[];  // [max_blocks]
  const SelectLaunch& a = p.args;
  ptx::GridWait();
  const DecodeRow row = a.rows[blockIdx.y];
  if (row.slot < 0 || !row.due) return;
  const int lists_per_head = a.shared ? 1 : p.group;
  const int kv_head = p.heads[blockIdx.x / lists_per_head];
  const int head = kv_head * p.group + blockIdx.x % lists_per_head;
  const int list = a.shared ? kv_head : head;
  const int64_t index =
      (static_cast<int64_t>(row.slot) * a.lists.layers + a.layer) * a.lists.lists_per_layer + list;
  int32_t* out = a.lists.lists + index * a.lists.capacity;
  const int blocks = max(0, row.local_begin - row.sink_blocks), k = min(row.k, blocks);
  if (threadIdx.x == 0) a.lists.counts[index] = k;
  if (Ranked(row) == 0) {
    for (int i = threadIdx.x; i < k; i += kTopKThreads) out[i] = row.sink_blocks + i;
    return;
  }
  const float* scores =
      p.scores + (static_cast<int64_t>(blockIdx.y) * a.q_heads + head) * a.max_blocks;
  KeyRange range;
  if (a.shared) {
    range = MergeHeads(scores, a.max_blocks, p.group, blocks,
                       rsqrtf(static_cast<float>(a.view.codec.dim)), keys);
  } else {
    for (int i = threadIdx.x; i < blocks; i += kTopKThreads) {
      keys[i] = Sortable(scores[i]);
      range.Add(keys[i]);
    }
  }
  TopK(keys, blocks, k, range, row.sink_blocks, out);
}

}  // namespace

size_t SelectWorkspace(int num_rows, int q_heads, int max_blocks) {
  return sizeof(float) * static_cast<size_t>(num_rows) * static_cast<size_t>(q_heads) *
         static_cast<size_t>(max_blocks);
}

cudaError_t LaunchSelect(const SelectLaunch& args, cudaStream_t stream) {
  const DeviceFacts& device = Facts();
  const bool programmatic = device.capability >= 90;
  ScoreParams p{};
  p.args = args;
  p.scores = reinterpret_cast<float*>(args.workspace);
  p.group = args.q_heads / args.view.kv_heads;
  p.sets = (p.group + kSetHeads - 1) / kSetHeads;
  for (int h = 0; h < args.view.kv_heads; ++h)
    if (args.view.head_class[h] == 0) p.heads[p.num_heads++] = static_cast<uint8_t>(h);
  if (p.num_heads == 0 || args.num_rows == 0) return cudaSuccess;
  const unsigned grid = 2 * static_cast<unsigned>(device.processors);
  const cudaError_t e = args.view.codec.dim == 128  ? Score<128>(p, grid, programmatic, stream)
                        : args.view.codec.dim == 64 ? Score<64>(p, grid, programmatic, stream)
                                                    : cudaErrorInvalidValue;
  if (e != cudaSuccess) return e;
  static const cudaError_t sized = cudaFuncSetAttribute(
      TopKKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, device.shared_bytes - 8192);
  if (sized != cudaSuccess) return sized;
  const dim3 lists(static_cast<unsigned>(p.num_heads * (args.shared ? 1 : p.group)),
                   static_cast<unsigned>(args.num_rows));
  return LaunchDependent(TopKKernel, lists, kTopKThreads,
                         static_cast<size_t>(args.max_blocks) * sizeof(uint32_t), stream,
                         programmatic, p);
}

}  // namespace lserve::cuda
