// Frequencies of every kind against closed forms and published corner values, and angles out to a
// million positions.
#include "model/rope.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace lserve {
namespace {

constexpr double kTurn = 2 * 3.14159265358979323846;

RopeConfig Config(RopeConfig::Kind kind, double factor, double theta = 10000, int original = 0) {
  RopeConfig rope;
  rope.kind = kind;
  rope.factor = factor;
  rope.theta = theta;
  rope.original_max_position = original;
  return rope;
}

double Plain(double theta, int i, int dim) { return std::pow(theta, -2.0 * i / dim); }

TEST(Rope, DefaultAndLinear) {
  const auto plain = RopeFrequencies::Make(Config(RopeConfig::Kind::kDefault, 1), 64, 0);
  const auto linear = RopeFrequencies::Make(Config(RopeConfig::Kind::kLinear, 4), 64, 0);
  ASSERT_EQ(plain.inverse().size(), 32u);
  for (int i = 0; i < 32; ++i) {
    EXPECT_NEAR(plain.inverse()[i] / Plain(10000, i, 64), 1, 1e-14);
    EXPECT_NEAR(linear.inverse()[i] * 4 / Plain(10000, i, 64), 1, 1e-14);
  }
  EXPECT_EQ(plain.attention_factor(), 1);
}

TEST(Rope, Llama3KeepsShortWavesAndSlowsLongOnes) {
  RopeConfig rope = Config(RopeConfig::Kind::kLlama3, 8, 500000, 8192);
  const auto made = RopeFrequencies::Make(rope, 128, 131072);
  int kept = 0, slowed = 0, blended = 0;
  for (int i = 0; i < 64; ++i) {
    const double f = Plain(500000, i, 128), wave = kTurn / f, ratio = made.inverse()[i] / f;
    if (wave < 8192 / 4.0) {
      EXPECT_NEAR(ratio, 1, 1e-14);
      ++kept;
    } else if (wave > 8192) {
      EXPECT_NEAR(ratio, 0.125, 1e-14);
      ++slowed;
    } else {
      const double smooth = (8192 / wave - 1) / 3;
      EXPECT_NEAR(ratio, (1 - smooth) / 8 + smooth, 1e-14);
      ++blended;
    }
  }
  EXPECT_GT(kept, 0);
  EXPECT_GT(slowed, 0);
  EXPECT_GT(blended, 0);
}

TEST(Rope, YarnKeepsFastTurnsAndSlowsSlowOnes) {
  const RopeConfig rope = Config(RopeConfig::Kind::kYarn, 4, 1e6, 32768);
  const auto made = RopeFrequencies::Make(rope, 128, 131072);
  // 32 turns in 32768 positions at index 23.6, one at 39.7: floor and ceiling are 23 and 40.
  for (int i = 0; i < 64; ++i) {
    const double ratio = made.inverse()[i] / Plain(1e6, i, 128);
    const double slowed = std::fmin(std::fmax((i - 23) / 17.0, 0), 1);
    EXPECT_NEAR(ratio, slowed / 4 + (1 - slowed), 1e-14) << i;
  }
  EXPECT_NEAR(made.attention_factor(), 0.1 * std::log(4.0) + 1, 1e-15);
  RopeConfig explicit_factor = rope;
  explicit_factor.attention_factor = 1.5;
  EXPECT_EQ(RopeFrequencies::Make(explicit_factor, 128, 0).attention_factor(), 1.5);
  RopeConfig mscale = rope;
  mscale.mscale = 2;
  mscale.mscale_all_dim = 1;
  EXPECT_NEAR(RopeFrequencies::Make(mscale, 128, 0).attention_factor(),
              (0.2 * std::log(4.0) + 1) / (0.1 * std::log(4.0) + 1), 1e-15);
}

TEST(Rope, DynamicIsFixedByTheLongestContext) {
  const RopeConfig rope = Config(RopeConfig::Kind::kDynamic, 2, 10000, 2048);
  const auto within = RopeFrequencies::Make(rope, 64, 1024);
  const auto twice = RopeFrequencies::Make(rope, 64, 4096);
  const double theta = 10000 * std::pow(2.0 * 4096 / 2048 - 1, 64 / 62.0);
  for (int i = 0; i < 32; ++i) {
    EXPECT_NEAR(within.inverse()[i] / Plain(10000, i, 64), 1, 1e-14);
    EXPECT_NEAR(twice.inverse()[i] / Plain(theta, i, 64), 1, 1e-13);
  }
}

TEST(Rope, FrequencyFactorsDivide) {
  RopeConfig rope = Config(RopeConfig::Kind::kDefault, 1);
  rope.frequency_factors = {1, 8};
  const auto made = RopeFrequencies::Make(rope, 4, 0);
  EXPECT_EQ(made.inverse()[0], 1);
  EXPECT_NEAR(made.inverse()[1], 0.01 / 8, 1e-17);
}

// Neighbouring positions must stay one step apart however far out: turning the angles of p by one
// position gives those of p + 1.
TEST(Rope, AnglesHoldToAMillionPositions) {
  const auto rope = RopeFrequencies::Make(Config(RopeConfig::Kind::kDefault, 1, 8e6), 128, 0);
  std::vector<float> table(2 * 128);
  for (const int32_t position : {0, 1, 4095, 65536, 131071, 999'999, 1'048'575}) {
    const int32_t pair[] = {position, position + 1};
    rope.Angles(pair, Mat(table.data(), 2, 128));
    for (int i = 0; i < 64; ++i) {
      const double c = std::cos(rope.inverse()[i]), s = std::sin(rope.inverse()[i]);
      EXPECT_NEAR(table[128 + i], table[i] * c - table[64 + i] * s, 2e-7) << position << " " << i;
      EXPECT_NEAR(table[192 + i], table[64 + i] * c + table[i] * s, 2e-7) << position << " " << i;
    }
    // The first frequency is one radian a position: long double knows the angle exactly enough.
    EXPECT_NEAR(table[0], static_cast<double>(std::cos(static_cast<long double>(position))), 1e-7);
    EXPECT_NEAR(table[64], static_cast<double>(std::sin(static_cast<long double>(position))), 1e-7);
  }
}

}  // namespace
}  // namespace lserve
