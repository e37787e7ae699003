// What the prefill kernels share: the argument block that their launchers get from LaunchPrefill
// (prefill.cu), and which of them a device takes.
#pragma once

#include <cuda_runtime.h>

#include "kernels/cuda/launch.h"

namespace lserve::cuda {

// Work items of a launch are (tile, head) pairs: item i is head i % heads_per_tile of tile
// order[i / heads_per_tile]. CTAs take items from the counter.
struct PrefillQueue {
  int32_t next;  // zero before the launch
  int32_t pad[3];
  int32_t order[1];  // num_tiles, as PrefillOrder gives them
};

// Hopper: TMA, wgmma. REQUIRES: strides in bytes and pointers are multiples of 16.
cudaError_t LaunchPrefillSm90(const PrefillArgs& args, cudaStream_t stream);
int PrefillTileSm90(int dim);

// Any architecture from sm_80 on; tiles of any length.
inline constexpr int kPrefillTileGeneric = 64;
cudaError_t LaunchPrefillGeneric(const PrefillArgs& args, cudaStream_t stream);

// Writes the order and a zero counter into args.workspace. REQUIRES: tiles.
cudaError_t QueuePrefill(const PrefillArgs& args, cudaStream_t stream);

}  // namespace lserve::cuda
