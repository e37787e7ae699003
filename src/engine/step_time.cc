#include "engine/step_time.h"

#include <algorithm>
#include <cmath>

namespace lserve {
namespace {

constexpr size_t kRemembered = 32;                           // steps of a kind
constexpr std::array<double, 3> kScale = {1, 256, 1 << 20};  // typical sizes of the terms

// Solves m x = v for the terms that are `on`; the others are 0.
std::array<double, 3> Solve(double m[3][3], const double v[3], const bool on[3]) {
  double a[3][4];
  for (int i = 0; i < 3; ++i) {
    for (int j = 0; j < 3; ++j) a[i][j] = on[i] && on[j] ? m[i][j] : i == j;
    a[i][3] = on[i] ? v[i] : 0;
  }
  for (int c = 0; c < 3; ++c) {  // symmetric positive definite: no pivots needed
    for (int r = 0; r < 3; ++r) {
      if (r == c) continue;
      const double factor = a[r][c] / a[c][c];
      for (int k = c; k < 4; ++k) a[r][k] -= factor * a[c][k];
    }
  }
  return {a[0][3] / a[0][0], a[1][3] / a[1][1], a[2][3] / a[2][2]};
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
  recent.Add({{1, work.rows / kScale[1], work.keys_read / kScale[2]}, seconds});
  Fit();
}

void StepTime::Fit() {
  double m[3][3] = {}, v[3] = {};
  for (const Recent* recent : {&with_prompts_, &without_}) {
    for (const Sample& s : recent->steps) {
      for (int i = 0; i < 3; ++i) {
        for (int j = 0; j < 3; ++j) m[i][j] += s.x[i] * s.x[j] / (s.seconds * s.seconds);
        v[i] += s.x[i] / s.seconds;
      }
    }
  }
  // Terms that the samples cannot tell apart share the cost instead of taking it at random.
  const double ridge = 1e-6 * (m[0][0] + m[1][1] + m[2][2]);
  for (int i = 0; i < 3; ++i) m[i][i] += ridge;
  bool on[3] = {true, true, true};
  while (true) {
    const std::array<double, 3> x = Solve(m, v, on);
    const auto least = std::min_element(x.begin(), x.end());
    if (*least >= 0) {
      for (size_t i = 0; i < 3; ++i) fit_[i] = x[i] / kScale[i];
      return;
    }
    on[least - x.begin()] = false;
  }
}

double StepTime::Seconds(const StepWork& work) const {
  return fit_[0] + fit_[1] * work.rows + fit_[2] * work.keys_read;
}

}  // namespace lserve
