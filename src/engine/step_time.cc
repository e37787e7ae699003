#include "engine/step_time.h"

#include <algorithm>
#include <cmath>

namespace lserve {
namespace {

constexpr size_t kRemembered = 32;  // steps of a kind
constexpr int kTerms = StepTime::kTerms;
using Terms = StepTime::Terms;
constexpr Terms kScale = {1, 256, 1 << 20, 1 << 14};  // typical sizes of the terms

// Solves m x = v for the terms that are `on`; the others are 0.
Terms Solve(const std::array<Terms, kTerms>& m, const Terms& v,
            const std::array<bool, kTerms>& on) {
  double a[kTerms][kTerms + 1];
  for (size_t i = 0; i < kTerms; ++i) {
    for (size_t j = 0; j < kTerms; ++j) a[i][j] = on[i] && on[j] ? m[i][j] : i == j;
    a[i][kTerms] = on[i] ? v[i] : 0;
  }
  for (int c = 0; c < kTerms; ++c) {  // symmetric positive definite: no pivots needed
    for (int r = 0; r < kTerms; ++r) {
      if (r == c) continue;
      const double factor = a[r][c] / a[c][c];
      for (int k = c; k <= kTerms; ++k) a[r][k] -= factor * a[c][k];
    }
  }
  Terms x;
  for (size_t i = 0; i < kTerms; ++i) x[i] = a[i][kTerms] / a[i][i];
  return x;
}

}  // namespace

void StepTime::Recent::Add(const Sample& sample) {
  if (steps.size() < kRemembered) {
    steps.push_back(sample);
  } else {
    steps[next] = sample;
    next = (next + 1) % kRemembered;
  }
}

void StepTime::Observe(const StepWork& work, double seconds) {
  if (work.rows <= 0 || !(seconds > 0)) return;
  Recent& recent = work.prompt_rows > 0 ? with_prompts_ : without_;
  recent.Add(
      {{1, work.rows / kScale[1], work.keys_read / kScale[2], work.context / kScale[3]}, seconds});
  Fit();
}

void StepTime::Fit() {
  std::array<Terms, kTerms> m{};
  Terms v{};
  for (const Recent* recent : {&with_prompts_, &without_}) {
    for (const Sample& s : recent->steps) {
      for (size_t i = 0; i < kTerms; ++i) {
        for (size_t j = 0; j < kTerms; ++j) m[i][j] += s.x[i] * s.x[j] / (s.seconds * s.seconds);
        v[i] += s.x[i] / s.seconds;
      }
    }
  }
  // Terms that the samples cannot tell apart share the cost instead of taking it at random.
  double trace = 0;
  for (size_t i = 0; i < kTerms; ++i) trace += m[i][i];
  for (size_t i = 0; i < kTerms; ++i) m[i][i] += 1e-6 * trace;
  std::array<bool, kTerms> on;
  on.fill(true);
  while (true) {
    const Terms x = Solve(m, v, on);
    const auto least = std::min_element(x.begin(), x.end());
    if (*least >= 0) {
      for (size_t i = 0; i < kTerms; ++i) fit_[i] = x[i] / kScale[i];
      return;
    }
    on[static_cast<size_t>(least - x.begin())] = false;
  }
}

double StepTime::Seconds(const StepWork& work) const {
  return fit_[0] + fit_[1] * work.rows + fit_[2] * work.keys_read + fit_[3] * work.context;
}

}  // namespace lserve
