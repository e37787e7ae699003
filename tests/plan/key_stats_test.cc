// Key statistics: true bounds of the keys the codec gives back, logical page by logical page.
#include "plan/key_stats.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "core/dtype.h"

namespace lserve {
namespace {

TEST(KeyStats, LayoutOfASlice) {
  for (int logical : {16, 32, 64}) {
    const size_t pages = static_cast<size_t>(64 / logical);
    EXPECT_EQ((KeyStats{logical, 6}.slice_bytes()), pages * 2 * 6 * 2);
    EXPECT_EQ((KeyStats{logical, 6, 8}.slice_bytes()), (pages * (2 * 6 + 8) + 31) / 32 * 32);
    EXPECT_EQ((KeyStats{logical, 128, 8}.slice_bytes() % 32), 0u) << "records stay aligned";
    int completed = 0;
    for (int token = 0; token < 64; ++token) completed += KeyStats{logical, 6}.Completes(token);
    EXPECT_EQ(completed, 64 / logical);
    EXPECT_TRUE((KeyStats{logical, 6}.Completes(logical - 1)));
  }
  EXPECT_EQ((KeyStats{0, 6, 8}.slice_bytes()), 0u);
  EXPECT_FALSE((KeyStats{0, 6}.Completes(63)));
}

// 1 + 2^-9 is no bfloat16: its minimum is 1, its maximum 1 + 2^-7; mirrored for negative numbers.
TEST(KeyStats, SixteenBitsRoundOutward) {
  const KeyStats stats{16, 2};
  std::vector<uint16_t> slice(stats.slice_bytes() / 2, 0x1234);
  const float key[] = {1 + 0x1p-9f, -1 - 0x1p-9f};
  stats.Encode(key, key, 1, slice.data());
  const uint16_t* page = slice.data() + 4;  // logical page 1
  EXPECT_EQ(FromBf16(page[0]), 1.0f);
  EXPECT_EQ(FromBf16(page[1]), -1 - 0x1p-7f);
  EXPECT_EQ(FromBf16(page[2]), 1 + 0x1p-7f);
  EXPECT_EQ(FromBf16(page[3]), -1.0f);
  for (int other : {0, 2, 3}) EXPECT_EQ(slice[static_cast<size_t>(4 * other)], 0x1234);
}

// Bytes by hand: minima from -1 to 1.55 have a scale of 0.01, rounded up to the bfloat16
// 0.010009765625. 0.005 lies 100.4 scales above -1: code 100; as a maximum, 101.
TEST(KeyStats, EightBitsByHand) {
  const KeyStats stats{64, 4, 8};
  ASSERT_EQ(stats.slice_bytes(), 32u);
  std::vector<uint16_t> slice(16);
  const float bounds[] = {-1, 1.55f, 0.005f, -1};
  stats.Encode(bounds, bounds, 0, slice.data());
  const uint8_t* codes = reinterpret_cast<const uint8_t*>(slice.data());
  EXPECT_EQ(std::vector<int>(codes, codes + 8), (std::vector<int>{0, 254, 100, 0, 0, 255, 101, 0}));
  for (int side : {0, 1}) {
    EXPECT_EQ(FromBf16(slice[static_cast<size_t>(4 + 2 * side)]), 0.010009765625f);
    EXPECT_EQ(FromBf16(slice[static_cast<size_t>(5 + 2 * side)]), -1.0f);
  }
}

// Whatever the numbers are, what is stored lies outside of them, or on them.
TEST(KeyStats, BoundsOfAnyNumbers) {
  const int dim = 8;
  const float kinds[][8] = {
      {0, 0, 0, 0, 0, 0, 0, 0},
      {-0.0f, 0, -0.0f, 0, 0, 0, 0, 0},
      {3, 3, 3, 3, 3, 3, 3, 3},
      {1000, std::nextafter(1000.0f, 2000.0f), 1000, 1000, 1000, 1000, 1000, 1000.001f},
      {1e-45f, 3e-45f, 0, -1e-45f, 1e-40f, 0, 0, 0},
      {-1e30f, 1e30f, 0, 1, -1, 7, 1e29f, 3},
      {-218.4f, 3, 2, 1, 0.1f, -0.2f, 0.3f, 96}};
  for (const int bits : {8, 16})
    for (const auto& x : kinds) {
      const KeyStats stats{64, dim, bits};
      std::vector<uint16_t> slice(stats.slice_bytes() / 2);
      stats.Encode(x, x, 0, slice.data());
      float low[dim], high[dim];
      stats.Decode(slice.data(), 0, low, high);
      const float range = *std::max_element(x, x + dim) - *std::min_element(x, x + dim);
      for (int c = 0; c < dim; ++c) {
        ASSERT_LE(low[c], x[c]) << bits << " bits, channel " << c;
        ASSERT_GE(high[c], x[c]) << bits << " bits, channel " << c;
        // A code and a rounded minimum away at most; 1e-38: where floats lose their digits.
        const float step = bits == 8 ? range / 250 + std::abs(*std::min_element(x, x + dim)) / 128
                                     : std::abs(x[c]) / 128;
        ASSERT_LE(high[c] - x[c], step + 1e-38f) << bits << " bits, channel " << c;
        ASSERT_LE(x[c] - low[c], step + 1e-38f) << bits << " bits, channel " << c;
      }
    }
}

// Keys that are no numbers, or beyond any, break nothing.
TEST(KeyStats, NumbersThatAreNone) {
  const float inf = std::numeric_limits<float>::infinity(), nan = std::nanf("");
  const KvCodec codec(KvType::kKv32, KvType::kKv32, 4);
  std::vector<std::byte> slice(codec.slice_bytes());
  const float none[] = {nan, nan, inf, 1}, some[] = {nan, 2, 0, -1};
  for (int t = 0; t < kBlockTokens; ++t) codec.EncodeK(t % 2 ? none : some, t, slice.data());
  const KeyStats stats{16, 4, 8};
  std::vector<uint16_t> bounds(stats.slice_bytes() / 2);
  stats.Store(codec, slice.data(), 1, bounds.data());
  float low[4], high[4];
  stats.Decode(bounds.data(), 1, low, high);
  for (int c = 0; c < 4; ++c) EXPECT_TRUE(std::isfinite(low[c]) && std::isfinite(high[c]));
  EXPECT_LE(low[1], 2);
  EXPECT_GE(high[1], 2);
  EXPECT_GE(high[2], 0x1p126f);
}

// What selection relies on: no key of a logical page scores above the page, for any query.
TEST(KeyStats, BoundEveryStoredKey) {
  std::mt19937_64 random(4);
  std::normal_distribution<float> normal;
  const int dim = 64;
  for (KvType type : {KvType::kKv32, KvType::kKv16, KvType::kKv8, KvType::kKv4}) {
    const KvCodec codec(type, type, dim);
    std::vector<std::byte> slice(codec.slice_bytes());
    std::vector<std::vector<float>> keys(kBlockTokens, std::vector<float>(dim));
    for (int t = 0; t < kBlockTokens; ++t) {
      std::vector<float>& key = keys[static_cast<size_t>(t)];
      for (int c = 0; c < dim; ++c)
        key[static_cast<size_t>(c)] = normal(random) * (c % 16 == 3 ? 30.0f : 1.0f);
      codec.EncodeK(key.data(), t, slice.data());
      codec.DecodeK(slice.data(), t, key.data());
    }
    for (int logical : {16, 32, 64})
      for (int bits : {16, 8}) {
        const KeyStats stats{logical, dim, bits};
        // What a previous owner left does not matter.
        std::vector<uint16_t> bounds(stats.slice_bytes() / 2, 0xffff), again(bounds.size());
        for (int page = 0; page < stats.pages_per_block(); ++page) {
          stats.Store(codec, slice.data(), page, bounds.data());
          stats.Store(codec, slice.data(), page, again.data());
          std::vector<float> low(dim), high(dim), other(dim);
          stats.Decode(bounds.data(), page, low.data(), high.data());
          stats.Decode(again.data(), page, other.data(), other.data());
          EXPECT_EQ(high, other);
          for (int t = page * logical; t < (page + 1) * logical; ++t) {
            const std::vector<float>& key = keys[static_cast<size_t>(t)];
            for (size_t c = 0; c < key.size(); ++c) {
              ASSERT_LE(low[c], key[c]) << codec.name() << " " << bits << " bits, token " << t;
              ASSERT_GE(high[c], key[c]) << codec.name() << " " << bits << " bits, token " << t;
            }
          }
          for (int trial = 0; trial < 20; ++trial) {
            std::vector<double> q(dim);
            for (double& x : q) x = normal(random);
            double score = 0;
            for (size_t c = 0; c < q.size(); ++c) score += std::max(q[c] * low[c], q[c] * high[c]);
            for (int t = page * logical; t < (page + 1) * logical; ++t) {
              double dot = 0;
              for (size_t c = 0; c < q.size(); ++c) dot += q[c] * keys[static_cast<size_t>(t)][c];
              ASSERT_GE(score, dot) << codec.name() << " logical " << logical << " token " << t;
            }
          }
          if (bits == 8) continue;
          // And tight: each bound is the bfloat16 next to a key of the page.
          for (int c = 0; c < dim; ++c) {
            float least = keys[static_cast<size_t>(page * logical)][static_cast<size_t>(c)];
            float most = least;
            for (int t = page * logical; t < (page + 1) * logical; ++t) {
              least = std::min(least, keys[static_cast<size_t>(t)][static_cast<size_t>(c)]);
              most = std::max(most, keys[static_cast<size_t>(t)][static_cast<size_t>(c)]);
            }
            const uint16_t* at = bounds.data() + page * 2 * dim + c;
            ASSERT_EQ(at[0], ToBf16Down(least));
            ASSERT_EQ(at[dim], ToBf16Up(most));
          }
        }
      }
  }
}

}  // namespace
}  // namespace lserve
