// The order in which the prefill kernels take the tiles of a launch. Pure function of the host.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "plan/tile.h"

namespace lserve::cuda {

// Indices of the tiles, those that list most blocks first, so that what is left for the last is
// small; equals in their order, so that heads with the same reach read the same K and V at about
// the same time. All blocks cost alike.
std::vector<int32_t> LongestFirst(std::span<const Tile> tiles, const Run* runs);

}  // namespace lserve::cuda
