#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/candidates.h"

namespace lserve {

void FindCandidates(std::span<const float> logits, const CandidateAsk& ask,
                    std::span<const int32_t> wanted, CandidateRow* row, float* wanted_logits) {
  const auto usable = [&](int32_t id) {
    const float x = logits[static_cast<size_t>(id)];
    return std::isnan(x) ? -INFINITY : x;
  };
  *row = {};
  const int vocab = static_cast<int>(logits.size());
  std::vector<int32_t> order(logits.size());
  for (int i = 0; i < vocab; ++i) order[static_cast<size_t>(i)] = i;
  // The first `count` of `order` by `value`, largest first, of equals the smaller id.
  const auto sort_first = [&](int count, const auto& value) {
    std::partial_sort(order.begin(), order.begin() + count, order.end(), [&](int32_t a, int32_t b) {
      return value(a) != value(b) ? value(a) > value(b) : a < b;
    });
  };
  row->count = std::min(kCandidates, vocab);
  sort_first(row->count, usable);
  for (int i = 0; i < row->count; ++i) {
    row->ids[i] = order[static_cast<size_t>(i)];
    row->logits[i] = usable(row->ids[i]);
  }
  for (size_t i = 0; i < wanted.size(); ++i) wanted_logits[i] = usable(wanted[i]);

  const double largest = row->logits[0];
  const auto scaled = [&](int32_t id) { return (usable(id) - largest) * ask.inverse_temperature; };
  const float floor = row->logits[0] + ask.floor;
  std::vector<double> masses(ask.total ? logits.size() : 0);
  for (int32_t id = 0; id < vocab; ++id) {
    if (!(usable(id) > -INFINITY)) continue;
    if (ask.total && usable(id) >= floor)
      row->total += masses[static_cast<size_t>(id)] = std::exp(scaled(id));
    if (ask.normalizer) row->normalizer += std::exp(usable(id) - largest);
  }
  std::fill_n(row->draw_ids, kDraws, -1);
  if (!ask.draws) return;
  std::vector<double> values(logits.size());
  for (int32_t id : order) {
    const double u = (DrawBits(ask.seed, ask.position, id) + 0.5) * 0x1p-32;
    values[static_cast<size_t>(id)] = scaled(id) - std::log(-std::log(u));
  }
  const int count = std::min(kDraws, vocab);
  sort_first(count, [&](int32_t id) { return values[static_cast<size_t>(id)]; });
  for (int i = 0; i < count; ++i) {
    row->draw_ids[i] = order[static_cast<size_t>(i)];
    row->draw_logits[i] = usable(row->draw_ids[i]);
  }
  row->draw_bound =
      vocab <= kDraws
          ? -INFINITY
          : static_cast<float>(values[static_cast<size_t>(order[kDraws - 1])] + kDrawError);
  for (int i = 0; i < count && ask.total; ++i) {
    const int32_t own = row->draw_ids[i];
    const float logit = row->draw_logits[i];
    if (logit > row->logits[row->count - 1]) continue;
    for (int32_t id = 0; id < vocab; ++id) {
      const float x = usable(id);
      const bool before = x > logit || (x == logit && id < own);
      row->draw_above[i] += before ? masses[static_cast<size_t>(id)] : 0;
    }
  }
}

}  // namespace lserve
