// Linear layers of every backend and stored type against a product written here in double from
// DequantizeRow.
//
// Tolerances. `ref` rounds its result to float, no more. `cpu` adds in float, which costs 2e-6 of
// sum |w x|, and
//   - rounds inputs to bfloat16 where the weights are: a relative error of deviation 2^-9 / sqrt(3)
//   in
//     each x;
//   - for block types turns each 32 inputs into 8-bit integers with a step of max|x| / 127: an
//   error of
//     deviation step / sqrt(12) in each x;
//   - leaves inputs as they are for F32 and F16.
// `cuda` rounds inputs and weights to bfloat16, whatever is stored.
// An error of deviation d_i in x_i is one of sqrt(sum (w_i d_i)^2) in the result; eight deviations
// are allowed. For random rows this comes to about 1e-2 of the result's own deviation, 3e-2 at the
// most.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/cases/attn_cases.h"
#include "tests/kernels/random_weight.h"
#include "tests/kernels/test_util.h"

namespace lserve {
namespace {

using cases::FillNormal;
using testing::Matrix;
using testing::RandomWeight;
using testing::RowValues;
using testing::SameBits;
using testing::Shared;
using testing::Worst;

std::unique_ptr<Weight> Prepare(Ops& ops, const TensorView& tensor, bool to_bf16 = false) {
  Result<std::unique_ptr<Weight>> weight = ops.Prepare(tensor, to_bf16);
  EXPECT_TRUE(weight.ok()) << weight.status().ToString();
  return weight.ok() ? *std::move(weight) : nullptr;
}

std::unique_ptr<Matrix> Random(int rows, int cols, int padding, uint64_t seed) {
  auto m = std::make_unique<Matrix>(rows, cols, padding);
  std::mt19937_64 random(seed);
  FillNormal(m->mat, 1, &random);
  return m;
}

// Result and allowed error of one output, on cpu and on ref. `type` is the weight's in memory.
struct Term {
  double value, allowed, rounding;
};
Term Product(const std::vector<float>& w, const float* x, DType type, bool cuda = false) {
  double sum = 0, mass = 0, variance = 0;
  for (size_t begin = 0; begin < w.size(); begin += 32) {
    const size_t end = std::min(begin + 32, w.size());
    double largest = 0;
    for (size_t i = begin; i < end; ++i) largest = std::max(largest, std::abs(double{x[i]}));
    for (size_t i = begin; i < end; ++i) {
      const double wx = double{w[i]} * x[i];
      sum += wx;
      mass += std::abs(wx);
      if (cuda || type == DType::kBF16) variance += (cuda ? 2 : 1) * wx * wx * 0x1p-18 / 3;
      if (!cuda && !IsFloat(type)) variance += std::pow(w[i] * largest / 127, 2) / 12;
    }
  }
  return {sum, 8 * std::sqrt(variance) + 2e-6 * mass, 1e-12 * mass};
}

class LinearTest : public ::testing::TestWithParam<DType> {
 protected:
  // A width that a layer of this type can have: no multiple of 64, 128 or 512.
  int cols() const {
    const int block = Info(GetParam()).block_elements;
    return block == 256 ? 768 : block == 32 ? 224 : 200;
  }
};

TEST_P(LinearTest, MatchesTheProduct) {
  struct Shape {
    int outputs;
    bool bias, accumulate;
  };
  const Shape shapes[] = {
      {1, true, false}, {33, false, true}, {67, true, true}, {64, false, false}};
  for (const char* backend : testing::Backends()) {
    Ops& ops = Shared(backend);
    const bool exact = std::string(backend) == "ref";
    Worst worst;
    for (int rows : {1, 2, 3, 5, 8, 17, 64}) {
      const auto x = Random(rows, cols(), rows % 3, static_cast<uint64_t>(rows));
      // All shapes in one call, over the same input.
      std::vector<std::unique_ptr<RandomWeight>> stored;
      std::vector<std::unique_ptr<Weight>> weights;
      std::vector<std::unique_ptr<Matrix>> y, before, bias;
      std::vector<LinearOutput> outputs;
      for (const Shape& s : shapes) {
        stored.push_back(std::make_unique<RandomWeight>(GetParam(), s.outputs, cols(), 7));
        weights.push_back(Prepare(ops, stored.back()->view()));
        ASSERT_EQ(weights.back()->rows(), s.outputs);
        ASSERT_EQ(weights.back()->cols(), cols());
        bias.push_back(Random(1, s.outputs, 0, 11));
        y.push_back(Random(rows, s.outputs, 2, 12));
        before.push_back(Random(rows, s.outputs, 2, 12));
        outputs.push_back({weights.back().get(), s.bias ? bias.back()->mat.data : nullptr,
                           y.back()->mat, s.accumulate});
      }
      ops.Linear(x->mat, outputs);
      for (size_t n = 0; n < outputs.size(); ++n) {
        for (int o = 0; o < shapes[n].outputs; ++o) {
          const std::vector<float> w = RowValues(stored[n]->view(), o);
          for (int r = 0; r < rows; ++r) {
            Term t = Product(w, x->mat.Row(r), GetParam(), testing::IsCuda(backend));
            if (shapes[n].bias) t.value += bias[n]->mat.Row(0)[o];
            if (shapes[n].accumulate) t.value += before[n]->mat.Row(r)[o];
            worst.Add(y[n]->mat.Row(r)[o], t.value,
                      exact ? 6e-8 * std::abs(t.value) + t.rounding : t.allowed,
                      fmt::format("{} {} rows, row {} output {} of {}", backend, rows, r, o,
                                  shapes[n].outputs));
          }
        }
        for (int r = 0; r < rows; ++r)
          ASSERT_TRUE(std::isnan(y[n]->mat.Row(r)[shapes[n].outputs])) << "wrote between rows";
      }
    }
    EXPECT_TRUE(worst.ok()) << worst.text();
    RecordProperty(std::string(backend) + "_error_of_allowed",
                   fmt::format("{:.3f}", worst.ratio()));
  }
}

// A row's bits depend on the row alone: not on how many there are, nor on threads, nor on the run.
TEST_P(LinearTest, RowsAreIndependent) {
  const RandomWeight stored(GetParam(), 131, cols(), 3);
  for (const char* backend : testing::Backends()) {
    if (testing::IsCuda(backend)) continue;  // its library's algorithm depends on the shape
    const auto x = Random(67, cols(), 1, 5);
    Matrix all(67, 131);
    const auto weight = Prepare(Shared(backend), stored.view());
    const LinearOutput output{weight.get(), nullptr, all.mat, false};
    Shared(backend).Linear(x->mat, {&output, 1});
    for (int threads : {1, 2, 3}) {
      const auto own = Prepare(Shared(backend, threads), stored.view());
      for (int count : {1, 2, 3, 5, 8, 17, 64, 67}) {
        Matrix some(count, 131);
        const LinearOutput part{own.get(), nullptr, some.mat, false};
        for (int begin = 0; begin + count <= 67; begin += 33) {
          Shared(backend, threads).Linear(x->mat.Rows(begin, count), {&part, 1});
          ASSERT_TRUE(SameBits(some.mat, all.mat.Rows(begin, count)))
              << backend << " " << threads << " threads, rows " << begin << " + " << count;
        }
      }
    }
  }
}

// Rows stored in interleaved rotary order give what the same rows give in half-split order.
TEST_P(LinearTest, InterleavedHeads) {
  const RandomWeight stored(GetParam(), 96, cols(), 4);
  const TensorView view = stored.Interleaved(3);
  const int64_t row_bytes = RowBytes(GetParam(), cols());
  std::vector<std::byte> sorted(static_cast<size_t>(96 * row_bytes));
  for (int head = 0; head < 3; ++head)  // stored rows 2i and 2i + 1 are rows i and i + 16
    for (int i = 0; i < 16; ++i)
      for (int half : {0, 1})
        std::copy_n(stored.view().data + (head * 32 + 2 * i + half) * row_bytes, row_bytes,
                    sorted.data() + (head * 32 + i + 16 * half) * row_bytes);
  TensorView plain = stored.view();
  plain.data = sorted.data();
  for (const char* backend : testing::Backends()) {
    Ops& ops = Shared(backend);
    for (bool to_bf16 : {false, true}) {
      const auto x = Random(3, cols(), 0, 6);
      const auto a = Prepare(ops, view, to_bf16), b = Prepare(ops, plain, to_bf16);
      Matrix y(3, 96), z(3, 96);
      const LinearOutput outputs[] = {{a.get(), nullptr, y.mat, false},
                                      {b.get(), nullptr, z.mat, false}};
      ops.Linear(x->mat, outputs);
      EXPECT_TRUE(SameBits(y.mat, z.mat)) << backend;
    }
  }
}

TEST_P(LinearTest, ToBf16RoundsTheWeights) {
  const RandomWeight stored(GetParam(), 40, cols(), 8);
  for (const char* backend : testing::Backends()) {
    Ops& ops = Shared(backend);
    const auto x = Random(5, cols(), 0, 9);
    const auto weight = Prepare(ops, stored.view(), true);
    Matrix y(5, 40);
    const LinearOutput output{weight.get(), nullptr, y.mat, false};
    ops.Linear(x->mat, {&output, 1});
    Worst worst;
    for (int o = 0; o < 40; ++o) {
      std::vector<float> w = RowValues(stored.view(), o);
      for (float& value : w) value = FromBf16(ToBf16(value));
      for (int r = 0; r < 5; ++r) {
        const Term t = Product(w, x->mat.Row(r), DType::kBF16);
        worst.Add(y.mat.Row(r)[o], t.value,
                  std::string(backend) == "ref" ? 6e-8 * std::abs(t.value) + t.rounding : t.allowed,
                  backend);
      }
    }
    EXPECT_TRUE(worst.ok()) << worst.text();
  }
}

// Weights stay in the precision they are stored in, but for padding and scales laid out apart.
TEST_P(LinearTest, MemoryIsThatOfTheFile) {
  const RandomWeight stored(GetParam(), 256, cols(), 8);
  const double bytes = static_cast<double>(256 * RowBytes(GetParam(), cols()));
  for (const char* backend : testing::Backends()) {
    if (testing::IsCuda(backend)) continue;  // all weights are bf16 there
    const auto weight = Prepare(Shared(backend), stored.view());
    EXPECT_GE(static_cast<double>(weight->bytes()), 0.5 * bytes);
    EXPECT_LE(static_cast<double>(weight->bytes()), 1.5 * bytes) << backend;
    EXPECT_LE(static_cast<double>(Prepare(Shared(backend), stored.view(), true)->bytes()),
              1.5 * 256 * cols() * 2)
        << backend;
  }
}

TEST_P(LinearTest, Embed) {
  const RandomWeight stored(GetParam(), 50, cols(), 10);
  const std::vector<int32_t> ids = {0, 49, 7, 7, 31};
  for (const char* backend : testing::Backends()) {
    Ops& ops = Shared(backend);
    for (bool to_bf16 : {false, true}) {
      const auto table = Prepare(ops, stored.view(), to_bf16);
      Matrix out(5, cols(), 3);
      ops.Embed(*table, ids, out.mat);
      for (size_t r = 0; r < ids.size(); ++r) {
        const std::vector<float> row = RowValues(stored.view(), ids[r]);
        for (int c = 0; c < cols(); ++c) {
          const bool rounded = to_bf16 || testing::IsCuda(backend);
          const float expected = rounded ? FromBf16(ToBf16(row[c])) : row[c];
          // Scale times code minus minimum, fused or not.
          const double allowed = std::string(backend) == "ref" || rounded ? 0 : 1e-6;
          ASSERT_NEAR(out.mat.Row(static_cast<int>(r))[c], expected, allowed) << backend;
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Types, LinearTest, ::testing::ValuesIn(testing::kAllTypes),
                         [](const auto& info) { return std::string(Info(info.param).name); });

// Model files are checked when they are loaded; ref looks again.
TEST(Linear, RefRefusesBrokenBlocks) {
  const std::vector<std::byte> bytes(1000);
  const auto weight =
      Shared("ref").Prepare({"blk.0.w", DType::kQ8_0, 2, 40, bytes.data(), 0}, false);
  ASSERT_FALSE(weight.ok());
  EXPECT_NE(weight.status().message().find("blk.0.w"), std::string::npos);
}

}  // namespace
}  // namespace lserve
