// Head patterns: which KV heads stream. A pattern is a DuoAttention gate table, one row a layer,
// one column a KV head, tab separated.
#pragma once

#include <string>
#include <vector>

#include "core/status.h"
#include "plan/head_map.h"

namespace lserve {

struct HeadPattern {
  int layers = 0, kv_heads = 0;
  std::vector<float> gates;  // [layers][kv_heads], clipped to [0, 1]
  std::string source;        // path, for messages
};

Result<HeadPattern> LoadHeadPattern(const std::string& path);

struct HeadSplit {
  std::vector<HeadMap> layers;
  int streaming = 0, total = 0;  // KV heads over all layers
  double lost_gate_mass = 0;     // sum of the gates of streaming heads / sum of all gates
};

// A KV head is a retrieval head iff its gate is at or above the `static_sparsity` quantile (linear
// interpolation, as numpy) over all layers and heads. Heads with equal gates are told apart by
// (layer, head): the earlier one counts as larger, so that exactly ceil(static_sparsity * (heads -
// 1)) heads stream and every process agrees. <= 0: none streams; >= 1: all.
HeadSplit SplitHeads(const HeadPattern& pattern, double static_sparsity);
// Every head a retrieval head: without a pattern.
HeadSplit AllRetrieval(int layers, int kv_heads);

}  // namespace lserve
