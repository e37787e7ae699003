// Launches with programmatic dependent launch where the device has it (sm_90 on): the kernel may
// start while its predecessor in the stream ends. Every kernel so launched calls ptx::GridWait
// before it touches memory, except for what was complete before the predecessor began (weights;
// `settled`, args.h).
#pragma once

#include <cuda_runtime.h>

#include <utility>

namespace lserve::cuda {

template <class... Params, class... Args>
cudaError_t LaunchDependent(void (*kernel)(Params...), dim3 grid, int threads, size_t shared,
                            cudaStream_t stream, bool programmatic, Args&&... args) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid, config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = shared;
  config.stream = stream, config.attrs = &attribute, config.numAttrs = programmatic ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, std::forward<Args>(args)...);
}

}  // namespace lserve::cuda
