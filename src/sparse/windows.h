// Runs of blocks for one tile under the window rule. Pure functions.
#pragma once

#include <vector>

#include "plan/attn_plan.h"

namespace lserve {

// Appends the runs of all blocks in which tile (its positions, sink_len and window_len set) sees
// something, wholly visible blocks unmasked: at most five.
void AppendWindowRuns(const Tile& tile, std::vector<Run>* runs);

}  // namespace lserve
