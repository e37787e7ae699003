// Key statistics: true bounds of the keys the codec gives back, logical page by logical page.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "core/dtype.h"
#include "plan/kv_codec.h"

namespace lserve {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

TEST(KeyStats, EmptyPagesHaveInvertedBounds) {
  for (int logical : {16, 32, 64}) {
    const KeyStats stats{logical, 6};
    EXPECT_EQ(stats.slice_bytes(), static_cast<size_t>(64 / logical * 2 * 6 * 2));
    std::vector<uint16_t> slice(stats.slice_bytes() / 2, 0x1234);
    stats.Reset(slice.data());
    for (int page = 0; page < stats.pages_per_block(); ++page)
      for (int c = 0; c < 6; ++c) {
        EXPECT_EQ(FromBf16(slice[static_cast<size_t>(page * 12 + c)]), kInf);
        EXPECT_EQ(FromBf16(slice[static_cast<size_t>(page * 12 + 6 + c)]), -kInf);
      }
  }
}

// 1 + 2^-9 is no bfloat16: its minimum is 1, its maximum 1 + 2^-7; mirrored for negative numbers.
TEST(KeyStats, RoundsOutward) {
  const KeyStats stats{16, 2};
  std::vector<uint16_t> slice(stats.slice_bytes() / 2);
  stats.Reset(slice.data());
  const float key[] = {1 + 0x1p-9f, -1 - 0x1p-9f};
  stats.Fold(key, 17, slice.data());
  const uint16_t* page = slice.data() + 4;  // logical page 1
  EXPECT_EQ(FromBf16(page[0]), 1.0f);
  EXPECT_EQ(FromBf16(page[1]), -1 - 0x1p-7f);
  EXPECT_EQ(FromBf16(page[2]), 1 + 0x1p-7f);
  EXPECT_EQ(FromBf16(page[3]), -1.0f);
  for (int other : {0, 2, 3}) EXPECT_EQ(slice[static_cast<size_t>(4 * other)], 0x7f80);
}

// What selection relies on: no key of a logical page scores above the page, for any query.
TEST(KeyStats, BoundEveryStoredKey) {
  std::mt19937_64 random(4);
  std::normal_distribution<float> normal;
  for (KvType type : {KvType::kKv32, KvType::kKv16, KvType::kKv8, KvType::kKv4}) {
    for (int logical : {16, 32, 64}) {
      const int dim = 64, tokens = 59;
      const KvCodec codec(type, type, dim);
      const KeyStats stats{logical, dim};
      std::vector<std::byte> slice(codec.slice_bytes());
      std::vector<uint16_t> bounds(stats.slice_bytes() / 2);
      stats.Reset(bounds.data());
      std::vector<std::vector<float>> keys(tokens, std::vector<float>(dim));
      for (int t = 0; t < tokens; ++t) {
        std::vector<float>& key = keys[static_cast<size_t>(t)];
        for (int c = 0; c < dim; ++c)
          key[static_cast<size_t>(c)] = normal(random) * (c % 16 == 3 ? 30.0f : 1.0f);
        codec.EncodeK(key.data(), t, slice.data());
        codec.DecodeK(slice.data(), t, key.data());
        stats.Fold(key.data(), t, bounds.data());
      }
      for (int trial = 0; trial < 20; ++trial) {
        std::vector<double> q(dim);
        for (double& x : q) x = normal(random);
        for (int t = 0; t < tokens; ++t) {
          const uint16_t* page = bounds.data() + t / logical * 2 * dim;
          double score = 0, dot = 0;
          for (int c = 0; c < dim; ++c) {
            const double x = q[static_cast<size_t>(c)];
            score += std::max(x * FromBf16(page[c]), x * FromBf16(page[dim + c]));
            dot += x * keys[static_cast<size_t>(t)][static_cast<size_t>(c)];
          }
          ASSERT_GE(score, dot) << codec.name() << " logical " << logical << " token " << t;
        }
      }
      // And tight: each bound is within a bfloat16 step of a key of the page.
      for (int page = 0; page < stats.pages_per_block(); ++page)
        for (int c = 0; c < dim; ++c) {
          float low = kInf, high = -kInf;
          for (int t = page * logical; t < std::min(tokens, (page + 1) * logical); ++t) {
            low = std::min(low, keys[static_cast<size_t>(t)][static_cast<size_t>(c)]);
            high = std::max(high, keys[static_cast<size_t>(t)][static_cast<size_t>(c)]);
          }
          const uint16_t* at = bounds.data() + page * 2 * dim + c;
          ASSERT_EQ(at[0], ToBf16Down(low));
          ASSERT_EQ(at[dim], ToBf16Up(high));
        }
    }
  }
}

}  // namespace
}  // namespace lserve
