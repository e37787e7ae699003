// The engine's view of a model: tokens in, logits out. model/model.h is the real one; tests have
// one without weights.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/tensor.h"
#include "kernels/candidates.h"
#include "kv/kv_cache.h"
#include "sparse/planner.h"

namespace lserve {

// What a step's logits are wanted for, where they lie on a device: they stay there.
struct Picks {
  std::vector<CandidateAsk> asks;     // by row, ascending
  std::vector<int32_t> wanted;        // token ids, by the asks' ranges
  std::vector<int32_t> best;          // out, [logit_rows]: the token of the largest logit, the
                                      // smaller of equals
  std::vector<CandidateRow> answers;  // out, [asks]
  std::vector<float> wanted_logits;   // out, [wanted]
};

// One step over the packed tokens of several sequences, complete when built.
struct StepInput {
  std::span<const int32_t> tokens;      // [n]
  std::span<const int32_t> seq, pos;    // [n] slot and absolute position
  std::span<const SeqStep> sequences;   // rows [q_begin, q_begin + q_len) each, in row order
  std::span<const int32_t> logit_rows;  // rows whose logits are wanted, ascending
  Picks* picks = nullptr;  // where most_picks() > 0; without, the logits are handed out
};

class ModelRunner {
 public:
  virtual ~ModelRunner() = default;
  virtual int vocab() const = 0;
  // Stores the tokens' K and V in `cache` (their pages are there) and writes logits
  // [logit_rows][vocab]. The planner's visit counts and audits are of this step afterwards.
  virtual void Forward(const StepInput& input, Planner* planner, KvCache* cache, Mat logits) = 0;
  // Whether it answers StepInput::picks, of at most so many asks a step, and then hands no logits
  // out. 0: it does not.
  virtual int most_picks() const { return 0; }
  // The last step's logits of one row, [vocab].
  virtual void ReadLogits(int /*row*/, std::span<float> /*logits*/) {}
  // Asked after every step: an error means that the device has failed, the logits are worthless and
  // nothing later will succeed.
  virtual Status Health() { return Ok(); }
  // Whether it audits selections when steps ask for it.
  virtual bool audits() const { return false; }
  // Most tokens of attention budget that a request may ask for.
  virtual int max_budget() const { return kNoWindow; }
  // The class that every head is planned as from now on, where that is not the class of its
  // storage: for runners that make decode plans themselves. The planner has its own maps.
  virtual void PlanHeads(const std::vector<HeadMap>& /*layers*/) {}
  // Runners whose lists live on a device, by slot, exchange them with the sequence's state: Save
  // before its pages are swapped out, Load when it has a slot again.
  virtual void SaveSelection(int /*slot*/, SelectionState* /*state*/) {}
  virtual void LoadSelection(int /*slot*/, const SelectionState& /*state*/) {}
};

}  // namespace lserve
