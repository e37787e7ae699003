// Host side of one configuration of the decode kernel: shared memory, tensor maps, launch. Included
// by the files that instantiate configurations, decode_k*.cu.
#pragma once

#include <algorithm>

#include "kernels/cuda/attn/decode_kernel.cuh"
#include "kernels/cuda/device_facts.h"
#include "kernels/cuda/launch_dependent.h"

namespace lserve::cuda {

// A pool as rows of 128 bytes, one box a slice. False: the driver has no such function or refuses.
inline bool MapPool(const DevicePool& pool, int slice_bytes, CUtensorMap* map) {
  using Encode =
      CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*,
                   const cuuint64_t*, const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave,
                   CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
  static const Encode encode = [] {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result;
    if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault,
                                         &result) != cudaSuccess)
      found = nullptr;
    return reinterpret_cast<Encode>(found);
  }();
  if (encode == nullptr) return false;
  // The number of pages is the page table's business; no coordinate beyond int32 is ever asked for.
  const cuuint64_t dims[2] = {128, cuuint64_t{1} << 31}, strides[1] = {128};
  const cuuint32_t box[2] = {128, static_cast<cuuint32_t>(slice_bytes / 128)}, steps[2] = {1, 1};
  return encode(map, CU_TENSOR_MAP_DATA_TYPE_UINT8, 2, pool.pages, dims, strides, box, steps,
                CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
                CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

inline constexpr size_t kStaticShared = 64;  // of the kernel, rounded up

template <class C>
cudaError_t RunDecode(DecodeParams p, int grid, cudaStream_t stream) {
  const DeviceFacts& device = Facts();
  const size_t fixed = 1023 + sizeof(DecodeShared<C>) +
                       static_cast<size_t>(kQueue * p.rows * kQueryBytes<C>) +
                       (3 * static_cast<size_t>(p.args.num_tiles) + 2) * sizeof(int);
  const size_t most = static_cast<size_t>(device.shared_bytes) - kStaticShared;
  // One is enough to be right; as many as blocks are computed at once, and more, to be fast.
  if (most < fixed + C::kStageBytes) return cudaErrorInvalidConfiguration;
  p.stages = static_cast<int>(std::min<size_t>((most - fixed) / C::kStageBytes, kMaxStages));
  const size_t shared = fixed + static_cast<size_t>(p.stages) * C::kStageBytes;

  DecodeMaps maps{};
  if (device.capability >= 90) {
    const DevicePool* pools = p.args.view.pools;
    for (int i : {0, 1}) {
      const DevicePool& pool = pools[i].pages ? pools[i] : pools[1 - i];
      if (!MapPool(pool, C::kSliceBytes, &maps.pool[i])) return cudaErrorNotSupported;
    }
  }
  static const cudaError_t sized = cudaFuncSetAttribute(
      DecodeKernel<C>, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(most));
  if (sized != cudaSuccess) return sized;
  return LaunchDependent(DecodeKernel<C>, dim3(static_cast<unsigned>(grid)), kDecodeThreads<C>,
                         shared, stream, device.capability >= 90, p, maps);
}

// All configurations with keys of kKBits.
template <int kKBits>
cudaError_t RunDecodeKeys(const DecodeParams& p, int grid, cudaStream_t stream) {
  const DeviceCodec& codec = p.args.view.codec;
  const auto tiles = [&]<int kVBits, int kDim>() {
    return p.rows <= 8 ? RunDecode<DecodeConfig<kKBits, kVBits, kDim, 1>>(p, grid, stream)
                       : RunDecode<DecodeConfig<kKBits, kVBits, kDim, 2>>(p, grid, stream);
  };
  const auto dims = [&]<int kVBits>() {
    if (codec.dim == 128) return tiles.template operator()<kVBits, 128>();
    if (codec.dim == 64) return tiles.template operator()<kVBits, 64>();
    return cudaErrorInvalidValue;
  };
  if (codec.v_bits == 16) return dims.template operator()<16>();
  if (codec.v_bits == 8) return dims.template operator()<8>();
  if (codec.v_bits == 4) return dims.template operator()<4>();
  return cudaErrorInvalidValue;
}

}  // namespace lserve::cuda
