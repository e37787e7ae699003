#pragma once

namespace lserve::bench {

// Bytes a second that this GPU reads from device memory: the best of several passes over 4 GB.
double ReadBandwidth();

}  // namespace lserve::bench
