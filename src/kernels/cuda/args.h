// Arguments of the CUDA backend's kernels, plain data without CUDA's headers. All pointers are
// device memory unless said otherwise; activations are bf16 (uint16_t bits), row-major with a
// stride in elements.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/device_view.h"
#include "plan/decode_row.h"
#include "plan/page_score.h"
#include "plan/tile.h"

namespace lserve {
struct CandidateAsk;  // kernels/candidates.h
struct CandidateRow;
}  // namespace lserve

namespace lserve::cuda {

using Bf16 = uint16_t;

// ---------------------------------------------------------------- linear layers
// y[n][rows] = x[n][cols] w[rows][cols]^T, row-major; x and w bf16.
struct MatmulArgs {
  const uint16_t* w = nullptr;
  int rows = 0, cols = 0;
  const uint16_t* x = nullptr;
  int n = 0;
  void* y = nullptr;
  bool wide = false;           // y is float
  bool accumulate = false;     // y += (float only)
  bool deterministic = false;  // a row's bits do not depend on n
};

// ---------------------------------------------------------------- prefill attention
// One sequence's K and V of a layer in 16 bits, in order: what Gather makes of pages.
//   K, V: [scratch head][token][D]; head_stride elements from head to head. Only the blocks that
//   the plan lists need to be filled, and the last block up to kv_len; what lies behind may be
//   anything.
struct PrefillArgs {
  const Bf16* q;  // [rows][q heads * D], rotated
  Bf16* out;      // likewise
  float* lse;     // [rows][q heads] or null
  int64_t q_stride, out_stride;
  const Bf16 *k, *v;
  int64_t head_stride;
  int kv_tokens;           // tokens a head's scratch can hold (multiple of 64)
  const Tile* tiles;       // device; all of the same sequence; tile.q_len <= shape.q_tile
  const Run* runs;         // device
  const Tile* host_tiles;  // the same tiles on the host: for the schedule
  const Run* host_runs;
  int num_tiles;
  PlanShape shape;    // host; q_tile is PrefillTile(...)
  int dim;            // 64 or 128
  int first_kv_head;  // scratch head 0 is this KV head of the model, and so on for the next
  float scale;
  // A row's bits do not depend on where its tile and its chunk begin and end: no tile is cut into
  // pieces, and blocks are taken in pairs by their position.
  bool deterministic;
  std::byte* workspace;  // PrefillWorkspace bytes
  // KV heads, by bit, that lie elsewhere in the scratch: one behind the other from head kept_first
  // on. scratch_heads: all that there are; 0: as many as the model has from first_kv_head on.
  uint64_t kept_heads = 0;
  int kept_first = 0, scratch_heads = 0;
};

// ---------------------------------------------------------------- decode attention
struct DecodeArgs {
  const Bf16* q;
  Bf16* out;
  float* lse;  // [rows][q heads] or null
  int64_t q_stride, out_stride;
  DeviceView view;
  const Tile* tiles;  // device; tile.q_len * heads_per_tile <= 64; tiles with q_len 0 do nothing
  const Run* runs;    // device
  int num_tiles;      // capacity: the grid does not depend on contents
  int max_blocks;     // most blocks that a tile may list
  PlanShape shape;
  float scale;
  bool deterministic;    // split at absolute list positions, whatever else is in the batch
  std::byte* workspace;  // DecodeWorkspace bytes
  // [num_tiles] blocks that each tile lists, as LaunchDecodePlan writes them (a microsecond saved);
  // null: counted.
  const int32_t* tile_blocks = nullptr;
  // tile_blocks, tiles, runs, page tables and the listed blocks that end at or before their tile's
  // q_pos were complete before the kernel in front of this one in the stream began: they are read
  // while it still runs.
  bool settled = false;
};

// ---------------------------------------------------------------- selection and decode plans
// Lists of all slots and layers: [slot][layer][list][capacity] with counts [slot][layer][list]; a
// layer has one list a KV head (shared) or one a query head. Blocks ascending.
struct SelectionLists {
  int32_t* lists;
  int32_t* counts;
  int capacity, layers, lists_per_layer;
};

struct SelectLaunch {
  const Bf16* q;  // [rows][q heads * D], rotated
  int64_t q_stride;
  const DecodeRow* rows;  // device; indexed by the step's decode rows
  int num_rows;           // capacity; times retrieval heads at most 65,536
  int max_blocks;         // most blocks a sequence may have
  DeviceView view;
  SelectionLists lists;
  int layer, q_heads;
  bool shared;  // one list a KV head: rank by max over heads of (S / sqrt(D) - lse) (kernels/ops.h)
  std::byte* workspace;  // SelectWorkspace bytes
  // Rows, page tables and what closed pages hold (keys, statistics) were complete before the kernel
  // in front of this one in the stream began: they are read while it still runs.
  bool settled = false;
  PageScore score = PageScore::kBounds;
  int reach = 0;  // kernels/ops.h
};

// Writes the tiles and runs of decode rows for layers [layer_begin, layer_end): tile (row, list) of
// layer l is tiles[((l * num_rows) + row) * lists + list], its runs begin at that index *
// run_capacity. What AddRetrievalRuns and AppendWindowRuns (sparse/) write on the host, on the
// device.
struct DecodePlanLaunch {
  const DecodeRow* rows;
  int num_rows;
  SelectionLists lists;
  const uint8_t* head_class;  // device [layers][kv heads], HeadClass
  int layer_begin, layer_end;
  int q_heads, kv_heads;
  bool shared;  // heads_per_tile = group, else 1
  Tile* tiles;
  Run* runs;
  int run_capacity;                // at least lists.capacity + 8
  int32_t* tile_blocks = nullptr;  // by tile: the blocks it lists; or null
};

// ---------------------------------------------------------------- sampling
inline constexpr int kMostCandidateCols = 327680;  // vocabularies beyond travel whole

struct CandidateLaunch {
  const float* logits;  // [rows][cols]
  int cols;             // at most kMostCandidateCols
  const int32_t* best;  // by row of the logits: index of the largest
  const CandidateAsk* asks;
  int num_asks;
  const int32_t* wanted;  // token ids, by the asks' ranges
  float* wanted_logits;
  CandidateRow* out;     // [num_asks]
  std::byte* workspace;  // CandidateWorkspace bytes
};

// ---------------------------------------------------------------- append and gather
struct AppendLaunch {
  void* qkv;       // bf16 [rows][(q heads + 2 kv heads) * D]; q is rotated in place
  int64_t stride;  // elements
  bool wide;       // qkv is float, and k is rotated in place too (tests)
  int rows, q_heads;
  const float* bias;             // [(q heads + 2 kv heads) * D], added first, or null
  const float *q_norm, *k_norm;  // [D] or null: RMS norm of each head before the rotation (Qwen3)
  float norm_eps;
  const float* rope;         // [position][D]: D/2 cosines, then D/2 sines
  bool rope_by_row;          // row r's angles are rope row r, not rope row pos[r] (tests)
  const int32_t *seq, *pos;  // [rows]; rows with seq < 0 are padding
  const int32_t* groups;     // [num_groups + 1] first row of each group: the tokens of one sequence
                             // and logical page; null: every row is a group of its own (decode)
  int num_groups;
  DeviceView view;
};

// Pages -> 16-bit scratch for prefill: blocks [first, end) of a KV head, to scratch head `to`.
struct GatherRange {
  int32_t kv_head, first, end, to;
};
struct GatherLaunch {
  DeviceView view;
  int slot;
  const GatherRange* ranges;  // device
  int num_ranges;
  int max_blocks;  // most blocks of a range
  Bf16 *k, *v;     // [scratch head][token][D]
  int64_t head_stride;
};

}  // namespace lserve::cuda
