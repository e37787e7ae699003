// Row-wise kernels of the forward pass: asynchronous on `stream`, no allocation. Activations are
// bf16; the residual stream x is float, so that hundreds of additions do not round it.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace lserve::cuda {

// out[r] = table[ids[r]] for r in [0, rows); table bf16 [vocab][cols]. ids < 0 give zeros.
cudaError_t LaunchEmbed(const uint16_t* table, const int32_t* ids, int rows, int cols, float* out,
                        cudaStream_t stream);

// out[r] = x[from ? from[r] : r] / sqrt(mean(x^2) + eps) * weight, in bf16 or, wide, in float.
// REQUIRES: cols a multiple of 4.
cudaError_t LaunchRmsNorm(const float* x, const int32_t* from, const float* weight, float eps,
                          int rows, int cols, void* out, bool wide, cudaStream_t stream);

// out[r][c] = silu(gate_up[r][c]) * gate_up[r][cols + c]. REQUIRES: cols a multiple of 8.
cudaError_t LaunchSiluMul(const uint16_t* gate_up, int rows, int cols, uint16_t* out,
                          cudaStream_t stream);
// The same over floats in two matrices (tests).
cudaError_t LaunchSiluMulWide(const float* gate, const float* up, int64_t count, float* out,
                              cudaStream_t stream);

// best[r] = the index of the largest logit of row r, the smaller index of equals; logits float
// [rows][cols]. NaN is never chosen unless all are. At most kMostArgmaxRows rows; `scratch` of
// ArgmaxScratch(rows) bytes.
inline constexpr int kMostArgmaxRows = 1024;
size_t ArgmaxScratch(int rows);
cudaError_t LaunchArgmax(const float* logits, int rows, int cols, std::byte* scratch, int32_t* best,
                         cudaStream_t stream);

// count bf16 numbers of a normal distribution with this deviation, from a counter-based generator:
// the same for the same seed. For random weights.
cudaError_t LaunchFillNormal(uint16_t* out, int64_t count, float deviation, uint64_t seed,
                             cudaStream_t stream);
// bf16 of floats.
cudaError_t LaunchToBf16(const float* from, int64_t count, uint16_t* to, cudaStream_t stream);
cudaError_t LaunchToFloat(const uint16_t* from, int64_t count, float* to, cudaStream_t stream);

}  // namespace lserve::cuda
