// Block-sparse prefill attention for Hopper: docs/kernels/prefill.md.
//
// A CTA is one producer warpgroup and two or three consumer warpgroups of 64 query rows each, all
// of one query head. CTAs are persistent and take work items (tile or piece of one, head), longest
// first, from a counter. The producer walks the tile's runs from the newest block back and copies
// two listed 64-token slices, adjacent or not, into each 128-token stage of K and of V. A consumer
// overlaps the softmax of a stage with its products P V of the stage before, and the warpgroups
// take turns in issuing products.
#include <cuda.h>
#include <cudaTypedefs.h>

#include <algorithm>

#include "kernels/cuda/attn/prefill.h"
#include "kernels/cuda/attn/prefill_sm90_shared.cuh"
#include "kernels/cuda/attn/prefill_softmax.cuh"
#include "kernels/cuda/device_facts.h"
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#include "kernels/cuda/attn/prefill_sm90_consume.cuh"
#include "kernels/cuda/attn/prefill_sm90_produce.cuh"
#endif

namespace lserve::cuda {
namespace {

using namespace sm90;

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
    ptx::BarrierInit(ptx::SharedAddress(&s.wanted), 1);
    for (int i = 0; i < kQBuffers; ++i) {
      ptx::BarrierInit(ptx::SharedAddress(&s.work_full[i]), 1);
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
    if (threadIdx.x == 32) Schedule<C>(s, args);
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
  const auto kv_heads = static_cast<cuuint64_t>(
      args.scratch_heads > 0 ? args.scratch_heads : shape.num_kv_heads - args.first_kv_head);
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
  QueuedPrefill queued;
  if (const cudaError_t e = QueuePrefill(args, stream, &queued); e != cudaSuccess) return e;
  KernelArgs kernel{};
  kernel.out = args.out;
  kernel.lse = args.lse;
  kernel.out_stride = args.out_stride;
  kernel.tiles = args.tiles;
  kernel.runs = args.runs;
  kernel.queue = queued.queue;
  kernel.parts = queued.parts;
  kernel.num_items = queued.num_pieces * shape.heads_per_tile;
  kernel.heads_per_tile = shape.heads_per_tile;
  kernel.group = shape.num_q_heads / shape.num_kv_heads;
  kernel.first_kv_head = args.first_kv_head;
  kernel.kept_heads = args.kept_heads;
  kernel.kept_first = args.kept_first;
  kernel.num_q_heads = shape.num_q_heads;
  kernel.scale = args.scale * kLog2E;
  kernel.pairs_by_position = args.deterministic;
  constexpr int kShared = sizeof(Shared<C>);
  static_assert(kShared <= 227 * 1024);
  if (const cudaError_t e = cudaFuncSetAttribute(
          PrefillKernel<C>, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared);
      e != cudaSuccess)
    return e;
  PrefillKernel<C>
      <<<std::min(Facts().processors, kernel.num_items), C::kThreads, kShared, stream>>>(
          q_map, k_map, v_map, kernel);
  if (const cudaError_t e = cudaGetLastError(); e != cudaSuccess) return e;
  return MergePrefill(args, queued, stream);
}

using Config128 = Config<128, 2, 2>;
using Config64 = Config<64, 3, 4>;

}  // namespace

int PrefillTileSm90(int dim) { return dim == 128 ? Config128::kRows : Config64::kRows; }

cudaError_t LaunchPrefillSm90(const PrefillArgs& args, cudaStream_t stream) {
  if (args.num_tiles == 0) return cudaSuccess;
  return args.dim == 128 ? Launch<Config128>(args, stream) : Launch<Config64>(args, stream);
}

}  // namespace lserve::cuda
