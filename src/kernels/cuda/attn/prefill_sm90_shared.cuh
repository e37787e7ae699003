// Shared memory, work items and barriers of the Hopper prefill kernel (prefill_sm90.cu).
#pragma once

#include <cstdint>

#include "kernels/cuda/args.h"
#include "kernels/cuda/attn/prefill.h"

namespace lserve::cuda::sm90 {

inline constexpr int kStageTokens = 2 * kBlockTokens;
inline constexpr int kRowBytes = 128;  // of a 64-channel strip: the swizzle's width
inline constexpr int kStripChannels = kRowBytes / 2;
inline constexpr int kSliceStrip = kBlockTokens * kRowBytes;
inline constexpr int kQBuffers = 2;
inline constexpr int kNowhere = 1 << 29;  // position of a slice that is not there: past all queries

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

// The item in a Q buffer.
struct Work {
  Tile tile;
  Run newest;
  int blocks;  // that the item takes of the list, from `newest` back; at most
  int head;    // -1: no more items
  int part;    // (part, head of the tile) that it writes, or -1: the tile's rows
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
  float order[128 * C::kConsumers];    // see Consume
  Work work[kQBuffers];
  Stage stages[C::kStages];
  uint64_t wanted, work_full[kQBuffers];  // the producer asks, the scheduler has written
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
  PrefillParts parts;
  int num_items, heads_per_tile, group, first_kv_head, kept_first, num_q_heads;
  uint64_t kept_heads;
  float scale;
  bool pairs_by_position;
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

}  // namespace lserve::cuda::sm90
