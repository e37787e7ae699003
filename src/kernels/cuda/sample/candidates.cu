// Candidates of rows of logits (kernels/candidates.h) in three kernels. The first cuts every row
// into parts of some thousand tokens, one thread block each, and leaves each part's largest logits,
// its sums and its likeliest draws; the second, one thread block a row, finds the row's among those
// and puts them in order; the third, one thread block a draw, adds up what is before a draw that
// the candidates do not reach to, which no draw of peaked logits is. Sums have a fixed order.
//
// Draws are compared in float arithmetic: the sampler computes the few that come out again in
// double, and the bound it is told for the others has room for what they may be off: some 1e-5 for
// two logarithms of a few ulp (kDrawError), and three roundings of (x - largest) / T, a number that
// is no larger than the value and kLargestGumbel.
#include "kernels/candidates.h"
#include "kernels/cuda/device_facts.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/launch_dependent.h"
#include "kernels/cuda/ptx/bulk_copy.cuh"
#include "kernels/cuda/select/topk.cuh"

namespace lserve::cuda {
namespace {

constexpr int kPartTokens = 8192;  // about
constexpr int kMostParts = 16;
constexpr int kMostPartTokens = 20480;  // 80 KB of keys
static_assert(kMostParts * kMostPartTokens == kMostCandidateCols);
static_assert(kMostParts * kDraws <= kCandidates);

// What the first kernel leaves of a part.
struct Part {
  double total, normalizer;
  int32_t ids[kCandidates];  // ascending; as many as the part has, at most
  int32_t draw_ids[kDraws];
  uint32_t draw_keys[kDraws];  // 0: no token
};

__device__ float Usable(float x) { return isnan(x) ? -INFINITY : x; }

// -log(-log(u)) of u = (bits + 0.5) / 2^32, exact to a few ulp at both ends.
__device__ float Gumbel(uint32_t bits) {
  const float minus_log = bits < 0x80000000u
                              ? -logf((static_cast<float>(bits) + 0.5f) * 0x1p-32f)
                              : -log1pf((static_cast<float>(~bits) + 0.5f) * -0x1p-32f);
  return -logf(minus_log);
}

__device__ double BlockSum(double x) {
  __shared__ double of_warp[kTopKWarps];
  __syncthreads();
  for (int d = 16; d > 0; d /= 2) x += __shfl_xor_sync(~0u, x, d);
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = x;
  __syncthreads();
  double sum = 0;
  for (int w = 0; w < kTopKWarps; ++w) sum += of_warp[w];
  return sum;
}

__device__ void TopOrAll(const uint32_t* keys, int n, int k, KeyRange range, int first,
                         int32_t* out) {
  __syncthreads();
  if (n > k) return TopK(keys, n, k, range, first, out);
  for (int i = threadIdx.x; i < n; i += kTopKThreads) out[i] = first + i;
}

__global__ void __launch_bounds__(kTopKThreads)
    PartKernel(const float* logits, int cols, const int32_t* best, const CandidateAsk* asks,
               Part* parts) {
  extern __shared__ uint32_t keys[];
  __shared__ int32_t drawn[kDraws];
  ptx::GridTrigger();
  ptx::GridWait();
  const CandidateAsk ask = asks[blockIdx.y];
  const int64_t row_begin = static_cast<int64_t>(ask.row) * cols;
  const float* row = logits + row_begin;
  const int count = gridDim.x, index = blockIdx.x;
  const int begin = static_cast<int>(static_cast<int64_t>(cols) * index / count);
  const int n = static_cast<int>(static_cast<int64_t>(cols) * (index + 1) / count) - begin;
  Part& part = parts[static_cast<int64_t>(blockIdx.y) * count + index];
  const float largest = Usable(row[best[ask.row]]), floor = largest + ask.floor;

  KeyRange range;
  double total = 0, normalizer = 0;
  for (int i = threadIdx.x; i < n; i += kTopKThreads) {
    const float x = Usable(row[begin + i]);
    keys[i] = Sortable(x);
    range.Add(keys[i]);
    if (x == -INFINITY) continue;
    const double below = static_cast<double>(x) - largest;
    if (ask.total && x >= floor) total += exp(below * ask.inverse_temperature);
    if (ask.normalizer) normalizer += exp(below);
  }
  TopOrAll(keys, n, kCandidates, range, begin, part.ids);
  total = BlockSum(total), normalizer = BlockSum(normalizer);
  if (threadIdx.x == 0) part.total = total, part.normalizer = normalizer;
  if (!ask.draws) return;

  // Every token has its number, however small: bias and penalties come later, and may take away all
  // that is large.
  const float inverse = static_cast<float>(ask.inverse_temperature);
  KeyRange draw_range;
  for (int i = threadIdx.x; i < n; i += kTopKThreads) {
    const float scaled = (Usable(row[begin + i]) - largest) * inverse;
    keys[i] = Sortable(scaled + Gumbel(DrawBits(ask.seed, ask.position, begin + i)));
    draw_range.Add(keys[i]);
  }
  TopOrAll(keys, n, kDraws, draw_range, begin, drawn);
  __syncthreads();
  if (threadIdx.x < kDraws) {
    const bool there = threadIdx.x < n;
    part.draw_ids[threadIdx.x] = there ? drawn[threadIdx.x] : 0;
    part.draw_keys[threadIdx.x] = there ? keys[drawn[threadIdx.x] - begin] : 0;
  }
}

// Ascending, kCandidates entries, by all threads; begins and ends with a barrier.
__device__ void Sort(uint64_t* entries) {
  __syncthreads();
  for (int run = 2; run <= kCandidates; run *= 2) {
    for (int apart = run / 2; apart > 0; apart /= 2) {
      for (int pair = threadIdx.x; pair < kCandidates / 2; pair += kTopKThreads) {
        const int low = pair / apart * 2 * apart + pair % apart, high = low + apart;
        const uint64_t a = entries[low], b = entries[high];
        if ((a > b) == ((low & run) == 0)) entries[low] = b, entries[high] = a;
      }
      __syncthreads();
    }
  }
}

// Sorts before every entry of a smaller key, and of the same key and a larger id.
__device__ uint64_t Entry(uint32_t key, int32_t id) {
  return static_cast<uint64_t>(~key) << 32 | static_cast<uint32_t>(id);
}

__device__ float FromSortable(uint32_t key) {
  return __uint_as_float(key & 0x80000000u ? key ^ 0x80000000u : ~key);
}

// No less than the exact value of a draw that is `value` in float arithmetic.
__device__ float Above(float value) {
  return value > -INFINITY ? value + static_cast<float>(kDrawError) + fabsf(value) * 1e-6f : value;
}

__global__ void __launch_bounds__(kTopKThreads)
    RowKernel(const float* logits, int cols, const CandidateAsk* asks, int num_parts,
              const Part* parts, const int32_t* wanted, CandidateRow* rows, float* wanted_logits) {
  extern __shared__ uint32_t keys[];
  __shared__ int32_t places[kCandidates];
  __shared__ uint64_t entries[kCandidates];
  ptx::GridTrigger();
  ptx::GridWait();
  const CandidateAsk ask = asks[blockIdx.x];
  const float* row = logits + static_cast<int64_t>(ask.row) * cols;
  const Part* own = parts + static_cast<int64_t>(blockIdx.x) * num_parts;
  CandidateRow& out = rows[blockIdx.x];

  // Parts of a row that has several have more than kCandidates tokens each.
  const int n = num_parts > 1 ? num_parts * kCandidates : min(cols, kCandidates);
  const auto id_at = [&](int i) { return own[i / kCandidates].ids[i % kCandidates]; };
  KeyRange range;
  for (int i = threadIdx.x; i < n; i += kTopKThreads) {
    keys[i] = Sortable(Usable(row[id_at(i)]));
    range.Add(keys[i]);
  }
  TopOrAll(keys, n, kCandidates, range, 0, places);
  __syncthreads();
  const int count = min(n, kCandidates);
  for (int i = threadIdx.x; i < kCandidates; i += kTopKThreads)
    entries[i] = i < count ? Entry(keys[places[i]], id_at(places[i])) : ~uint64_t{0};
  Sort(entries);
  for (int i = threadIdx.x; i < count; i += kTopKThreads) {
    const int32_t id = static_cast<int32_t>(entries[i]);
    out.ids[i] = id;
    out.logits[i] = Usable(row[id]);
  }
  for (int i = threadIdx.x; i < ask.wanted_count; i += kTopKThreads)
    wanted_logits[ask.wanted_begin + i] = Usable(row[wanted[ask.wanted_begin + i]]);
  if (threadIdx.x == 0) {
    double total = 0, normalizer = 0;
    for (int p = 0; p < num_parts; ++p) total += own[p].total, normalizer += own[p].normalizer;
    out.total = total;
    out.normalizer = normalizer;
    out.count = count;
    out.draw_bound = 0;
  }
  if (!ask.draws) {
    if (threadIdx.x < kDraws) out.draw_ids[threadIdx.x] = -1;
    return;
  }
  __syncthreads();  // the entries were read
  for (int i = threadIdx.x; i < kCandidates; i += kTopKThreads)
    entries[i] = i < num_parts * kDraws ? Entry(own[i / kDraws].draw_keys[i % kDraws],
                                                own[i / kDraws].draw_ids[i % kDraws])
                                        : ~uint64_t{0};
  Sort(entries);
  if (threadIdx.x < kDraws) {
    const uint32_t key = ~static_cast<uint32_t>(entries[threadIdx.x] >> 32);
    const int32_t id = static_cast<int32_t>(entries[threadIdx.x]);
    out.draw_ids[threadIdx.x] = key == 0 ? -1 : id;
    out.draw_logits[threadIdx.x] = key == 0 ? -INFINITY : Usable(row[id]);
    if (threadIdx.x == kDraws - 1) out.draw_bound = key == 0 ? -INFINITY : Above(FromSortable(key));
  }
}

__global__ void __launch_bounds__(kTopKThreads)
    AboveKernel(const float* logits, int cols, const CandidateAsk* asks, CandidateRow* rows) {
  constexpr int kBatch = 8;  // loads under way
  ptx::GridWait();
  const CandidateAsk ask = asks[blockIdx.y];
  const float* row = logits + static_cast<int64_t>(ask.row) * cols;
  CandidateRow& out = rows[blockIdx.y];
  const int32_t id = out.draw_ids[blockIdx.x];
  const float own = out.draw_logits[blockIdx.x];
  double above = 0;
  if (ask.total && id >= 0 && own <= out.logits[out.count - 1]) {
    const float largest = out.logits[0], floor = largest + ask.floor;
    for (int begin = threadIdx.x; begin < cols; begin += kBatch * kTopKThreads) {
      float x[kBatch];
#pragma unroll
      for (int k = 0; k < kBatch; ++k) {
        const int i = begin + k * kTopKThreads;
        x[k] = i < cols ? row[i] : -INFINITY;
      }
#pragma unroll
      for (int k = 0; k < kBatch; ++k) {
        const int i = begin + k * kTopKThreads;
        const bool before = x[k] > own || (x[k] == own && i < id);  // no NaN is
        if (before && x[k] >= floor && x[k] > -INFINITY)
          above += exp((static_cast<double>(x[k]) - largest) * ask.inverse_temperature);
      }
    }
    above = BlockSum(above);
  }
  if (threadIdx.x == 0) out.draw_above[blockIdx.x] = above;
}

int Parts(int cols) { return min(kMostParts, (cols + kPartTokens - 1) / kPartTokens); }

}  // namespace

size_t CandidateWorkspace(int num_asks, int cols) {
  return sizeof(Part) * static_cast<size_t>(num_asks) * static_cast<size_t>(Parts(cols));
}

cudaError_t LaunchCandidates(const CandidateLaunch& args, cudaStream_t stream) {
  if (args.num_asks == 0) return cudaSuccess;
  if (args.cols > kMostCandidateCols) return cudaErrorInvalidValue;
  const int parts = Parts(args.cols);
  const size_t part_bytes = sizeof(uint32_t) * static_cast<size_t>((args.cols + parts - 1) / parts);
  const size_t row_bytes = sizeof(uint32_t) * kCandidates * static_cast<size_t>(parts);
  static const cudaError_t sized = [] {
    const cudaError_t e =
        cudaFuncSetAttribute(PartKernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             sizeof(uint32_t) * kMostPartTokens);
    return e != cudaSuccess
               ? e
               : cudaFuncSetAttribute(RowKernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      sizeof(uint32_t) * kMostParts * kCandidates);
  }();
  if (sized != cudaSuccess) return sized;
  const bool programmatic = Facts().capability >= 90;
  const unsigned asks = static_cast<unsigned>(args.num_asks);
  Part* scratch = reinterpret_cast<Part*>(args.workspace);
  cudaError_t e = LaunchDependent(PartKernel, dim3(static_cast<unsigned>(parts), asks),
                                  kTopKThreads, part_bytes, stream, programmatic, args.logits,
                                  args.cols, args.best, args.asks, scratch);
  if (e != cudaSuccess) return e;
  e = LaunchDependent(RowKernel, dim3(asks), kTopKThreads, row_bytes, stream, programmatic,
                      args.logits, args.cols, args.asks, parts, static_cast<const Part*>(scratch),
                      args.wanted, args.out, args.wanted_logits);
  if (e != cudaSuccess) return e;
  return LaunchDependent(AboveKernel, dim3(kDraws, asks), kTopKThreads, 0, stream, programmatic,
                         args.logits, args.cols, args.asks, args.out);
}

}  // namespace lserve::cuda
