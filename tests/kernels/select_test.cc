// Selection of every backend against scores computed here from the statistics, or from the keys.
//
// Backends may sum a score in another order, so two blocks whose scores agree to a few units of
// float may change places. The rule for all of them (A12.g): the smallest chosen score is at least
// the largest unchosen one minus epsilon, epsilon = 1e-5 of the terms' absolute sum. Equal
// statistics give equal scores in any order of summation, so ties must go to the lower block
// exactly.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <set>

#include "tests/cases/attn_cases.h"
#include "tests/cases/scratch_kv.h"
#include "tests/kernels/test_util.h"

namespace lserve {
namespace {

using cases::FillNormal;
using cases::ScratchKv;
using testing::Matrix;
using testing::Shared;

struct SelectCase {
  int dim, group, logical_tokens;
  bool shared;  // one list a KV head, or one a query head
  PageScore score;
  KvType kv;
  int reach;  // with keys
};

void PrintTo(const SelectCase& c, std::ostream* out) {
  *out << "d" << c.dim << " g" << c.group << " logical " << c.logical_tokens
       << (c.shared ? " shared " : " single ") << PageScoreName(c.score);
}

constexpr int kKvHeads = 2, kBlocks = 70;

class SelectTest : public ::testing::TestWithParam<SelectCase> {
 protected:
  SelectTest()
      : c_(GetParam()),
        kv_(HeadMap(std::vector<HeadClass>(kKvHeads, HeadClass::kRetrieval)),
            KvCodec(c_.kv, c_.kv, c_.dim),
            KeyStats{c_.logical_tokens, c_.dim, c_.score == PageScore::kBounds8 ? 8 : 16}, 2,
            kBlocks, 9),
        q_(2, kKvHeads * c_.group * c_.dim, 4) {
    std::mt19937_64 random(3);
    FillNormal(q_.mat, 1, &random);
    // Heads of very different size: normalisation matters.
    for (int h = 0; h < kKvHeads * c_.group; ++h)
      for (int i = 0; i < c_.dim; ++i)
        q_.mat.Row(0)[h * c_.dim + i] *= static_cast<float>(1 + h % 3);
    for (int r : {0, 1})  // what every backend can hold
      for (int i = 0; i < q_.mat.cols; ++i) q_.mat.Row(r)[i] = FromBf16(ToBf16(q_.mat.Row(r)[i]));
    for (int slot : {0, 1}) {
      kv_.MapTokens(slot, kBlocks * kBlockTokens);
      for (int h = 0; h < kKvHeads; ++h)
        for (int b = 0; b < kBlocks; ++b) Fill(slot, h, b, &random);
    }
  }

  // A block of random keys, and their statistics.
  void Fill(int slot, int h, int block, std::mt19937_64* random) {
    const KvView& view = kv_.view();
    std::byte* slice = view.Slice(slot, h, block);
    Matrix key(1, c_.dim);
    for (int t = 0; t < kBlockTokens; ++t) {
      FillNormal(key.mat, 1, random);
      view.codec.EncodeK(key.mat.Row(0), t, slice);
    }
    for (int page = 0; page < view.stats.pages_per_block(); ++page)
      view.stats.Store(view.codec, slice, page, view.Stats(slot, h, block));
  }

  // Of each block in [first, end) for query heads [head, head + heads); `epsilon` gets the
  // tolerance.
  std::vector<double> Scores(const SelectJob& job, double* epsilon) const {
    const size_t n = static_cast<size_t>(job.end_block - job.first_block);
    std::vector<double> best(n, -1e300);
    *epsilon = 0;
    for (int h = job.head; h < job.head + job.heads; ++h) {
      std::vector<double> s(n, -1e300);
      double mass_of_head = 0;
      for (size_t b = 0; b < n; ++b) {
        const int kv_head = job.head / c_.group, block = job.first_block + static_cast<int>(b);
        const float* q = q_.mat.Row(job.row) + h * c_.dim;
        const auto add = [&](auto term) {  // of a channel
          double sum = 0, mass = 0;
          for (int i = 0; i < c_.dim; ++i) {
            sum += term(i);
            mass += std::abs(term(i));
          }
          s[b] = std::max(s[b], sum);
          mass_of_head = std::max(mass_of_head, mass);
        };
        if (c_.score == PageScore::kKeys) {
          std::vector<float> key(static_cast<size_t>(c_.dim));
          for (int t = b > 0 ? -c_.reach : 0; t < kBlockTokens; ++t) {
            const std::byte* slice = kv_.view().Slice(job.seq, kv_head, t < 0 ? block - 1 : block);
            kv_.view().codec.DecodeK(slice, t & (kBlockTokens - 1), key.data());
            add([&](int i) { return static_cast<double>(q[i]) * key[static_cast<size_t>(i)]; });
          }
          continue;
        }
        const uint16_t* stats = kv_.view().Stats(job.seq, kv_head, block);
        std::vector<float> low(static_cast<size_t>(c_.dim)), high(low);
        for (int page = 0; page < kBlockTokens / c_.logical_tokens; ++page) {
          kv_.view().stats.Decode(stats, page, low.data(), high.data());
          add([&](int i) {
            return std::max(static_cast<double>(q[i]) * low[static_cast<size_t>(i)],
                            static_cast<double>(q[i]) * high[static_cast<size_t>(i)]);
          });
        }
      }
      double lse = 0;
      if (job.heads > 1) {
        const double root = std::sqrt(static_cast<double>(c_.dim));
        mass_of_head /= root;
        for (double& x : s) x /= root;
        const double top = *std::max_element(s.begin(), s.end());
        double sum = 0;
        for (double x : s) sum += std::exp(x - top);
        lse = top + std::log(sum);
      }
      for (size_t b = 0; b < n; ++b) best[b] = std::max(best[b], s[b] - lse);
      *epsilon = std::max(*epsilon, Rounding() * mass_of_head);
    }
    return best;
  }

  // Runs all jobs of a slot over [first, end), checks form and choice, returns the lists.
  std::vector<std::vector<int32_t>> RunAndCheck(const std::string& backend, int slot, int first,
                                                int end, int k, int threads = 2) {
    const int heads = c_.shared ? c_.group : 1, room = std::max(1, k);
    const int count_jobs = kKvHeads * c_.group / heads;
    std::vector<int32_t> lists(static_cast<size_t>(count_jobs * room), -7);
    std::vector<int32_t> counts(static_cast<size_t>(count_jobs), -7);
    std::vector<SelectJob> jobs;
    for (int j = 0; j < count_jobs; ++j)
      jobs.push_back({slot, slot, j * heads, heads, first, end, k, lists.data() + j * room,
                      counts.data() + j});
    Shared(backend, threads).Select({q_.mat, jobs, kv_.view(), c_.score, c_.reach});

    std::vector<std::vector<int32_t>> result;
    for (int j = 0; j < count_jobs; ++j) {
      EXPECT_EQ(counts[j], std::min(k, end - first));
      const int32_t* list = lists.data() + j * room;
      for (int i = counts[j]; i < room; ++i) EXPECT_EQ(list[i], -7) << "written past the count";
      result.emplace_back(list, list + counts[j]);
      const std::set<int32_t> chosen(result.back().begin(), result.back().end());
      EXPECT_EQ(std::vector<int32_t>(chosen.begin(), chosen.end()), result.back())
          << backend << ": not ascending and distinct";
      if (first == end) continue;
      double epsilon, lowest = 1e300, highest = -1e300;
      const std::vector<double> scores = Scores(jobs[static_cast<size_t>(j)], &epsilon);
      for (int b = first; b < end; ++b)
        if (chosen.count(b))
          lowest = std::min(lowest, scores[static_cast<size_t>(b - first)]);
        else
          highest = std::max(highest, scores[static_cast<size_t>(b - first)]);
      for (int32_t b : chosen) EXPECT_TRUE(b >= first && b < end) << backend << " block " << b;
      EXPECT_GE(lowest, highest - epsilon) << backend << " job " << j;
    }
    return result;
  }

  // Of a score, in units of its terms' absolute sum.
  double Rounding() const {
    if (c_.score == PageScore::kKeys && c_.kv != KvType::kKv16) return 2e-3;
    // Codes are summed before scale and minimum make them small.
    return c_.score == PageScore::kBounds8 ? 4e-5 : 1e-5;
  }

  const SelectCase c_;
  ScratchKv kv_;
  Matrix q_;
};

TEST_P(SelectTest, TakesTheBest) {
  for (const char* backend : testing::Backends())
    for (int slot : {0, 1})
      for (int k : {1, 2, 13, 64, 68}) RunAndCheck(backend, slot, 1, 70, k);
}

TEST_P(SelectTest, RangesThatAreSmallOrEmpty) {
  for (const char* backend : testing::Backends()) {
    RunAndCheck(backend, 0, 3, 3, 4);
    RunAndCheck(backend, 0, 3, 10, 0);
    RunAndCheck(backend, 0, 69, 70, 1);
    for (int k : {7, 8, 100}) {
      for (const auto& list : RunAndCheck(backend, 1, 3, 10, k)) {
        std::vector<int32_t> all(7);
        std::iota(all.begin(), all.end(), 3);
        EXPECT_EQ(list, all) << backend;
      }
    }
  }
}

TEST_P(SelectTest, TiesGoToTheLowerBlock) {
  if (c_.reach > 0) return;  // nothing reaches into the first block: it has no equals
  for (int h = 0; h < kKvHeads; ++h)
    for (int b = 1; b < kBlocks; ++b)  // blocks b and b % 5 are equal
      if (b >= 5) {
        std::memcpy(kv_.view().Stats(0, h, b), kv_.view().Stats(0, h, b % 5),
                    kv_.view().stats.slice_bytes());
        std::memcpy(kv_.view().Slice(0, h, b), kv_.view().Slice(0, h, b % 5),
                    kv_.view().codec.slice_bytes());
      }
  for (const char* backend : testing::Backends()) {
    // 14 blocks of each of 5 kinds; the best kind's first nine.
    for (const auto& list : RunAndCheck(backend, 0, 0, 70, 9))
      for (int i = 0; i < 9; ++i) EXPECT_EQ(list[i], list[0] % 5 + 5 * i) << backend;
    for (const auto& list : RunAndCheck(backend, 0, 0, 70, 14 + 5))
      for (int kind = 0; kind < 5; ++kind) {
        std::vector<int32_t> mine;
        for (int32_t b : list)
          if (b % 5 == kind) mine.push_back(b);
        for (size_t i = 0; i < mine.size(); ++i)
          EXPECT_EQ(mine[i], kind + 5 * static_cast<int>(i)) << backend;
      }
  }
}

TEST_P(SelectTest, IsDeterministic) {
  for (const char* backend : testing::Backends()) {
    const auto first = RunAndCheck(backend, 0, 0, 70, 20);
    EXPECT_EQ(first, RunAndCheck(backend, 0, 0, 70, 20)) << backend;
    for (int threads : {1, 3}) EXPECT_EQ(first, RunAndCheck(backend, 0, 0, 70, 20, threads));
  }
}

std::vector<SelectCase> SelectCases() {
  constexpr int kReaches[] = {3, 0, 64, 7};
  constexpr KvType kTypes[] = {KvType::kKv16, KvType::kKv8, KvType::kKv4};
  std::vector<SelectCase> all;
  for (int dim : {64, 128})
    for (int group : {1, 3, 4, 6, 7, 8})
      for (bool shared : {true, false}) {
        if (group == 1 && !shared) continue;
        const size_t round = all.size() / 3;
        for (PageScore score : kPageScores)
          all.push_back({dim, group, 16 << (round % 3), shared, score, kTypes[round % 3],
                         score == PageScore::kKeys ? kReaches[round / 3 % 4] : 0});
      }
  return all;
}

INSTANTIATE_TEST_SUITE_P(All, SelectTest, ::testing::ValuesIn(SelectCases()), [](const auto& info) {
  const SelectCase& c = info.param;
  return fmt::format("d{}_g{}_logical{}_{}_{}_{}", c.dim, c.group, c.logical_tokens,
                     c.shared ? "shared" : "single", PageScoreName(c.score),
                     c.kv == KvType::kKv16  ? "kv16"
                     : c.kv == KvType::kKv8 ? "kv8"
                                            : "kv4");
});

}  // namespace
}  // namespace lserve
