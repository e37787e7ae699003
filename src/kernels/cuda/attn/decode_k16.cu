#include "kernels/cuda/attn/decode_run.cuh"

namespace lserve::cuda {

template cudaError_t RunDecodeKeys<16>(const DecodeParams& p, int grid, cudaStream_t stream);

}  // namespace lserve::cuda
