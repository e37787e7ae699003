#include "model/rope.h"

#include <algorithm>
#include <cmath>

#include "core/check.h"

namespace lserve {
namespace {

constexpr double kTurn = 2 * 3.14159265358979323846;

std::vector<double> PlainInverse(double theta, int dim) {
  std::vector<double> inverse(static_cast<size_t>(dim / 2));
  for (size_t i = 0; i < inverse.size(); ++i)
    inverse[i] = 1 / std::pow(theta, 2.0 * static_cast<double>(i) / dim);
  return inverse;
}

// Long waves are slowed by the factor, short ones stay, those between are blended.
void Llama3(const RopeConfig& rope, std::vector<double>* inverse) {
  const double old = rope.original_max_position;
  for (double& f : *inverse) {
    const double wave = kTurn / f;
    if (wave < old / rope.high_freq_factor) continue;
    if (wave > old / rope.low_freq_factor) {
      f /= rope.factor;
    } else {
      const double smooth =
          (old / wave - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
      f = (1 - smooth) * f / rope.factor + smooth * f;
    }
  }
}

// Index of the frequency that makes `turns` turns in the original context.
double YarnIndex(double turns, int dim, double theta, double original) {
  return dim * std::log(original / (turns * kTurn)) / (2 * std::log(theta));
}

void Yarn(const RopeConfig& rope, int dim, std::vector<double>* inverse) {
  double low = YarnIndex(rope.beta_fast, dim, rope.theta, rope.original_max_position);
  double high = YarnIndex(rope.beta_slow, dim, rope.theta, rope.original_max_position);
  if (rope.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, dim - 1.0);
  if (low == high) high += 0.001;
  for (size_t i = 0; i < inverse->size(); ++i) {
    const double slowed = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    double& f = (*inverse)[i];
    f = f / rope.factor * slowed + f * (1 - slowed);
  }
}

double YarnScale(double factor, double mscale) {
  return factor <= 1 ? 1 : 0.1 * mscale * std::log(factor) + 1;
}

double YarnAttentionFactor(const RopeConfig& rope) {
  if (rope.attention_factor > 0) return rope.attention_factor;
  if (rope.mscale > 0 && rope.mscale_all_dim > 0) {
    return YarnScale(rope.factor, rope.mscale) / YarnScale(rope.factor, rope.mscale_all_dim);
  }
  return YarnScale(rope.factor, 1);
}

}  // namespace

RopeFrequencies RopeFrequencies::Make(const RopeConfig& rope, int head_dim, int max_context) {
  RopeFrequencies made;
  double theta = rope.theta;
  if (rope.kind == RopeConfig::Kind::kDynamic) {
    const double original = rope.original_max_position,
                 length = std::max<double>(max_context, original);
    theta *=
        std::pow(rope.factor * length / original - (rope.factor - 1), head_dim / (head_dim - 2.0));
  }
  made.inverse_ = PlainInverse(theta, head_dim);
  switch (rope.kind) {
    case RopeConfig::Kind::kDefault:
    case RopeConfig::Kind::kDynamic:
      break;
    case RopeConfig::Kind::kLinear:
      for (double& f : made.inverse_) f /= rope.factor;
      break;
    case RopeConfig::Kind::kLlama3:
      Llama3(rope, &made.inverse_);
      break;
    case RopeConfig::Kind::kYarn:
      Yarn(rope, head_dim, &made.inverse_);
      made.attention_factor_ = YarnAttentionFactor(rope);
      break;
  }
  if (!rope.frequency_factors.empty()) {
    CHECK(rope.frequency_factors.size() == made.inverse_.size());
    for (size_t i = 0; i < made.inverse_.size(); ++i) made.inverse_[i] /= rope.frequency_factors[i];
  }
  return made;
}

void RopeFrequencies::Angles(std::span<const int32_t> positions, Mat out) const {
  const size_t half = inverse_.size();
  CHECK(out.rows == static_cast<int>(positions.size()) && out.cols == static_cast<int>(2 * half));
  for (int t = 0; t < out.rows; ++t) {
    float* row = out.Row(t);
    for (size_t i = 0; i < half; ++i) {
      const double angle = positions[static_cast<size_t>(t)] * inverse_[i];
      row[i] = static_cast<float>(std::cos(angle) * attention_factor_);
      row[half + i] = static_cast<float>(std::sin(angle) * attention_factor_);
    }
  }
}

}  // namespace lserve
