// Block-sparse prefill attention for Hopper: docs/kernels/prefill.md.
//
// A CTA is one producer warpgroup and kWarpgroups consumer warpgroups of 64 query rows each, all of
// one query head. CTAs are persistent and take work items (tile, head), longest first, from a
// counter. The producer walks the tile's runs from the newest block back and copies two listed
// 64-token slices, adjacent or not, into each 128-token stage of K and of V. A consumer overlaps
// the softmax of a stage with its products Q K of the same stage's successor and P V of its
// predecessor, and the warpgroups take turns in issuing products.
#include <cuda.h>
#include <cudaTypedefs.h>

#include <algorithm>

#include "kernels/cuda/attn/prefill.h"
#include "kernels/cuda/attn/prefill_softmax.cuh"
#include "kernels/cuda/device_facts.h"
#include "kernels/cuda/numbers.cuh"
#include "kernels/cuda/ptx/mbarrier.cuh"
#include "kernels/cuda/ptx/tma.cuh"
#include "kernels/cuda/ptx/wgmma.cuh"

namespace lserve::cuda {
namespace {

constexpr int kStageTokens = 2 * kBlockTokens;
constexpr int kRowBytes = 128;  // of a 64-channel strip: the swizzle's width
constexpr int kStripChannels = kRowBytes / 2;
constexpr int kSliceStrip = kBlockTokens * kRowBytes;
constexpr int kQBuffers = 2;
constexpr int kNowhere = 1 << 30;  // position of a slice that is not there: after every query

template <int kD, int kWarpgroups, int kStages_>
struct Config {
  static constexpr int kDim = kD;
  static constexpr int kConsumers = kWarpgroups;
  static constexpr int kStages = kStages_;
  static constexpr int kRows = 64 * kWarpgroups;
  static constexpr int kStrips = kD / kStripChannels;
  static constexpr int kThreads = 128 * (kWarpgroups + 1);
  static constexpr int kQStrip = kRows * kRowBytes;
  static constexpr int kQBytes = kQStrip * kStrips;
  static constexpr int kKvStrip = kStageTokens * kRowBytes;
  static constexpr int kKvBytes = kKvStrip * kStrips;  // of K or V in a stage
  // The register file is 64K: what the producer leaves goes to the consumers.
  static constexpr int kProducerRegisters = kWarpgroups == 2 ? 40 : 32;
  static constexpr int kConsumerRegisters = kWarpgroups == 2 ? 232 : 160;
};

// What consumers must know of the item in a Q buffer.
struct Work {
  Tile tile;
  int head;  // -1: no more items
};

// What they must know of a stage.
struct Stage {
  int first[2];  // position of each slice's first token
  int masked, last;
};

template <class C>
struct Shared {
  uint8_t q[kQBuffers][C::kQBytes];    // [strip][row][64], swizzled; then the output's staging
  uint8_t k[C::kStages][C::kKvBytes];  // [strip][token][64], swizzled
  uint8_t v[C::kStages][C::kKvBytes];  // [slice][strip][token][64], swizzled
  Work work[kQBuffers];
  Stage stages[C::kStages];
  uint64_t q_full[kQBuffers], q_empty[kQBuffers];
  uint64_t k_full[C::kStages], k_empty[C::kStages], v_full[C::kStages], v_empty[C::kStages];
};

struct KernelArgs {
  Bf16* out;
  float* lse;
  int64_t out_stride;
  const Tile* tiles;
  const Run* runs;
  PrefillQueue* queue;
  int num_items, heads_per_tile, group, first_kv_head, num_q_heads;
  float scale;
};

// Position in a ring of kSize buffers with the parity of its current use.
template <int kSize>
struct Ring {
  int index = 0;
  uint32_t parity = 0;
  __device__ void Next() {
    if (++index == kSize) {
      index = 0;
      parity ^= 1;
    }
  }
};

template <class C>
__device__ void Produce(Shared<C>& s, const KernelArgs& args, const CUtensorMap& q_map,
                        const CUtensorMap& k_map, const CUtensorMap& v_map) {
  Ring<kQBuffers> q;
  Ring<C::kStages> kv;
  for (;; q.Next()) {
    const int item = atomicAdd(&args.queue->next, 1);
    ptx::BarrierWaitOrTrap(ptx::SharedAddress(&s.q_empty[q.index]), q.parity ^ 1);
    const uint32_t q_full = ptx::SharedAddress(&s.q_full[q.index]);
    Work& work = s.work[q.index];
    if (item >= args.num_items) {
      work.head = -1;
      ptx::BarrierArrive(q_full);
      // Stays until all items are done, so that somebody notices if one never is.
      for (int i = 1; i < kQBuffers; ++i) {
        q.Next();
        ptx::BarrierWaitOrTrap(ptx::SharedAddress(&s.q_empty[q.index]), q.parity ^ 1);
      }
      return;
    }
    const Tile tile = args.tiles[args.queue->order[item / args.heads_per_tile]];
    work.tile = tile;
    const int head = tile.head + item % args.heads_per_tile;
    work.head = head;
    const int kv_head = head / args.group - args.first_kv_head;
    ptx::BarrierArriveExpect(q_full, C::kQBytes);
#pragma unroll
    for (int strip = 0; strip < C::kStrips; ++strip)
      ptx::TmaLoad(ptx::SharedAddress(s.q[q.index] + strip * C::kQStrip), &q_map, q_full, 0,
                   head * C::kStrips + strip, tile.q_begin);

    // Two slices a stage, from the newest back; the last stage of an odd list has one and a slice
    // that lies nowhere and reads as zero.
    int run_index = tile.run_end - 1;
    Run run = args.runs[run_index];
    Run before = run_index > tile.run_begin ? args.runs[run_index - 1] : Run{};
    for (bool last = false; !last; kv.Next()) {
      Stage stage;
      stage.masked = 0;
#pragma unroll
      for (int slice = 1; slice >= 0; --slice) {
        if (last) {
          stage.first[slice] = kNowhere;
          stage.masked = 1;
          continue;
        }
        stage.first[slice] = (run.first + run.count - 1) * kBlockTokens;
        stage.masked |= run.masked;
        if (--run.count == 0) {
          last = --run_index < tile.run_begin;
          run = before;
          if (run_index > tile.run_begin) before = args.runs[run_index - 1];
        }
      }
      stage.last = last;
      ptx::BarrierWaitOrTrap(ptx::SharedAddress(&s.k_empty[kv.index]), kv.parity ^ 1);
      s.stages[kv.index] = stage;
      const uint32_t k_full = ptx::SharedAddress(&s.k_full[kv.index]);
      ptx::BarrierArriveExpect(k_full, C::kKvBytes);
#pragma unroll
      for (int slice = 0; slice < 2; ++slice)
#pragma unroll
        for (int strip = 0; strip < C::kStrips; ++strip)
          ptx::TmaLoad(
              ptx::SharedAddress(s.k[kv.index] + strip * C::kKvStrip + slice * kSliceStrip), &k_map,
              k_full, 0, stage.first[slice], strip, kv_head);
      ptx::BarrierWaitOrTrap(ptx::SharedAddress(&s.v_empty[kv.index]), kv.parity ^ 1);
      const uint32_t v_full = ptx::SharedAddress(&s.v_full[kv.index]);
      ptx::BarrierArriveExpect(v_full, C::kKvBytes);
#pragma unroll
      for (int slice = 0; slice < 2; ++slice)
        ptx::TmaLoad(ptx::SharedAddress(s.v[kv.index] + slice * kSliceStrip * C::kStrips), &v_map,
                     v_full, 0, stage.first[slice], 0, kv_head);
    }
  }
}

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

// s = Q K^T, asynchronously.
template <class C>
__device__ __forceinline__ void IssueScores(float (&s)[64], uint64_t q, uint64_t k) {
#pragma unroll
  for (int i = 0; i < C::kDim / 16; ++i)
    ptx::WgmmaShared(s, ptx::Advance(q, i / 4 * C::kQStrip + i % 4 * 32),
                     ptx::Advance(k, i / 4 * C::kKvStrip + i % 4 * 32), i != 0);
  ptx::WgmmaCommit();
}

// o += P V, asynchronously.
template <class C>
__device__ __forceinline__ void IssueValues(float (&o)[C::kDim / 2], const uint32_t (&p)[32],
                                            uint64_t v) {
#pragma unroll
  for (int i = 0; i < kStageTokens / 16; ++i)
    ptx::WgmmaRegisters(o, p[4 * i], p[4 * i + 1], p[4 * i + 2], p[4 * i + 3],
                        ptx::Advance(v, i / 4 * kSliceStrip * C::kStrips + i % 4 * 16 * kRowBytes));
  ptx::WgmmaCommit();
}

// The accumulator's registers of 16 columns are, rounded, the A operand's of 16 summed indices.
__device__ __forceinline__ void PackScores(const float (&s)[64], uint32_t (&p)[32]) {
#pragma unroll
  for (int i = 0; i < 32; ++i) p[i] = PackBf16(s[2 * i], s[2 * i + 1]);
}

__device__ __forceinline__ void Mask(float (&s)[64], const Stage& stage, const Tile& tile,
                                     int q_pos) {
  const int column = static_cast<int>(threadIdx.x) % 4 * 2;
#pragma unroll
  for (int i = 0; i < 64; ++i) {
    const int key = stage.first[i / 32] + column + i % 32 / 4 * 8 + i % 2;
    if (!Visible(tile, q_pos + (i % 4 < 2 ? 0 : 8), key)) s[i] = -INFINITY;
  }
}

// Normalises a warp's 16 rows, stages them in its own rows of the Q buffer and writes those that
// the tile has, 16 bytes a lane.
template <class C>
__device__ __forceinline__ void StoreOutput(const float (&o)[C::kDim / 2], const SoftmaxRows& rows,
                                            const Work& work, uint8_t* q, int warp_row,
                                            const KernelArgs& args) {
  const int lane = static_cast<int>(threadIdx.x) % 32, row = lane / 4;
  uint8_t* stage = q + warp_row * kRowBytes;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const float sum = QuadSum(rows.sum[r]);
    const float inverse = sum > 0.f ? 1.f / sum : 0.f;
#pragma unroll
    for (int g = 0; g < C::kDim / 8; ++g)
      *reinterpret_cast<uint32_t*>(stage + g / 8 * C::kQStrip + (row + 8 * r) * kRowBytes +
                                   ((g % 8) ^ row) * 16 + lane % 4 * 4) =
          PackBf16(o[4 * g + 2 * r] * inverse, o[4 * g + 2 * r + 1] * inverse);
    const int tile_row = warp_row + row + 8 * r;
    if (args.lse != nullptr && lane % 4 == 0 && tile_row < work.tile.q_len)
      args.lse[static_cast<int64_t>(work.tile.q_begin + tile_row) * args.num_q_heads + work.head] =
          LogSum(rows.max[r], sum, args.scale);
  }
  __syncwarp();
  constexpr int kChunks = C::kDim / 8;  // of 16 bytes a row
#pragma unroll
  for (int i = 0; i < kChunks / 2; ++i) {
    const int r = i * (32 / kChunks) + lane / kChunks, chunk = lane % kChunks;
    const uint4 value = *reinterpret_cast<const uint4*>(
        stage + chunk / 8 * C::kQStrip + r * kRowBytes + ((chunk % 8) ^ (r % 8)) * 16);
    if (warp_row + r < work.tile.q_len)
      *reinterpret_cast<uint4*>(args.out + (work.tile.q_begin + warp_row + r) * args.out_stride +
                                work.head * C::kDim + chunk * 8) = value;
  }
}

template <class C>
__device__ void Consume(Shared<C>& sm, const KernelArgs& args) {
  const int thread = static_cast<int>(threadIdx.x) - 128;
  const int group = thread / 128, lane = thread % 32;
  const int warp_row = thread / 32 * 16;
  // Warpgroups take turns in issuing: barrier 1 + group is open when it is group's turn.
  const auto take_turn = [&] { ptx::NamedBarrierSync(1 + group, 256); };
  const auto pass_turn = [&] { ptx::NamedBarrierArrive(1 + (group + 1) % C::kConsumers, 256); };
  if (group == C::kConsumers - 1) ptx::NamedBarrierArrive(1, 256);
  const auto release = [&](uint64_t& barrier) {
    __syncwarp();
    if (lane == 0) ptx::BarrierArrive(ptx::SharedAddress(&barrier));
  };
  Ring<kQBuffers> q;
  Ring<C::kStages> k, v;
  for (;; q.Next()) {
    ptx::BarrierWait(ptx::SharedAddress(&sm.q_full[q.index]), q.parity);
    const Work& work = sm.work[q.index];
    if (work.head < 0) return;
    const Tile& tile = work.tile;
    const int q_pos = tile.q_pos + warp_row + lane / 4;
    const uint64_t q_operand = ptx::SwizzledOperand(
        ptx::SharedAddress(sm.q[q.index] + group * 64 * kRowBytes), 8 * kRowBytes, 0);
    const auto k_operand = [&] {
      return ptx::SwizzledOperand(ptx::SharedAddress(sm.k[k.index]), 8 * kRowBytes, 0);
    };
    const auto v_operand = [&] {
      return ptx::SwizzledOperand(ptx::SharedAddress(sm.v[v.index]), 8 * kRowBytes, kSliceStrip);
    };
    float o[C::kDim / 2], s[64], rescale[2];
    uint32_t p[32];
    SoftmaxRows rows;

    ptx::BarrierWait(ptx::SharedAddress(&sm.k_full[k.index]), k.parity);
    Stage stage = sm.stages[k.index];
    ptx::WgmmaFence();
    IssueScores<C>(s, q_operand, k_operand());
    ptx::WgmmaWait<0>();
    ptx::Pin(s);
    release(sm.k_empty[k.index]);
    k.Next();
    if (stage.masked) Mask(s, stage, tile, q_pos);
    SoftmaxStep(s, args.scale, &rows, rescale);
    PackScores(s, p);
#pragma unroll
    for (float& x : o) x = 0.f;

    while (!stage.last) {
      ptx::BarrierWait(ptx::SharedAddress(&sm.k_full[k.index]), k.parity);
      stage = sm.stages[k.index];
      ptx::BarrierWait(ptx::SharedAddress(&sm.v_full[v.index]), v.parity);
      take_turn();
      ptx::Pin(o);
      ptx::Pin(p);
      ptx::WgmmaFence();
      IssueScores<C>(s, q_operand, k_operand());
      IssueValues<C>(o, p, v_operand());
      pass_turn();
      ptx::WgmmaWait<1>();
      ptx::Pin(s);
      release(sm.k_empty[k.index]);
      k.Next();
      if (stage.masked) Mask(s, stage, tile, q_pos);
      SoftmaxStep(s, args.scale, &rows, rescale);
      ptx::WgmmaWait<0>();
      ptx::Pin(o);
      release(sm.v_empty[v.index]);
      v.Next();
      PackScores(s, p);
#pragma unroll
      for (int i = 0; i < C::kDim / 2; ++i) o[i] *= rescale[i % 4 / 2];
    }
    ptx::BarrierWait(ptx::SharedAddress(&sm.v_full[v.index]), v.parity);
    ptx::Pin(o);
    ptx::Pin(p);
    ptx::WgmmaFence();
    IssueValues<C>(o, p, v_operand());
    ptx::WgmmaWait<0>();
    ptx::Pin(o);
    release(sm.v_empty[v.index]);
    v.Next();

    // No warp of the group reads Q any more once all have waited for their products.
    ptx::NamedBarrierSync(8 + group, 128);
    StoreOutput<C>(o, rows, work, sm.q[q.index], warp_row, args);
    ptx::AsyncProxyFence();
    release(sm.q_empty[q.index]);
  }
}

#endif

template <class C>
__global__ void __launch_bounds__(C::kThreads, 1)
    PrefillKernel(const __grid_constant__ CUtensorMap q_map,
                  const __grid_constant__ CUtensorMap k_map,
                  const __grid_constant__ CUtensorMap v_map, const KernelArgs args) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(1024) uint8_t shared[];
  Shared<C>& s = *reinterpret_cast<Shared<C>*>(shared);
  if (threadIdx.x == 0) {
    constexpr int kWarps = 4 * C::kConsumers;
    for (int i = 0; i < kQBuffers; ++i) {
      ptx::BarrierInit(ptx::SharedAddress(&s.q_full[i]), 1);
      ptx::BarrierInit(ptx::SharedAddress(&s.q_empty[i]), kWarps);
    }
    for (int i = 0; i < C::kStages; ++i) {
      ptx::BarrierInit(ptx::SharedAddress(&s.k_full[i]), 1);
      ptx::BarrierInit(ptx::SharedAddress(&s.v_full[i]), 1);
      ptx::BarrierInit(ptx::SharedAddress(&s.k_empty[i]), kWarps);
      ptx::BarrierInit(ptx::SharedAddress(&s.v_empty[i]), kWarps);
    }
    ptx::BarrierInitFence();
  }
  __syncthreads();
  if (threadIdx.x < 128) {
    ptx::LowerRegisters<C::kProducerRegisters>();
    if (threadIdx.x == 0) Produce<C>(s, args, q_map, k_map, v_map);
  } else {
    ptx::RaiseRegisters<C::kConsumerRegisters>();
    Consume<C>(s, args);
  }
#else
  __trap();
#endif
}

// ---------------------------------------------------------------- host

PFN_cuTensorMapEncodeTiled_v12000 TensorMapEncoder() {
  static const auto encoder = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found;
    if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000,
                                         cudaEnableDefault, &found) != cudaSuccess ||
        found != cudaDriverEntryPointSuccess)
      function = nullptr;
    return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(function);
  }();
  return encoder;
}

// A bf16 tensor, strips of 64 channels innermost; strides in elements from dimension 1 on.
template <int kRank>
bool Encode(const Bf16* data, const cuuint64_t (&dims)[kRank], const int64_t (&strides)[kRank - 1],
            const cuuint32_t (&box)[kRank], CUtensorMap* map) {
  const auto encoder = TensorMapEncoder();
  if (encoder == nullptr) return false;
  cuuint64_t bytes[kRank - 1];
  cuuint32_t step[kRank];
  for (int i = 0; i < kRank - 1; ++i) bytes[i] = static_cast<cuuint64_t>(strides[i]) * sizeof(Bf16);
  for (cuuint32_t& s : step) s = 1;
  return encoder(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, kRank, const_cast<Bf16*>(data), dims, bytes,
                 box, step, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                 CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                 CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

template <class C>
cudaError_t Launch(const PrefillArgs& args, cudaStream_t stream) {
  int rows = 0;
  for (int i = 0; i < args.num_tiles; ++i) {
    const Tile& t = args.host_tiles[i];
    rows = std::max(rows, t.q_begin + t.q_len);
    if (t.kv_len != args.host_tiles[0].kv_len) return cudaErrorInvalidValue;
  }
  const PlanShape& shape = args.shape;
  if (shape.q_tile > C::kRows) return cudaErrorInvalidValue;
  // What lies past kv_len is outside of the tensors and reads as zero, whatever is there.
  const auto kv_len = static_cast<cuuint64_t>(args.host_tiles[0].kv_len);
  const auto kv_heads = static_cast<cuuint64_t>(shape.num_kv_heads - args.first_kv_head);
  CUtensorMap q_map, k_map, v_map;
  const bool encoded =
      Encode<3>(args.q,
                {kStripChannels, static_cast<cuuint64_t>(shape.num_q_heads * C::kStrips),
                 static_cast<cuuint64_t>(rows)},
                {kStripChannels, args.q_stride}, {kStripChannels, 1, C::kRows}, &q_map) &&
      Encode<4>(args.k, {kStripChannels, kv_len, C::kStrips, kv_heads},
                {C::kDim, kStripChannels, args.head_stride}, {kStripChannels, kBlockTokens, 1, 1},
                &k_map) &&
      Encode<4>(args.v, {kStripChannels, kv_len, C::kStrips, kv_heads},
                {C::kDim, kStripChannels, args.head_stride},
                {kStripChannels, kBlockTokens, C::kStrips, 1}, &v_map);
  if (!encoded) return cudaErrorInvalidValue;
  if (const cudaError_t e = QueuePrefill(args, stream); e != cudaSuccess) return e;
  KernelArgs kernel{};
  kernel.out = args.out;
  kernel.lse = args.lse;
  kernel.out_stride = args.out_stride;
  kernel.tiles = args.tiles;
  kernel.runs = args.runs;
  kernel.queue = reinterpret_cast<PrefillQueue*>(args.workspace);
  kernel.num_items = args.num_tiles * shape.heads_per_tile;
  kernel.heads_per_tile = shape.heads_per_tile;
  kernel.group = shape.num_q_heads / shape.num_kv_heads;
  kernel.first_kv_head = args.first_kv_head;
  kernel.num_q_heads = shape.num_q_heads;
  kernel.scale = args.scale * kLog2E;
  constexpr int kShared = sizeof(Shared<C>);
  static_assert(kShared <= 227 * 1024);
  if (const cudaError_t e = cudaFuncSetAttribute(
          PrefillKernel<C>, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared);
      e != cudaSuccess)
    return e;
  PrefillKernel<C>
      <<<std::min(Facts().processors, kernel.num_items), C::kThreads, kShared, stream>>>(
          q_map, k_map, v_map, kernel);
  return cudaGetLastError();
}

using Config128 = Config<128, 2, 2>;
using Config64 = Config<64, 2, 4>;

}  // namespace

int PrefillTileSm90(int dim) { return dim == 128 ? Config128::kRows : Config64::kRows; }

cudaError_t LaunchPrefillSm90(const PrefillArgs& args, cudaStream_t stream) {
  if (args.num_tiles == 0) return cudaSuccess;
  return args.dim == 128 ? Launch<Config128>(args, stream) : Launch<Config64>(args, stream);
}

}  // namespace lserve::cuda
