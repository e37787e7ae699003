// Norm and activation against their formulas in double. Both work in float on `cpu`: 2e-6 relative
// for the norm (a sum of squares of one sign), the same for silu, whose exponential may be a
// polynomial.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "tests/cases/attn_cases.h"
#include "tests/kernels/test_util.h"

namespace lserve {
namespace {

using cases::FillNormal;
using testing::Matrix;
using testing::SameBits;
using testing::Shared;

TEST(RmsNorm, MatchesTheFormulaAndRowsAreIndependent) {
  for (const char* backend : testing::Backends()) {
    for (int cols : {8, 100, 576, 896, 2049}) {
      if (testing::IsCuda(backend) && cols % 4 != 0) continue;  // no model has such a width
      Matrix x(9, cols, 1), weight(1, cols), out(9, cols, 2);
      std::mt19937_64 random(1);
      FillNormal(x.mat, 1, &random);
      FillNormal(weight.mat, 1, &random);
      for (int c = 0; c < cols; ++c) {
        x.mat.Row(3)[c] = 0;       // only eps is left
        x.mat.Row(4)[c] *= 1e4f;   // massive activations
        x.mat.Row(5)[c] *= 1e-5f;  // eps matters
      }
      Shared(backend).RmsNorm(x.mat, weight.mat.data, 1e-5f, out.mat);
      for (int r = 0; r < 9; ++r) {
        double squares = 0;
        for (int c = 0; c < cols; ++c) squares += std::pow(static_cast<double>(x.mat.Row(r)[c]), 2);
        for (int c = 0; c < cols; ++c) {
          const double expected =
              x.mat.Row(r)[c] / std::sqrt(squares / cols + 1e-5f) * weight.mat.Row(0)[c];
          ASSERT_NEAR(out.mat.Row(r)[c], expected, 2e-6 * std::abs(expected)) << backend;
        }
        Matrix alone(1, cols);
        Shared(backend, 1).RmsNorm(x.mat.Rows(r, 1), weight.mat.data, 1e-5f, alone.mat);
        ASSERT_TRUE(SameBits(alone.mat, out.mat.Rows(r, 1))) << backend;
      }
      Shared(backend).RmsNorm(x.mat, weight.mat.data, 1e-5f, x.mat);
      EXPECT_TRUE(SameBits(x.mat, out.mat)) << backend << " in place";
    }
  }
}

TEST(SiluMul, MatchesTheFormulaAtAllMagnitudes) {
  for (const char* backend : testing::Backends()) {
    for (int cols : {1, 7, 64, 1536, 4865}) {
      Matrix gate(5, cols, 3), up(5, cols, 1), out(5, cols);
      std::mt19937_64 random(2);
      FillNormal(gate.mat, 3, &random);
      FillNormal(up.mat, 1, &random);
      const float extremes[] = {0, 1e-30f, -1e-30f, 30, -30, 88, -88, 104, -104, 1e4f, -1e4f};
      for (int c = 0; c < std::min(cols, 11); ++c) gate.mat.Row(2)[c] = extremes[c];
      Shared(backend).SiluMul(gate.mat, up.mat, out.mat);
      for (int r = 0; r < 5; ++r) {
        for (int c = 0; c < cols; ++c) {
          const double x = gate.mat.Row(r)[c], u = up.mat.Row(r)[c];
          const double expected = x / (1 + std::exp(-x)) * u;
          // Far below zero the result vanishes: an absolute error of 1e-30 is none.
          ASSERT_NEAR(out.mat.Row(r)[c], expected, 2e-6 * std::abs(expected) + 1e-30)
              << backend << " x " << x;
        }
        Matrix alone(1, cols);
        Shared(backend, 1).SiluMul(gate.mat.Rows(r, 1), up.mat.Rows(r, 1), alone.mat);
        ASSERT_TRUE(SameBits(alone.mat, out.mat.Rows(r, 1))) << backend;
      }
      Shared(backend).SiluMul(gate.mat, up.mat, gate.mat);
      EXPECT_TRUE(SameBits(gate.mat, out.mat)) << backend << " in place";
    }
  }
}

// Where there is no GPU this is the line that says what was not tested.
TEST(CudaTest, RunsHere) {
  const Result<std::unique_ptr<Device>> device = OpenDevice(0);
  if (!device.ok() && std::getenv("LSERVE_REQUIRE_GPU")) FAIL() << device.status().message();
  if (!device.ok()) GTEST_SKIP() << device.status().message();
  EXPECT_GE((*device)->info().compute, 80);
  EXPECT_FALSE(OpenDevice(1000).ok());
}

TEST(MakeOps, NamesItsBackendsAndRefusesOthers) {
  ThreadPool pool(1);
  for (const std::string backend : testing::Backends()) EXPECT_EQ(Shared(backend).name(), backend);
  const auto ops = MakeOps("abacus", &pool);
  ASSERT_FALSE(ops.ok());
  for (const char* word : {"abacus", "ref", "cpu", "cuda"})
    EXPECT_NE(ops.status().message().find(word), std::string::npos) << ops.status().ToString();
}

}  // namespace
}  // namespace lserve
