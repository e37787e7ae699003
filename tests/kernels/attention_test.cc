// Attention of every backend over the whole table of cases (tests/cases/attn_cases.h), against a
// masked softmax written here from ToDenseMask.
//
// Tolerances. `ref` has double accumulators: what remains is the rounding of its result to float.
// `cpu` rounds q, k, v and the weights p to bfloat16. A bfloat16 rounding moves a number by a
// relative error of deviation u = 2^-9 / sqrt(3). To first order
//     out_c = sum_j p_j v_jc,  d out_c = sum_j p_j (e_j (v_jc - out_c) + f_j v_jc)
// where e_j is the error of score j, of deviation u * s_j with s_j^2 = scale^2 sum_i (q_i k_ij)^2
// for each of q and k, and f_j has deviation u for each of p and v. So the unit of noise is
//     N_c = sqrt(sum_j p_j^2 (s_j^2 (v_jc - out_c)^2 + v_jc^2))
// and the case's tolerance (10 sqrt(2) u) multiplies it. In lse = log sum exp(score) the error of q
// does not average out, as all keys share it: its unit is sqrt(sum_i (scale q_i sum_j p_j k_ij)^2),
// to which those of k and p are added as above. To that comes float arithmetic, 2e-5 of sum_j p_j
// |v_jc|. For a softmax over few keys this is about 1e-2 of a value.
//
// `cuda` sums p_j s_j (code - middle) and p_j times the middle of the token's range apart where
// values are codes, so there f_j meets v_jc less that middle. Its results are bfloat16: their
// rounding is added.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "tests/cases/attn_cases.h"
#include "tests/kernels/test_util.h"

namespace lserve {
namespace {

using cases::AttnCase;
using cases::AttnProblem;
using cases::PlanKind;
using testing::SameBits;
using testing::Shared;
using testing::Worst;

// For one query and head: result, noise unit, absolute mass, and the same for lse.
struct Expected {
  std::vector<double> out, noise, mass;
  std::vector<double> folded;  // the noise where values are summed as codes
  double lse = 0, lse_noise = 0;
};

// All stored tokens of one sequence and head as the codec returns them.
struct Stored {
  std::vector<std::vector<float>> k, v;
  std::vector<float> middle;  // of each token's range of value codes; 0 where there are none
};

Stored Decode(const KvView& view, int seq, int kv_head, int kv_len) {
  Stored stored;
  std::vector<float> row(static_cast<size_t>(view.codec.dim()));
  for (int j = 0; j < kv_len; ++j) {
    const std::byte* slice = view.Slice(seq, kv_head, j / kBlockTokens);
    std::fill(row.begin(), row.end(), std::nanf(""));
    if (slice) view.codec.DecodeK(slice, j % kBlockTokens, row.data());
    stored.k.push_back(row);
    if (slice) view.codec.DecodeV(slice, j % kBlockTokens, row.data());
    stored.v.push_back(row);
    float middle = 0;
    if (slice && IsQuantised(view.codec.v_type())) {
      const std::byte* scales = slice + view.codec.v_scale_offset() + 2 * (j % kBlockTokens);
      uint16_t scale, minimum;
      std::memcpy(&scale, scales, 2);
      std::memcpy(&minimum, scales + KvCodec::kMinAfterScale, 2);
      middle = FromF16(minimum) +
               FromF16(scale) * static_cast<float>(1 << (KvBits(view.codec.v_type()) - 1));
    }
    stored.middle.push_back(middle);
  }
  return stored;
}

Expected MaskedSoftmax(const Stored& kv, const float* q, int dim, double scale,
                       const std::vector<bool>& mask) {
  std::vector<double> score, spread;
  std::vector<int> keys;
  double top = -1e300;
  for (size_t j = 0; j < mask.size(); ++j) {
    if (!mask[j]) continue;
    double sum = 0, squares = 0;
    for (int i = 0; i < dim; ++i) {
      const double product = static_cast<double>(q[i]) * kv.k[j][i];
      sum += product;
      squares += product * product;
    }
    keys.push_back(static_cast<int>(j));
    score.push_back(scale * sum);
    spread.push_back(scale * scale * squares);
    top = std::max(top, score.back());
  }
  double total = 0;
  for (double s : score) total += std::exp(s - top);
  Expected e;
  e.lse = top + std::log(total);
  e.out.assign(static_cast<size_t>(dim), 0);
  e.noise = e.mass = e.folded = e.out;
  std::vector<double> mean_key(e.out);
  for (size_t n = 0; n < keys.size(); ++n) {
    const double p = std::exp(score[n] - e.lse);
    for (int c = 0; c < dim; ++c) {
      const double v = kv.v[static_cast<size_t>(keys[n])][c];
      e.out[c] += p * v;
      e.mass[c] += p * std::abs(v);
      mean_key[c] += p * kv.k[static_cast<size_t>(keys[n])][c];
    }
    e.lse_noise += p * p * (1 + spread[n]);
  }
  for (size_t n = 0; n < keys.size(); ++n) {
    const double p = std::exp(score[n] - e.lse);
    for (int c = 0; c < dim; ++c) {
      const double v = kv.v[static_cast<size_t>(keys[n])][c], away = v - e.out[c];
      e.noise[c] += p * p * (spread[n] * away * away + v * v);
      const double code = v - kv.middle[static_cast<size_t>(keys[n])];
      e.folded[c] += p * p * (spread[n] * away * away + std::max(v * v, code * code));
    }
  }
  for (double& n : e.noise) n = std::sqrt(n);
  for (double& n : e.folded) n = std::sqrt(n);
  for (int i = 0; i < dim; ++i) e.lse_noise += std::pow(scale * q[i] * mean_key[i], 2);
  e.lse_noise = std::sqrt(e.lse_noise);
  return e;
}

struct Output {
  Mat out;
  std::vector<float> lse;
};

Output Attend(Ops& ops, AttnProblem& problem, const AttnPlan& plan) {
  Output result{problem.NewOutput(), {}};
  result.lse.assign(static_cast<size_t>(problem.rows()) * plan.shape.num_q_heads, std::nanf(""));
  ops.Attention({.q = problem.q(),
                 .out = result.out,
                 .plan = &plan,
                 .view = problem.view(),
                 .scale = problem.scale(),
                 .lse = result.lse.data()});
  return result;
}
Output Attend(Ops& ops, AttnProblem& problem) { return Attend(ops, problem, problem.plan()); }

bool Same(const Output& a, const Output& b) {
  return SameBits(a.out, b.out) &&
         SameBits(a.lse.data(), b.lse.data(), static_cast<int64_t>(a.lse.size()));
}

class AttentionTest : public ::testing::TestWithParam<AttnCase> {
 protected:
  // Empty where the backend declares that it cannot.
  static Ops* Find(const std::string& backend, int threads = 2) {
    const AttnCase& c = GetParam();
    Ops& ops = Shared(backend, threads);
    const Status status = ops.SupportsKv(KvCodec(c.k_type, c.v_type, c.dim), c.group);
    if (status.ok()) return &ops;
    const bool common = c.dim == 64 || c.dim == 128;
    EXPECT_TRUE(backend != "ref" && (c.k_type == KvType::kKv32 || !common)) << status.ToString();
    const std::string missing = c.k_type == KvType::kKv32 ? "kv32" : std::to_string(c.dim);
    EXPECT_NE(status.message().find(missing), std::string::npos) << status.ToString();
    return nullptr;
  }
};

// Cases whose lists follow from a rule and so not from the tiles, and those that list everything.
class RuleAttentionTest : public AttentionTest {};
class DenseAttentionTest : public AttentionTest {};

TEST_P(AttentionTest, MatchesMaskedSoftmax) {
  const AttnCase& c = GetParam();
  AttnProblem problem(c);
  const AttnPlan& plan = problem.plan();
  const Status valid = Validate(plan);
  ASSERT_TRUE(valid.ok()) << valid.ToString();

  std::map<std::string, Output> outputs;
  std::map<std::string, Worst> worst;
  for (const char* backend : testing::Backends())
    if (Ops* ops = Find(backend)) outputs.emplace(backend, Attend(*ops, problem));

  std::map<std::pair<int, int>, Stored> stored;
  for (const Tile& tile : plan.tiles) {
    const int kv_head = tile.head / c.group;
    auto [kv, added] = stored.try_emplace({tile.seq, kv_head});
    if (added) kv->second = Decode(problem.view(), tile.seq, kv_head, tile.kv_len);
    const std::vector<std::vector<bool>> mask = ToDenseMask(plan, tile);
    for (int i = 0; i < tile.q_len; ++i) {
      for (int h = tile.head; h < tile.head + c.heads_per_tile; ++h) {
        const int row = tile.q_begin + i;
        const Expected e = MaskedSoftmax(kv->second, problem.q().Row(row) + h * c.dim, c.dim,
                                         problem.scale(), mask[static_cast<size_t>(i)]);
        for (const auto& [backend, output] : outputs) {
          const bool wide = backend == "ref";
          const std::string where = fmt::format("{} row {} head {}", backend, row, h);
          for (int d = 0; d < c.dim; ++d)
            worst[backend].Add(
                output.out.Row(row)[h * c.dim + d], e.out[d],
                wide ? 6e-8 * std::abs(e.out[d]) + 1e-10 * e.mass[d]
                     : c.tolerance * (testing::IsCuda(backend) ? e.folded[d] : e.noise[d]) +
                           2e-5 * e.mass[d] +
                           (testing::IsCuda(backend) ? 0x1p-8 * std::abs(e.out[d]) : 0),
                where);
          worst[backend].Add(output.lse[static_cast<size_t>(row) * c.q_heads() + h], e.lse,
                             wide ? 6e-8 * std::abs(e.lse) + 1e-10
                                  : c.tolerance * e.lse_noise + 2e-5 * (1 + std::abs(e.lse)),
                             where + " lse");
        }
      }
    }
  }
  for (const auto& [backend, w] : worst) {
    EXPECT_TRUE(w.ok()) << w.text();
    RecordProperty(backend + "_error_of_allowed", fmt::format("{:.3f}", w.ratio()));
  }
  for (const auto& [backend, output] : outputs)  // what lies between the rows is not ours
    for (int row = 0; row < problem.rows(); ++row)
      for (int p = 0; p < c.padding; ++p)
        ASSERT_TRUE(std::isnan(output.out.Row(row)[output.out.cols + p])) << backend;
}

// The same bits again, on any number of threads, and for each tile alone as in the whole batch.
TEST_P(AttentionTest, IsDeterministic) {
  for (const char* backend : testing::Backends()) {
    AttnProblem problem(GetParam());
    Ops* ops = Find(backend);
    if (!ops) continue;
    const Output first = Attend(*ops, problem);
    for (int threads : {2, 1, 3})
      EXPECT_TRUE(Same(first, Attend(*Find(backend, threads), problem)))
          << backend << " differs with " << threads << " threads";

    Output alone{problem.NewOutput(), std::vector<float>(first.lse.size(), std::nanf(""))};
    for (const Tile& tile : problem.plan().tiles) {
      const AttnPlan one{problem.plan().shape, {&tile, 1}, problem.plan().runs};
      ops->Attention({.q = problem.q(),
                      .out = alone.out,
                      .plan = &one,
                      .view = problem.view(),
                      .scale = problem.scale(),
                      .lse = alone.lse.data()});
    }
    EXPECT_TRUE(Same(first, alone)) << backend << " depends on the other tiles of the plan";
  }
}

// A query's bits do not depend on which queries share its tile.
TEST_P(RuleAttentionTest, TileBordersDoNotMatter) {
  const AttnCase& c = GetParam();
  for (const char* backend : testing::Backends()) {
    Ops* ops = Find(backend);
    if (!ops || testing::IsCuda(backend)) continue;  // its decode and prefill kernels differ
    AttnProblem problem(c);
    const Output whole = Attend(*ops, problem);
    for (int q_tile : {1, 5, 32}) {
      AttnProblem cut(c, q_tile);
      ASSERT_TRUE(SameBits(problem.q(), cut.q()));
      EXPECT_TRUE(Same(whole, Attend(*ops, cut))) << backend << " differs with tiles of " << q_tile;
    }
  }
}

// A list that covers everything, however it is cut into runs and masks, gives the bits of a dense
// plan.
TEST_P(DenseAttentionTest, SparseEqualsDenseWhenTheListCoversEverything) {
  AttnProblem problem(GetParam());
  std::vector<Tile> tiles;
  std::vector<lserve::Run> runs;
  for (Tile tile : problem.plan().tiles) {
    const int begin = static_cast<int>(runs.size());
    for (const lserve::Run& run : problem.plan().RunsOf(tile))
      for (int b = run.first; b < run.first + run.count; ++b)
        runs.push_back({b, 1, run.masked || b % 3 == 1});
    tile.run_begin = begin;
    tile.run_end = static_cast<int>(runs.size());
    tiles.push_back(tile);
  }
  const AttnPlan cut{problem.plan().shape, tiles, runs};
  ASSERT_TRUE(Validate(cut).ok()) << Validate(cut).ToString();
  for (const char* backend : testing::Backends())
    if (Ops* ops = Find(backend)) {
      const Output dense = Attend(*ops, problem), sparse = Attend(*ops, problem, cut);
      EXPECT_TRUE(Same(dense, sparse)) << backend;
    }
}

// All but the large cases, and of those the decodes with D 64: long lists are cut over threads.
std::vector<AttnCase> Cases(std::set<PlanKind> plans) {
  std::vector<AttnCase> chosen;
  for (const AttnCase& c : cases::AttnCases())
    if (plans.count(c.plan) && (!c.large || (c.dim == 64 && c.seqs[0].q_len == 1)))
      chosen.push_back(c);
  return chosen;
}
std::string Name(const ::testing::TestParamInfo<AttnCase>& info) { return info.param.name; }

INSTANTIATE_TEST_SUITE_P(Table, AttentionTest,
                         ::testing::ValuesIn(Cases({PlanKind::kDense, PlanKind::kStreaming,
                                                    PlanKind::kSelected, PlanKind::kRandom})),
                         Name);
INSTANTIATE_TEST_SUITE_P(Table, RuleAttentionTest,
                         ::testing::ValuesIn(Cases({PlanKind::kDense, PlanKind::kStreaming})),
                         Name);
INSTANTIATE_TEST_SUITE_P(Table, DenseAttentionTest, ::testing::ValuesIn(Cases({PlanKind::kDense})),
                         Name);

TEST(AttnCases, NamesAreUnique) {
  std::vector<std::string> names;
  for (const AttnCase& c : cases::AttnCases()) names.push_back(c.name);
  std::sort(names.begin(), names.end());
  EXPECT_EQ(std::adjacent_find(names.begin(), names.end()), names.end());
}

}  // namespace
}  // namespace lserve
