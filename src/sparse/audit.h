// Audit of page selection while it serves: how much attention mass the pages left out would have
// had. For a sampled layer of a decode step the retrieval heads' attention is computed a second
// time over everything; with the log-sum-exp of what was read and of all,
//     missed mass = 1 - exp(lse_read - lse_all),
// which is the share of the softmax outside the listed pages, exactly (and bounds the error of the
// head's output by twice itself times the longest value). Streaming heads have dropped their keys:
// they cannot be audited. Pure data and functions.
#pragma once

#include <cstdint>

namespace lserve {

// Missed mass over some audits.
struct MissedMass {
  int64_t layer_steps = 0;  // audits
  int64_t heads = 0;        // query heads in them, over all rows
  double sum = 0, max = 0;  // of a query head's missed mass, in [0, 1]

  void AddHead(float lse_read, float lse_all);
  void Add(const MissedMass& other);
  double mean() const { return heads > 0 ? sum / static_cast<double>(heads) : 0; }
};

// Whether `layer` is audited in the step that stores the token-th generated token (from 1). One
// layer-step in `interval` is, at a place in each run of `interval` that is drawn from its number:
// neither layers nor the age of a selection keep step with it, and an answer's audits do not depend
// on what else runs. interval <= 0: none.
bool IsAudited(int interval, int layers, int layer, int token);

}  // namespace lserve
