#include "sparse/windows.h"

#include <algorithm>

namespace lserve {
namespace {

void Append(int first, int end, bool masked, size_t begin, std::vector<Run>* runs) {
  if (first >= end) return;
  if (runs->size() > begin && runs->back().masked == static_cast<int>(masked) &&
      runs->back().first + runs->back().count == first)
    runs->back().count += end - first;
  else
    runs->push_back({first, end - first, masked});
}

}  // namespace

void AppendWindowRuns(const Tile& tile, std::vector<Run>* runs) {
  const size_t begin = runs->size();
  const int q_first = tile.q_pos, q_last = tile.q_pos + tile.q_len - 1;
  const int diagonal =
      (q_first + 1) / kBlockTokens;  // blocks before this one are wholly in the past of every query
  const int end = q_last / kBlockTokens + 1;
  // Sink blocks [0, sink_whole) lie wholly in the sink, [.., sink_end) partly.
  const int sink_whole = std::min(tile.sink_len / kBlockTokens, end);
  const int sink_end = std::min((tile.sink_len + kBlockTokens - 1) / kBlockTokens, end);
  // The window of the oldest query begins furthest back; only what the newest query's window holds
  // too is wholly visible.
  const int window_first = std::max(0, q_first - tile.window_len + 1) / kBlockTokens;
  const int window_whole = std::max(0, (q_last - tile.window_len + kBlockTokens) / kBlockTokens);
  const auto emit = [&](int first, int last,
                        bool masked) {  // blocks from the diagonal on are masked in any case
    Append(first, std::min(last, diagonal), masked, begin, runs);
    Append(std::max(first, diagonal), last, true, begin, runs);
  };
  emit(0, sink_whole, false);
  const int rest = std::max(window_first, sink_end);
  // A block half in the sink is wholly visible when the window of every query holds the other half.
  if (sink_end > sink_whole) emit(sink_whole, sink_end, sink_whole < window_whole);
  emit(rest, std::min(std::max(window_whole, rest), end), true);
  emit(std::max(window_whole, rest), end, false);
}

}  // namespace lserve
