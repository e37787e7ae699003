#include "engine/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <random>
#include <set>

namespace lserve {
namespace {

std::vector<float> RandomLogits(int n, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0, 2);
  std::vector<float> out(static_cast<size_t>(n));
  for (float& x : out) x = normal(random);
  return out;
}

std::vector<double> Softmax(const std::vector<float>& logits, double temperature) {
  const double max = *std::max_element(logits.begin(), logits.end());
  std::vector<double> p;
  double sum = 0;
  for (float x : logits) sum += p.emplace_back(std::exp((x - max) / temperature));
  for (double& x : p) x /= sum;
  return p;
}

// One draw from a fresh sampler.
int32_t Draw(const SamplingParams& params, uint64_t seed, std::vector<float> logits) {
  Sampler sampler(params, seed, {}, {}, static_cast<int>(logits.size()));
  return sampler.Sample(logits).chosen.id;
}

TEST(Philox, KnownAnswers) {  // Random123's kat_vectors, philox4x32 with 10 rounds
  EXPECT_EQ(Philox(0, 0, 0), 0x6627e8d5u);
  EXPECT_EQ(Philox(~0ull, ~0ull, ~0ull), 0x408f276du);
  EXPECT_EQ(Philox(0x299f31d0a4093822ull, 0x85a308d3243f6a88ull, 0x0370734413198a2eull),
            0xd16cfe09u);
}

TEST(Sampler, GreedyTakesTheLowestOfEqualIds) {
  SamplingParams params;
  params.temperature = 0;
  EXPECT_EQ(Draw(params, 1, {1, 5, 2, 5, 0}), 1);
}

TEST(Sampler, NaNAndInfinityDoNotWin) {
  for (double temperature : {0.0, 1.0}) {
    SamplingParams params;
    params.temperature = temperature;
    params.logprobs = 3;
    EXPECT_EQ(Draw(params, 1, {NAN, 2, -INFINITY, NAN}), 1);
    const int32_t all = Draw(params, 1, {NAN, NAN, NAN});
    EXPECT_GE(all, 0);
    EXPECT_LT(all, 3);
    EXPECT_EQ(Draw(params, 1, {0, INFINITY, 1}), 1);
  }
}

TEST(Sampler, SmallestTemperatureIsGreedy) {
  SamplingParams params;
  params.temperature = 1e-300;
  EXPECT_EQ(Draw(params, 9, {1, 1.0001f, 0.5f}), 1);
}

// Pearson's statistic of `draws` draws against the distribution `p` (0: must not come).
double ChiSquare(const SamplingParams& params, const std::vector<float>& logits,
                 const std::vector<double>& p, int draws) {
  std::vector<int> counts(p.size());
  for (int i = 0; i < draws; ++i) ++counts[static_cast<size_t>(Draw(params, 1000 + i, logits))];
  double chi = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    if (p[i] == 0) {
      EXPECT_EQ(counts[i], 0) << "token " << i << " is excluded";
    } else {
      chi += std::pow(counts[i] - draws * p[i], 2) / (draws * p[i]);
    }
  }
  return chi;
}

TEST(Sampler, DrawsFollowTheDistribution) {
  const std::vector<float> logits = RandomLogits(20, 3);
  for (double temperature : {0.5, 1.0, 2.0}) {
    SamplingParams params;
    params.temperature = temperature;
    // 19 degrees of freedom: above 43.8 in one of 1000 cases.
    EXPECT_LT(ChiSquare(params, logits, Softmax(logits, temperature), 20000), 43.8) << temperature;
  }
}

TEST(Sampler, PositionsAreIndependent) {  // pairs of successive tokens, 4 x 4 cells, 15 degrees
  const std::vector<float> logits = {0, 0.5f, 1, -0.5f};
  const std::vector<double> p = Softmax(logits, 1);
  std::map<std::pair<int, int>, int> counts;
  const int draws = 20000;
  for (int i = 0; i < draws; ++i) {
    Sampler sampler({}, static_cast<uint64_t>(i), {}, {}, 4);
    std::vector<float> copy = logits;
    const int first = sampler.Sample(copy).chosen.id;
    sampler.Accept(first);
    copy = logits;
    ++counts[{first, sampler.Sample(copy).chosen.id}];
  }
  double chi = 0;
  for (int a = 0; a < 4; ++a)
    for (int b = 0; b < 4; ++b) {
      const double expected = draws * p[static_cast<size_t>(a)] * p[static_cast<size_t>(b)];
      chi += std::pow(counts[{a, b}] - expected, 2) / expected;
    }
  EXPECT_LT(chi, 37.7);
}

// The tokens that may come, by definition: sort, cut.
std::set<int32_t> Allowed(const SamplingParams& s, const std::vector<float>& logits) {
  std::vector<double> p = Softmax(logits, s.temperature);
  std::vector<int32_t> order(p.size());
  for (size_t i = 0; i < p.size(); ++i) order[i] = static_cast<int32_t>(i);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return p[static_cast<size_t>(a)] > p[static_cast<size_t>(b)];
  });
  const double best = p[static_cast<size_t>(order[0])];
  while (p[static_cast<size_t>(order.back())] < s.min_p * best) order.pop_back();
  if (s.top_k > 0 && order.size() > static_cast<size_t>(s.top_k))
    order.resize(static_cast<size_t>(s.top_k));
  double total = 0, sum = 0;
  for (int32_t id : order) total += p[static_cast<size_t>(id)];
  std::set<int32_t> out;
  for (int32_t id : order) {
    if (!out.empty() && sum >= s.top_p * total) break;
    out.insert(id);
    sum += p[static_cast<size_t>(id)];
  }
  return out;
}

TEST(Sampler, TopKTopPMinPLeaveExactlyTheirSets) {
  std::mt19937_64 random(5);
  for (int round = 0; round < 40; ++round) {
    const std::vector<float> logits = RandomLogits(12, 100 + static_cast<uint64_t>(round));
    SamplingParams s;
    s.temperature = 1.5;
    if (round % 2) s.top_k = 1 + static_cast<int>(random() % 12);
    if (round % 3) s.top_p = 0.05 + 0.9 * static_cast<double>(random() % 1000) / 1000;
    if (round % 4 == 1) s.min_p = 0.3 * static_cast<double>(random() % 1000) / 1000;
    std::set<int32_t> seen;
    for (uint64_t i = 0; i < 4000; ++i) seen.insert(Draw(s, i, logits));
    const std::set<int32_t> allowed = Allowed(s, logits);
    EXPECT_TRUE(std::includes(allowed.begin(), allowed.end(), seen.begin(), seen.end())) << round;
    // Those with a fair chance have all come.
    const std::vector<double> p = Softmax(logits, s.temperature);
    for (int32_t id : allowed)
      if (p[static_cast<size_t>(id)] > 0.005) {
        EXPECT_TRUE(seen.contains(id)) << round;
      }
  }
}

// Whoever wins of the sorted beginning, where the sampler does not sort.
TEST(Sampler, NucleusIsThatOfTheSortedTokens) {
  constexpr int kVocab = 3000;
  for (const float deviation : {0.0f, 0.1f, 2.0f, 8.0f}) {
    for (const double top_p : {1e-12, 0.05, 0.5, 0.95, 0.999}) {
      for (uint64_t seed = 0; seed < 20; ++seed) {
        std::vector<float> logits = RandomLogits(kVocab, 40 + seed);
        for (float& x : logits) x = std::round(x * deviation * 64) / 128;  // ties among them
        SamplingParams s;
        s.temperature = 0.9;
        s.top_p = top_p;
        int32_t winner = -1;
        double most = 0;
        for (int32_t id : Allowed(s, logits)) {
          const double u = (DrawBits(seed, 0, id) + 0.5) * 0x1p-32,
                       value = logits[static_cast<size_t>(id)] / 0.9 - std::log(-std::log(u));
          if (winner < 0 || value > most) winner = id, most = value;
        }
        EXPECT_EQ(Draw(s, seed, logits), winner) << deviation << " " << top_p << " " << seed;
      }
    }
  }
}

TEST(Sampler, TopKDrawsKeepTheirRatios) {
  const std::vector<float> logits = RandomLogits(30, 8);
  SamplingParams s;
  s.top_k = 5;
  std::vector<double> p = Softmax(logits, 1);
  const std::set<int32_t> allowed = Allowed(s, logits);
  double total = 0;
  for (int32_t id : allowed) total += p[static_cast<size_t>(id)];
  for (size_t i = 0; i < p.size(); ++i)
    p[i] = allowed.contains(static_cast<int32_t>(i)) ? p[i] / total : 0;
  EXPECT_LT(ChiSquare(s, logits, p, 20000), 18.5);  // 4 degrees of freedom, 1 of 1000
}

TEST(Sampler, SeedsRepeatAndDiffer) {
  const std::vector<float> logits = RandomLogits(1000, 4);
  const auto sequence = [&](uint64_t seed) {
    Sampler sampler({}, seed, {}, {}, 1000);
    std::vector<int32_t> out;
    for (int i = 0; i < 20; ++i) {
      std::vector<float> copy = logits;
      out.push_back(sampler.Sample(copy).chosen.id);
      sampler.Accept(out.back());
    }
    return out;
  };
  EXPECT_EQ(sequence(7), sequence(7));
  EXPECT_NE(sequence(7), sequence(8));
}

TEST(Sampler, Penalties) {
  SamplingParams s;
  s.temperature = 0;
  s.presence_penalty = 0.5;
  s.frequency_penalty = 0.25;
  Sampler sampler(s, 0, {}, std::vector<int32_t>{1}, 3);
  sampler.Accept(0);
  sampler.Accept(0);
  std::vector<float> logits = {2, 1, 1};
  sampler.Sample(logits);  // leaves the penalised logits behind
  EXPECT_FLOAT_EQ(logits[0], 2 - 0.5f - 2 * 0.25f);
  EXPECT_FLOAT_EQ(logits[1], 1) << "presence and frequency count generated tokens only";

  SamplingParams r;
  r.repetition_penalty = 2;
  Sampler repetition(r, 0, {}, std::vector<int32_t>{1}, 4);
  repetition.Accept(2);
  logits = {3, 3, -3, -3};
  repetition.Sample(logits);
  EXPECT_EQ(logits, (std::vector<float>{3, 1.5f, -6, -3}));
}

TEST(Sampler, LogitBias) {
  SamplingParams s;
  s.logit_bias = {{2, 100.0f}, {0, -100.0f}};
  EXPECT_EQ(Draw(s, 3, {50, 10, 0}), 2);
}

TEST(Sampler, MinTokensHoldsBackEndings) {
  SamplingParams s;
  s.temperature = 0;
  s.min_tokens = 2;
  s.max_tokens = 5;
  s.stop_token_ids = {1};
  Sampler sampler(s, 0, {0}, {}, 3);
  for (int i = 0; i < 3; ++i) {
    std::vector<float> logits = {9, 8, 1};
    EXPECT_EQ(sampler.Sample(logits).chosen.id, i < 2 ? 2 : 0);
    sampler.Accept(2);
  }
}

TEST(Logprobs, AreTheModelsDistribution) {
  const std::vector<float> logits = RandomLogits(50, 9);
  const Sampled all = Logprobs(logits, 7, 50);
  double sum = 0;
  ASSERT_EQ(all.top.size(), 50u);
  for (size_t i = 0; i < all.top.size(); ++i) {
    sum += std::exp(static_cast<double>(all.top[i].logprob));
    EXPECT_EQ(all.top[i].rank, static_cast<int>(i) + 1);
    if (i > 0) {
      EXPECT_LE(all.top[i].logprob, all.top[i - 1].logprob);
    }
    if (all.top[i].id == 7) {
      EXPECT_EQ(all.chosen.rank, all.top[i].rank);
      EXPECT_EQ(all.chosen.logprob, all.top[i].logprob);
    }
  }
  EXPECT_NEAR(sum, 1, 1e-6);
  EXPECT_EQ(Logprobs(logits, 7, 3).top.size(), 3u);
  EXPECT_TRUE(Logprobs(logits, 7, 0).top.empty());
}

TEST(Logprobs, IgnoreTemperatureAndPenalties) {
  SamplingParams s;
  s.temperature = 0.3;
  s.logit_bias = {{1, 50.0f}};
  s.logprobs = 2;
  std::vector<float> logits = {2, 1, 0};
  const std::vector<double> p = Softmax(logits, 1);
  Sampler sampler(s, 0, {}, {}, 3);
  const Sampled out = sampler.Sample(logits);
  EXPECT_EQ(out.chosen.id, 1);
  EXPECT_NEAR(out.chosen.logprob, std::log(p[1]), 1e-6);
  EXPECT_EQ(out.chosen.rank, 2);
  EXPECT_EQ(out.top[0].id, 0);
}

TEST(Logprobs, NaNCountsAsImpossible) {
  const std::vector<float> logits = {NAN, 1, 1};
  const Sampled out = Logprobs(logits, 0, 3);
  EXPECT_EQ(out.chosen.logprob, -INFINITY);
  EXPECT_EQ(out.top[0].id, 1);
  EXPECT_NEAR(out.top[0].logprob, std::log(0.5), 1e-6);
}

TEST(CheckSampling, NamesTheField) {
  const auto message = [](auto change) {
    SamplingParams s;
    change(&s);
    return CheckSampling(s, 100).message();
  };
  EXPECT_TRUE(CheckSampling({}, 100).ok());
  using P = SamplingParams;
  const std::pair<const char*, std::string> cases[] = {
      {"max_tokens", message([](P* s) { s->max_tokens = 0; })},
      {"min_tokens", message([](P* s) { s->min_tokens = 17; })},
      {"temperature", message([](P* s) { s->temperature = -1; })},
      {"temperature", message([](P* s) { s->temperature = NAN; })},
      {"top_p", message([](P* s) { s->top_p = 0; })},
      {"top_p", message([](P* s) { s->top_p = 1.1; })},
      {"top_k", message([](P* s) { s->top_k = -1; })},
      {"min_p", message([](P* s) { s->min_p = 2; })},
      {"presence_penalty", message([](P* s) { s->presence_penalty = 2.1; })},
      {"frequency_penalty", message([](P* s) { s->frequency_penalty = NAN; })},
      {"repetition_penalty", message([](P* s) { s->repetition_penalty = 0; })},
      {"logprobs", message([](P* s) { s->logprobs = 101; })},
      {"prompt_logprobs", message([](P* s) { s->prompt_logprobs = -2; })},
      {"logit_bias", message([](P* s) {
         s->logit_bias = {{100, 1.0f}};
       })},
      {"logit_bias", message([](P* s) {
         s->logit_bias = {{1, NAN}};
       })},
      {"stop_token_ids", message([](P* s) { s->stop_token_ids = {-1}; })},
      {"stop", message([](P* s) { s->stop = {""}; })},
  };
  for (const auto& [field, text] : cases) EXPECT_EQ(text.rfind(field, 0), 0u) << text;
}

}  // namespace
}  // namespace lserve
