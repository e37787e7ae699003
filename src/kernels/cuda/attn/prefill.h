// What the prefill kernels share: the argument block that their launchers get from LaunchPrefill
// (prefill.cu), and which of them a device takes.
#pragma once

#include <cuda_runtime.h>

#include <vector>

#include "kernels/cuda/attn/prefill_schedule.h"
#include "kernels/cuda/launch.h"

namespace lserve::cuda {

// Work items of a launch are (piece, head) pairs: item i is head i % heads_per_tile of piece
// i / heads_per_tile. CTAs take items from the counter.
struct PrefillQueue {
  int32_t next;  // zero before the launch
  int32_t pad[3];
  PrefillPiece pieces[1];  // as SchedulePrefill gives them
};

// Results of parts: [part][head of the tile][row][D] and their log-sum-exps [part][head][row].
struct PrefillParts {
  Bf16* out;
  float* lse;
  int rows;  // of a tile
};

// Hopper: TMA, wgmma. REQUIRES: strides in bytes and pointers are multiples of 16.
cudaError_t LaunchPrefillSm90(const PrefillArgs& args, cudaStream_t stream);
int PrefillTileSm90(int dim);

// Any architecture from sm_80 on; tiles of any length.
inline constexpr int kPrefillTileGeneric = 64;
cudaError_t LaunchPrefillGeneric(const PrefillArgs& args, cudaStream_t stream);

// A launch's queue in args.workspace, written, and where the parts go. REQUIRES: tiles.
struct QueuedPrefill {
  PrefillQueue* queue;
  int num_pieces;
  PrefillParts parts;
  std::vector<PrefillMerge> merges;
};
cudaError_t QueuePrefill(const PrefillArgs& args, cudaStream_t stream, QueuedPrefill* queued);

// Puts the parts of tiles that were cut together. After the kernel.
cudaError_t MergePrefill(const PrefillArgs& args, const QueuedPrefill& queued, cudaStream_t stream);

}  // namespace lserve::cuda
