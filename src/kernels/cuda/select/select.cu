// Page selection: scores of closed pages, from their keys (score_keys.cuh) or their key statistics
// (score_bounds.cuh), then the exact k best.
//
// One kernel: thread blocks take equal shares of all (row, head set, item: a few blocks); the one
// that ends a list's last scores chooses its pages (topk.cuh).
#include <cuda_bf16.h>

#include "kernels/cuda/device_facts.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/launch_dependent.h"
#include "kernels/cuda/ptx/bulk_copy.cuh"
#include "kernels/cuda/select/score_bounds.cuh"
#include "kernels/cuda/select/score_keys.cuh"
#include "kernels/cuda/select/topk.cuh"

namespace lserve::cuda {
namespace {

constexpr int kWarps = kTopKThreads / 32;
constexpr int kSetHeads = 8;          // query heads of one product
constexpr int kMostUnits = 1 << 16;   // of a launch
constexpr int kMostDue = 32;          // units that a thread block announces at a time
constexpr int kStaticShared = 14336;  // of the kernel, rounded up

// Items scored of each unit, a (row, KV head). Zero between launches, which must not overlap in
// time.
__device__ int items_done[kMostUnits];

struct SelectParams {
  SelectLaunch args;
  int group, sets;  // head sets of a KV head
  int num_heads;    // retrieval heads
  uint8_t heads[kMaxKvHeads];
};

// One row's blocks to score; none where every one will be chosen, or none at all.
__device__ __forceinline__ int Ranked(const DecodeRow& row) {
  if (row.slot < 0 || !row.due) return 0;
  const int blocks = row.local_begin - row.sink_blocks;
  return row.k > 0 && blocks > row.k ? blocks : 0;
}

// Where the items of all rows begin; by a warp. prefix: [num_rows + 1].
__device__ __forceinline__ void CountItems(const SelectParams& p, int item_blocks, int* prefix) {
  const int lane = threadIdx.x % 32, rows = p.args.num_rows;
  int before = 0;
#pragma unroll 1
  for (int base = 0; base < rows; base += 32) {
    const int i = base + lane;
    const int items =
        i < rows ? (Ranked(p.args.rows[i]) + item_blocks - 1) / item_blocks * p.num_heads * p.sets
                 : 0;
    int sum = items;
    for (int d = 1; d < 32; d *= 2) {
      const int other = __shfl_up_sync(~0u, sum, d);
      if (lane >= d) sum += other;
    }
    if (i < rows) prefix[i] = before + sum - items;
    before += __shfl_sync(~0u, sum, 31);
  }
  if (lane == 0) prefix[rows] = before;
}

// List of query head (or, shared, of KV head) `head` of a row.
__device__ __forceinline__ int32_t* List(const SelectLaunch& a, const DecodeRow& row, int list,
                                         int k) {
  const int64_t index =
      (static_cast<int64_t>(row.slot) * a.lists.layers + a.layer) * a.lists.lists_per_layer + list;
  if (threadIdx.x == 0) a.lists.counts[index] = k;
  return a.lists.lists + index * a.lists.capacity;
}

// Rows whose every block is chosen, or none.
__device__ __forceinline__ void ChooseAll(const SelectParams& p) {
  const SelectLaunch& a = p.args;
  const int lists_per_head = a.shared ? 1 : p.group, lists = p.num_heads * lists_per_head;
#pragma unroll 1
  for (int i = blockIdx.x; i < a.num_rows * lists; i += gridDim.x) {
    const DecodeRow row = a.rows[i / lists];
    if (row.slot < 0 || !row.due || Ranked(row) > 0) continue;
    const int kv_head = p.heads[i % lists / lists_per_head];
    const int blocks = max(0, min(row.k, row.local_begin - row.sink_blocks));
    int32_t* out =
        List(a, row, a.shared ? kv_head : kv_head * p.group + i % lists_per_head, blocks);
    for (int k = threadIdx.x; k < blocks; k += kTopKThreads) out[k] = row.sink_blocks + k;
  }
}

// [row][q head][max_blocks], from sink_blocks on.
template <class Score>
__device__ __forceinline__ typename Score::Value* Scores(const SelectLaunch& a, int row, int head) {
  return reinterpret_cast<typename Score::Value*>(a.workspace) +
         (static_cast<int64_t>(row) * a.q_heads + head) * a.max_blocks;
}

// The lists of a row's KV head, from its scores.
template <class Score>
__device__ __forceinline__ void Choose(const SelectParams& p, int row_index, int kv_head,
                                       uint32_t* keys) {
  const SelectLaunch& a = p.args;
  const DecodeRow row = a.rows[row_index];
  const int blocks = row.local_begin - row.sink_blocks;
#pragma unroll 1
  for (int l = 0; l < (a.shared ? 1 : p.group); ++l) {
    const int head = kv_head * p.group + l;
    const auto* scores = Scores<Score>(a, row_index, head);
    int32_t* out = List(a, row, a.shared ? kv_head : head, row.k);
    KeyRange range;
    if (a.shared) {
      range = MergeHeads<Score>(scores, a.max_blocks, p.group, blocks,
                                rsqrtf(static_cast<float>(a.view.codec.dim)), keys);
    } else {
      for (int i = threadIdx.x; i < blocks; i += kTopKThreads) {
        keys[i] = Sortable(Score::Read(scores + i));
        range.Add(keys[i]);
      }
    }
    TopK(keys, blocks, row.k, range, row.sink_blocks, out);
    __syncthreads();  // before the next list's keys
  }
}

// Announces the scores of items [begin, end) and chooses where they were the last.
template <class Score>
__device__ __forceinline__ void Announce(const SelectParams& p, const int* prefix, int begin,
                                         int end, uint32_t* keys) {
  __shared__ int due_units[kMostDue], num_due;
  const int lane = threadIdx.x % 32, heads = p.num_heads;
  int row = 0;  // of item `begin`
  while (prefix[row + 1] <= begin) ++row;
  int base = begin;
#pragma unroll 1
  while (base < end) {
    // Up to 32 units of one row, a lane each.
    const int first = prefix[row], each = (prefix[row + 1] - first) / heads;
    const int head = (base - first) / each + lane;
    const int from = max(begin, first + head * each), to = min(end, first + (head + 1) * each);
    const bool mine = head < heads && from < to;
    __syncthreads();  // all scores are written; all have read due_units
    if (threadIdx.x < 32) {
      const int unit = row * heads + head;
      bool due = false;
      if (mine) due = ptx::AddAcqRel(&items_done[unit], to - from) + to - from == each;
      if (due) items_done[unit] = 0;
      const unsigned all = __ballot_sync(~0u, due);
      if (due) due_units[__popc(all & ((1u << lane) - 1))] = head;
      if (lane == 0) num_due = __popc(all);
    }
    __syncthreads();
#pragma unroll 1
    for (int i = 0; i < num_due; ++i) Choose<Score>(p, row, p.heads[due_units[i]], keys);
    base = min(end, first + min(heads, (base - first) / each + 32) * each);
    if (base < end)
      while (prefix[row + 1] <= base) ++row;
  }
}

template <class Score>
__global__ void __launch_bounds__(kTopKThreads, 1)
    SelectKernel(const __grid_constant__ SelectParams p) {
  extern __shared__ uint32_t keys[];  // [max_blocks], then [num_rows + 1] items before a row
  const SelectLaunch& a = p.args;
  int* prefix = reinterpret_cast<int*>(keys + a.max_blocks);
  ptx::GridTrigger();
  bool waited = !a.settled;
  if (waited) ptx::GridWait();
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
  if (warp == 0) CountItems(p, Score::kItemBlocks, prefix);
  __syncthreads();

  const int grid = gridDim.x, total = prefix[a.num_rows];
  const int each = total / grid, extra = total % grid;
  const int begin = blockIdx.x * each + min(blockIdx.x, extra);
  const int end = begin + each + (blockIdx.x < extra ? 1 : 0);
  int row_index = 0;
#pragma unroll 1
  for (int item = begin; item < end;) {  // one (row, head set) after the other
    while (prefix[row_index + 1] <= item) ++row_index;
    const DecodeRow row = a.rows[row_index];
    const int blocks = row.local_begin - row.sink_blocks;
    const int items = (blocks + Score::kItemBlocks - 1) / Score::kItemBlocks;
    const int set = (item - prefix[row_index]) / items;
    const int first = (item - prefix[row_index]) % items;
    const int last = min(items, first + end - item);
    item += last - first;
    const int kv_head = p.heads[set / p.sets];
    const int head = kv_head * p.group + set % p.sets * kSetHeads;
    const int heads = min(kSetHeads, p.group - set % p.sets * kSetHeads);
    const Bf16* q_row = a.q + (row.row + row.q_len - 1) * a.q_stride +
                        static_cast<int64_t>(head + g) * a.view.codec.dim;
    auto* scores = Scores<Score>(a, row_index, head);
    Score score(a, row, kv_head);
    bool have_q = false;
    const auto query = [&] {
      if (have_q) return;
      if (!waited) ptx::GridWait();
      have_q = waited = true;
      score.LoadQuery(q_row, g < heads);
    };
    const auto write = [&](int block, int i, auto... values) {
      if (2 * t + i < heads && block < blocks)
        Score::Put(scores + (2 * t + i) * static_cast<int64_t>(a.max_blocks), blocks, block,
                   values...);
    };
    auto place = score.Find(min(first + warp, last - 1), blocks);
#pragma unroll 1
    for (int at = first + warp; at < last; at += kWarps) {
      const auto here = place;
      place = score.Find(min(at + kWarps, last - 1), blocks);
      score.Run(at, here, query, write);
    }
  }
  if (!waited) ptx::GridWait();
  ChooseAll(p);
  if (begin < end) Announce<Score>(p, prefix, begin, end, keys);
}

template <class Score>
cudaError_t RunSelect(const SelectParams& p, cudaStream_t stream) {
  const DeviceFacts& device = Facts();
  const size_t shared =
      (static_cast<size_t>(p.args.max_blocks) + static_cast<size_t>(p.args.num_rows) + 1) *
      sizeof(int);
  static const cudaError_t sized =
      cudaFuncSetAttribute(SelectKernel<Score>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                           device.shared_bytes - kStaticShared);
  if (sized != cudaSuccess) return sized;
  return LaunchDependent(SelectKernel<Score>, dim3(static_cast<unsigned>(device.processors)),
                         kTopKThreads, shared, stream, device.capability >= 90, p);
}

template <int kDim, int kBits>
cudaError_t RunBounds(const SelectParams& p, cudaStream_t stream) {
  switch (p.args.view.logical_tokens) {
    case 16:
      return RunSelect<BoundScore<kDim, 4, kBits>>(p, stream);
    case 32:
      return RunSelect<BoundScore<kDim, 2, kBits>>(p, stream);
    case 64:
      return RunSelect<BoundScore<kDim, 1, kBits>>(p, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

template <int kDim>
cudaError_t RunSelect(const SelectParams& p, cudaStream_t stream) {
  const DeviceView& view = p.args.view;
  if (p.args.score == PageScore::kKeys) {
    switch (view.codec.k_bits) {
      case 16:
        return RunSelect<KeyScore<kDim, 16>>(p, stream);
      case 8:
        return RunSelect<KeyScore<kDim, 8>>(p, stream);
      case 4:
        return RunSelect<KeyScore<kDim, 4>>(p, stream);
      default:
        return cudaErrorInvalidValue;
    }
  }
  return view.stats_bits == 8 ? RunBounds<kDim, 8>(p, stream) : RunBounds<kDim, 16>(p, stream);
}

}  // namespace

size_t SelectWorkspace(int num_rows, int q_heads, int max_blocks, PageScore score) {
  return (score == PageScore::kKeys ? sizeof(float2) : sizeof(float)) *
         static_cast<size_t>(num_rows) * static_cast<size_t>(q_heads) *
         static_cast<size_t>(max_blocks);
}

cudaError_t LaunchSelect(const SelectLaunch& args, cudaStream_t stream) {
  SelectParams p{};
  p.args = args;
  p.group = args.q_heads / args.view.kv_heads;
  p.sets = (p.group + kSetHeads - 1) / kSetHeads;
  for (int h = 0; h < args.view.kv_heads; ++h)
    if (args.view.head_class[h] == 0) p.heads[p.num_heads++] = static_cast<uint8_t>(h);
  if (p.num_heads == 0 || args.num_rows == 0) return cudaSuccess;
  if (args.reach < 0 || args.reach > kBlockTokens) return cudaErrorInvalidValue;
  if (args.num_rows * p.num_heads > kMostUnits) return cudaErrorInvalidValue;
  if (args.view.codec.dim == 128) return RunSelect<128>(p, stream);
  if (args.view.codec.dim == 64) return RunSelect<64>(p, stream);
  return cudaErrorInvalidValue;
}

}  // namespace lserve::cuda
