// Turns "these sequences have these tokens this step" into attention plans, layer by layer: the
// policy of LServe (docs/structure.md), and nothing but policy.
//
//   prefill   retrieval heads: dense causal.
//             streaming heads: prefill_sink + prefill_local.
//   decode    streaming heads: decode_sink + decode_local.
//             retrieval heads: everything while the context is not longer than dense_below or the
//             budget, else the sink pages, the selected pages, and all from `local_begin` on.
//
// The selection of a sequence belongs to the sequence (SelectionState), lists closed pages only,
// and is made anew when (n - prompt_len) mod C == 0 or when there is none; a step of several tokens
// makes it anew when it reaches or passes such an n. `local_begin` is frozen between two
// selections: a window that slid would drop pages that were visible a step ago.
//
// One thread. Begin once a step; then for each layer in order SelectJobs (run them), then Plan.
// Backends that keep lists on a device use the functions below those instead.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/status.h"
#include "kernels/ops.h"
#include "plan/attn_plan.h"
#include "plan/decode_row.h"
#include "plan/head_map.h"
#include "sparse/audit.h"
#include "sparse/config.h"

namespace lserve {

// What a sequence remembers between steps; moves with it through preemption.
struct SelectionState {
  int32_t prompt_len = 0;
  int32_t local_begin = -1;  // block; -1: no selection yet
  int32_t capacity = 0;      // blocks a list can hold
  // [layer][list][capacity] and [layer][list]; a layer has one list a KV head, or one a query head.
  std::vector<int32_t> lists;
  std::vector<int32_t> counts;
};

// One sequence's part of a step.
struct SeqStep {
  int32_t slot = 0;                // row of the page tables
  int32_t q_begin = 0, q_len = 0;  // rows of the packed step
  int32_t pos = 0;                 // of its first token; pos + q_len are stored afterwards
  bool decode = false;  // a generated token (q_len 1) or a piece of the prompt, whatever its length
  AttentionMode mode = AttentionMode::kLserve;
  int32_t budget = 0;  // tokens
  SelectionState* state = nullptr;
  int32_t audit = 0;  // one layer-step in so many is audited; 0: none
  uint64_t id = 0;    // of the sequence, never used for another; 0: not told
};

// Counted over a step: pages are (layer, KV head, block) of decode rows, blocks are (layer, KV
// head, query tile, block) of prefill rows.
struct VisitCount {
  int64_t pages_total = 0, pages_read = 0, prefill_blocks_total = 0, prefill_blocks_read = 0;
};

class Planner {
 public:
  // `prefill_tile`: most queries of a tile. Tiles of a prompt begin at multiples of it, wherever
  // chunks begin, or, with `tiles_by_chunk`, at the chunk: fewer of them, and what they compute
  // depends on the chunks in its last bits. The maps must outlive the planner.
  Planner(const SparsityConfig& config, const std::vector<HeadMap>* layers, int group,
          int prefill_tile, bool tiles_by_chunk = false);
  ~Planner();

  // Errors name the setting. Checked where settings enter the program.
  static Status Check(const SparsityConfig& config);

  // The first streaming block after the sinks that a sequence still needs once `len` tokens are
  // stored: blocks in [sink blocks, this) can be released. `prefill`: the next tokens are prompt
  // tokens.
  int FirstWindowBlock(int len, bool prefill) const;
  int SinkBlocks() const;  // streaming blocks that are never released

  void Begin(std::span<const SeqStep> steps);
  // Selections that are due in this layer; results go into the sequences' states. Valid until the
  // next call.
  std::span<const SelectJob> SelectJobs(int layer);
  // REQUIRES: the layer's SelectJobs have been run. Valid until the next call.
  AttnPlan Plan(int layer);

  // Whether step `index` reads selected pages and this layer's selection is to be audited.
  bool Audits(int layer, int index) const;
  // The reference of those steps: their retrieval heads over everything, in tiles of whole groups.
  // Without tiles most of the time. Valid until the next call of it; Plan's result stays valid.
  AttnPlan AuditPlan(int layer);
  // What the audit of step `index` found in the layer. [rows of the step][q heads], log-sum-exp of
  // what it read and of everything; entries of streaming heads are not looked at. REQUIRES: Audits.
  void RecordAudit(int layer, int index, const float* lse_read, const float* lse_all);
  // Of step `index` over the layers recorded so far.
  const MissedMass& missed(int index) const;

  // The pieces of SelectJobs and Plan, for backends that expand decode plans on their own device.
  // What step `index` reads at decode, the same for every layer. REQUIRES: it decodes.
  DecodeRow decode_row(int index) const;
  // Appends the tiles of step `index` in this layer, by KV head, then by position, and their runs.
  // REQUIRES: it is a piece of a prompt.
  void AppendPromptTiles(int layer, int index, std::vector<Tile>* tiles, std::vector<Run>* runs);
  // Counts the visits of a decode step in all layers, and its selector runs, without its lists.
  void CountDecode(int index);
  const SparsityConfig& config() const;

  // Visits of step `index` (of Begin's list) over the layers planned so far.
  const VisitCount& visits(int index) const;
  int64_t selector_runs() const;  // (sequence, layer) selections since construction

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lserve
