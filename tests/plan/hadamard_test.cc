#include "plan/hadamard.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "tests/cases/hadamard.h"

namespace lserve {
namespace {

TEST(HadamardTransform, IsItsDefinitionAndItsOwnInverse) {
  std::mt19937_64 random(3);
  std::normal_distribution<float> normal(0, 3);
  for (int dim : {2, 6, 64, 80, 96, 128, 256}) {
    std::vector<float> x(static_cast<size_t>(dim));
    for (float& value : x) value = normal(random);
    std::vector<float> y = x;
    HadamardTransform(y.data(), dim);
    const std::vector<double> want =
        cases::HadamardProduct(std::vector<double>(x.begin(), x.end()));
    for (size_t c = 0; c < x.size(); ++c) ASSERT_NEAR(y[c], want[c], 1e-5) << dim;
    HadamardTransform(y.data(), dim);
    for (size_t c = 0; c < x.size(); ++c) ASSERT_NEAR(y[c], x[c], 1e-5) << dim;
  }
}

// What it is for: one channel far larger than the others, as keys have them.
TEST(HadamardTransform, LetsFourBitsKeepTheSmallChannels) {
  const int dim = 64;
  const KvCodec codec(KvType::kKv4, KvType::kKv4, dim);
  ASSERT_TRUE(TransformsKeys(codec));
  std::vector<std::byte> slice(codec.slice_bytes());
  std::mt19937_64 random(4);
  std::normal_distribution<float> normal;
  const auto error = [&](std::vector<float> x, bool transform) {
    std::vector<float> back(x.size());
    if (transform) HadamardTransform(x.data(), dim);
    codec.EncodeK(x.data(), 0, slice.data());
    codec.DecodeK(slice.data(), 0, back.data());
    double sum = 0;
    for (size_t c = 0; c < x.size(); ++c) sum += std::pow(back[c] - x[c], 2);
    return std::sqrt(sum);
  };
  double with = 0, without = 0;
  for (int i = 0; i < 200; ++i) {
    std::vector<float> x(dim);
    for (float& value : x) value = normal(random);
    x[5] += 40;
    with += error(x, true);
    without += error(x, false);
  }
  EXPECT_LT(with, without / 2.5);  // a range of 43 before, of 14 or 15 after
}

}  // namespace
}  // namespace lserve
