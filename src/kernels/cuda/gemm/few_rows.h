// Products of a weight with up to eight rows of activations, the linear layers of decoding: bound
// by reading the weight once. Asynchronous, no workspace, no choice of algorithm: the order of
// summation depends on the weight's width alone, so a row's result does not depend on the others.
#pragma once

#include <cuda_runtime.h>

#include "kernels/cuda/args.h"

namespace lserve::cuda {

inline constexpr int kFewRows = 8;

// args.n at most kFewRows, cols a multiple of 32, rows of 16; not deterministic, which wants the
// order of summation that longer products have. With `swiglu`, y [n][rows / 2] is
// silu(x w_r) * (x w_(rows/2 + r)) in bf16; the weight holds gate and up one below the other, and
// rows is a multiple of 32.
bool SupportsFewRows(const MatmulArgs& args, bool swiglu);
cudaError_t LaunchFewRows(const MatmulArgs& args, bool swiglu, cudaStream_t stream);

}  // namespace lserve::cuda
