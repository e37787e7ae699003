// The order in which the prefill kernels take the tiles of a launch. Pure function of the host.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "plan/tile.h"

namespace lserve::cuda {

// Indices of the tiles. KV heads are worked off in sections of `heads_per_section` neighbours,
// whose K and V together stay in the L2 cache; the section with most work first. Within a section
// the tiles that list most blocks come first, so that what is left for the last is small, and
// equals keep their order. All blocks cost alike; those of long lists are estimated. `group`: query
// heads of a KV head.
std::vector<int32_t> PrefillOrder(std::span<const Tile> tiles, const Run* runs, int group,
                                  int heads_per_section);

}  // namespace lserve::cuda
