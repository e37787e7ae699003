// The kernels of the CUDA backend, one launcher each: asynchronous on `stream`, no allocation, no
// host synchronisation, so every one of them may be captured in a graph. A launcher returns the
// launch's error; what a shape needs is said where its arguments are declared (args.h) and checked
// by Supports (cuda_device.cc), never by a kernel.
#pragma once

#include <cuda_runtime.h>

#include "kernels/cuda/args.h"

namespace lserve::cuda {

// Queries of a tile that suit the kernel. Tiles of fewer are correct and slower.
int PrefillTile(int dim, int group);

size_t PrefillWorkspace(int num_tiles, const PlanShape& shape);

cudaError_t LaunchPrefill(const PrefillArgs& args, cudaStream_t stream);

// `deterministic`: as in the arguments; true is enough for both.
size_t DecodeWorkspace(int num_tiles, const PlanShape& shape, int dim, bool deterministic = true);

// Launches on one device must not overlap in time (they share a counter).
cudaError_t LaunchDecode(const DecodeArgs& args, cudaStream_t stream);

size_t SelectWorkspace(int num_rows, int q_heads, int max_blocks, PageScore score);

// Exact top-k: score descending, then block ascending; stored ascending. Streaming heads are left
// alone.
cudaError_t LaunchSelect(const SelectLaunch& args, cudaStream_t stream);

cudaError_t LaunchDecodePlan(const DecodePlanLaunch& args, cudaStream_t stream);

size_t CandidateWorkspace(int num_asks, int cols);

cudaError_t LaunchCandidates(const CandidateLaunch& args, cudaStream_t stream);

cudaError_t LaunchAppend(const AppendLaunch& args, cudaStream_t stream);

cudaError_t LaunchGather(const GatherLaunch& args, cudaStream_t stream);

}  // namespace lserve::cuda
