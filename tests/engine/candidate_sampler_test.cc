// The sampler over candidates against the sampler over whole logits: one table of cases, with the
// candidates of the plain definition and, where there is a GPU, of the device. Identical tokens and
// ranks; log probabilities to a bit. Cases that must settle without the whole row say so.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "engine/sampler.h"
#include "kernels/device.h"

namespace lserve {
namespace {

enum class Shape { kPeaked, kNormal, kFlat, kTies, kHoles, kEqual };

struct Case {
  std::string name;
  int vocab;
  Shape shape;
  bool settles;  // never needs the whole row
  std::function<void(SamplingParams*)> set;
  int rows = 3, steps = 3;
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

std::vector<float> MakeLogits(const Case& c, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0, c.shape == Shape::kFlat ? 0.1f : 2.0f);
  std::vector<float> out(static_cast<size_t>(c.vocab));
  for (float& x : out) x = c.shape == Shape::kEqual ? 1.5f : normal(random);
  if (c.shape == Shape::kPeaked) {  // as language models are: a handful of tokens has the mass
    for (int i = 0; i < 40; ++i)
      out[random() % out.size()] = 22.0f - 0.25f * static_cast<float>(i) + normal(random);
  }
  if (c.shape == Shape::kTies)
    for (float& x : out) x = std::round(x * 4) / 4;
  if (c.shape == Shape::kHoles)
    for (float& x : out)
      if (random() % 3 == 0) x = random() % 2 ? NAN : -INFINITY;
  return out;
}

// Tokens of the prompt: some of the most probable among them.
std::vector<int32_t> MakePrompt(const Case& c, const std::vector<float>& logits) {
  std::vector<int32_t> prompt = {0, c.vocab - 1, c.vocab / 2};
  const auto less = [](float a, float b) { return (std::isnan(a) ? -INFINITY : a) < b; };
  prompt.push_back(
      static_cast<int32_t>(std::max_element(logits.begin(), logits.end(), less) - logits.begin()));
  for (int i = 0; i < 300; ++i) prompt.push_back(static_cast<int32_t>(i * 7919LL % c.vocab));
  return prompt;
}

std::vector<Case> MakeCases() {
  using P = SamplingParams;
  const std::pair<const char*, std::function<void(P*)>> kParams[] = {
      {"greedy", [](P* s) { s->temperature = 0; }},
      {"greedy_logprobs", [](P* s) { s->temperature = 0, s->logprobs = 20; }},
      {"greedy_penalties",
       [](P* s) { s->temperature = 0, s->repetition_penalty = 1.3, s->presence_penalty = 0.7; }},
      {"greedy_held", [](P* s) { s->temperature = 0, s->min_tokens = 3, s->logprobs = 0; }},
      {"all", [](P*) {}},
      {"all_cold", [](P* s) { s->temperature = 0.6; }},
      {"all_penalties", [](P* s) { s->presence_penalty = 1.5, s->frequency_penalty = 0.5; }},
      {"all_bias",
       [](P* s) {
         s->logit_bias = {{1, 8.0f}, {0, 24.0f}, {3, -100.0f}};
       }},
      {"top_k", [](P* s) { s->top_k = 20, s->temperature = 0.7; }},
      {"top_k_top_p",
       [](P* s) { s->top_k = 20, s->top_p = 0.8, s->temperature = 0.7, s->logprobs = 3; }},
      {"top_k_repetition",
       [](P* s) { s->top_k = 20, s->top_p = 0.8, s->repetition_penalty = 1.1; }},
      {"top_k_raised", [](P* s) { s->top_k = 5, s->repetition_penalty = 0.8; }},
      {"top_p", [](P* s) { s->top_p = 0.9, s->temperature = 0.8; }},
      {"top_p_penalties", [](P* s) { s->top_p = 0.9, s->repetition_penalty = 1.2; }},
      {"top_p_bias",
       [](P* s) {
         s->top_p = 0.5, s->logit_bias = {{2, 25.0f}, {7, -3.0f}};
       }},
      {"min_p", [](P* s) { s->min_p = 0.05; }},
      {"min_p_top_p", [](P* s) { s->min_p = 0.02, s->top_p = 0.95, s->temperature = 1.3; }},
      {"hot", [](P* s) { s->temperature = 5, s->logprobs = 1; }},
      {"hot_nucleus", [](P* s) { s->temperature = 5, s->top_p = 0.95; }},
      {"many_logprobs", [](P* s) { s->logprobs = 1024, s->top_k = 3; }},
  };
  const std::pair<const char*, Shape> kShapes[] = {
      {"peaked", Shape::kPeaked}, {"normal", Shape::kNormal}, {"flat", Shape::kFlat},
      {"ties", Shape::kTies},     {"holes", Shape::kHoles},   {"equal", Shape::kEqual}};
  std::vector<Case> out;
  for (const auto& [shape_name, shape] : kShapes) {
    for (const auto& [name, set] : kParams) {
      const std::string p = name;
      std::vector<int> vocabs = {20000};
      if (shape == Shape::kPeaked || p == "all" || p == "top_p" || p == "greedy_logprobs")
        vocabs = {50, 1024, 1025, 8193, 20000};
      if (shape == Shape::kPeaked && (p == "all" || p == "top_p_penalties"))
        vocabs.push_back(151936);
      for (int vocab : vocabs) {
        const bool settles = shape != Shape::kEqual &&
                             (vocab <= kCandidates || (p != "hot" && p != "many_logprobs"));
        out.push_back({std::string(shape_name) + "_" + name + "_" + std::to_string(vocab), vocab,
                       shape, settles, set});
      }
    }
  }

  // A whole vocabulary whose nucleus has most of it, as random weights have: draws settle it.
  const std::pair<const char*, std::function<void(P*)>> kWideParams[] = {
      {"top_p_95", [](P* s) { s->top_p = 0.95; }},
      {"top_p_999", [](P* s) { s->top_p = 0.999; }},
      {"top_p_50_hot", [](P* s) { s->top_p = 0.5, s->temperature = 1.4; }},
      {"min_p", [](P* s) { s->min_p = 0.05; }},
      {"min_p_top_p", [](P* s) { s->min_p = 0.1, s->top_p = 0.95; }},
      {"top_p_penalties",
       [](P* s) { s->top_p = 0.95, s->repetition_penalty = 1.2, s->presence_penalty = 0.5; }},
      {"top_p_raised", [](P* s) { s->top_p = 0.95, s->repetition_penalty = 0.8; }},
      {"top_p_bias",
       [](P* s) {
         s->top_p = 0.95, s->logit_bias = {{2, 6.0f}, {7, -3.0f}, {9, 0.5f}};
       }},
      {"min_p_top_p_many",
       [](P* s) {  // more than may be asked for, and a floor among the candidates
         s->min_p = 0.9, s->top_p = 0.95;
         for (int id = 0; id <= kMostWanted; ++id) s->logit_bias.push_back({3 * id, -0.5f});
       }},
      {"top_p_logprobs", [](P* s) { s->top_p = 0.95, s->logprobs = 5; }},
  };
  for (const auto& [vocab, rows] : {std::pair{128256, 16}, {151936, 3}}) {
    for (const auto& [name, set] : kWideParams) {
      const bool logprobs = std::string(name) == "top_p_logprobs";  // of tokens that do not travel
      out.push_back({std::string("wide_") + name + "_" + std::to_string(vocab), vocab, Shape::kFlat,
                     !logprobs, set, rows, 2});
    }
  }
  return out;
}

// Candidates of rows of logits, all of one length.
struct Answers {
  std::vector<CandidateRow> rows;
  std::vector<float> wanted_logits;
};
using Finder = std::function<Answers(const std::vector<std::vector<float>>& logits,
                                     const std::vector<CandidateAsk>& asks,
                                     const std::vector<int32_t>& wanted)>;

Answers FindPlainly(const std::vector<std::vector<float>>& logits,
                    const std::vector<CandidateAsk>& asks, const std::vector<int32_t>& wanted) {
  Answers out;
  out.rows.resize(asks.size());
  out.wanted_logits.resize(wanted.size());
  for (size_t i = 0; i < asks.size(); ++i) {
    const CandidateAsk& ask = asks[i];
    const size_t begin = static_cast<size_t>(ask.wanted_begin);
    FindCandidates(logits[static_cast<size_t>(ask.row)], ask,
                   std::span(wanted).subspan(begin, static_cast<size_t>(ask.wanted_count)),
                   &out.rows[i], out.wanted_logits.data() + begin);
  }
  return out;
}

// Every step of every sequence of a case; how often the whole row was needed.
int Compare(const Case& c, const Finder& find) {
  std::vector<Sampler> whole, picking;
  const std::vector<float> first = MakeLogits(c, 1);
  for (int r = 0; r < c.rows; ++r) {
    SamplingParams params;
    c.set(&params);
    params.max_tokens = 100;
    if (params.min_tokens > 0) params.stop_token_ids = {1};
    const std::vector<int32_t> prompt = MakePrompt(c, first);
    for (auto* side : {&whole, &picking})
      side->emplace_back(params, 100 + static_cast<uint64_t>(r), std::vector<int32_t>{0}, prompt,
                         c.vocab);
  }
  int unsettled = 0;
  for (int step = 0; step < c.steps; ++step) {
    std::vector<std::vector<float>>
        logits;  // one row more, between the others, that nobody asks for
    for (int r = 0; r <= c.rows; ++r)
      logits.push_back(MakeLogits(c, 1 + static_cast<uint64_t>(step * 10 + r / 2)));
    const auto row_of = [](int r) { return r == 0 ? 0 : r + 1; };
    std::vector<CandidateAsk> asks;
    std::vector<int> ask_of(c.rows, -1);
    std::vector<int32_t> wanted;
    for (int r = 0; r < c.rows; ++r) {
      CandidateAsk ask;
      ask.row = row_of(r);
      if (!picking[static_cast<size_t>(r)].Ask(&ask, &wanted)) continue;
      ask_of[static_cast<size_t>(r)] = static_cast<int>(asks.size());
      asks.push_back(ask);
    }
    const Answers answers = find(logits, asks, wanted);
    for (int r = 0; r < c.rows; ++r) {
      const size_t i = static_cast<size_t>(r);
      const Sampled want = whole[i].Sample(logits[static_cast<size_t>(row_of(r))]);
      std::optional<Sampled> got;
      if (ask_of[i] >= 0) {
        const size_t a = static_cast<size_t>(ask_of[i]);
        got = picking[i].Sample(asks[a], answers.rows[a], wanted, answers.wanted_logits);
      }
      unsettled += !got;
      if (got) {
        EXPECT_EQ(got->chosen.id, want.chosen.id) << c.name << ", step " << step << ", row " << r;
        EXPECT_EQ(got->chosen.rank, want.chosen.rank) << c.name;
        EXPECT_FLOAT_EQ(got->chosen.logprob, want.chosen.logprob) << c.name;
        EXPECT_EQ(got->top.size(), want.top.size()) << c.name;
        for (size_t k = 0; k < std::min(got->top.size(), want.top.size()); ++k) {
          EXPECT_EQ(got->top[k].id, want.top[k].id) << c.name << " " << k;
          EXPECT_EQ(got->top[k].rank, want.top[k].rank) << c.name;
          EXPECT_FLOAT_EQ(got->top[k].logprob, want.top[k].logprob) << c.name;
        }
      }
      for (auto* side : {&whole, &picking}) (*side)[i].Accept(want.chosen.id);
    }
  }
  return unsettled;
}

class CandidateSampler : public ::testing::TestWithParam<Case> {};

TEST_P(CandidateSampler, ChoosesWhatWholeLogitsGive) {
  const int unsettled = Compare(GetParam(), FindPlainly);
  if (GetParam().settles) {
    EXPECT_EQ(unsettled, 0);
  }
}

// The device's candidates against the definition, then the choice from them.
TEST_P(CandidateSampler, DeviceSamplerAgrees) {
  static const Result<std::unique_ptr<Device>> opened = OpenDevice(0);
  if (!opened.ok()) GTEST_SKIP() << opened.status().message();
  Device* device = opened->get();
  const Case& c = GetParam();
  const auto find = [&](const std::vector<std::vector<float>>& logits,
                        const std::vector<CandidateAsk>& asks, const std::vector<int32_t>& wanted) {
    const size_t row_bytes = static_cast<size_t>(c.vocab) * 4;
    Answers out;
    out.rows.resize(asks.size());
    out.wanted_logits.resize(wanted.size());
    Block on_device(device, logits.size() * row_bytes), best(device, logits.size() * 4),
        all_asks(device, asks.size() * sizeof(CandidateAsk) + 256),
        all_wanted(device, wanted.size() * 4 + 256), values(device, wanted.size() * 4 + 256),
        rows(device, asks.size() * sizeof(CandidateRow) + 256),
        scratch(device, device->CandidateWorkspace(static_cast<int>(asks.size()), c.vocab) + 256);
    for (size_t r = 0; r < logits.size(); ++r)
      device->CopyIn(on_device.data() + r * row_bytes, logits[r].data(), row_bytes);
    device->CopyIn(all_asks.data(), asks.data(), asks.size() * sizeof(CandidateAsk));
    device->CopyIn(all_wanted.data(), wanted.data(), wanted.size() * 4);
    device->Argmax(on_device.as<float>(), static_cast<int>(logits.size()), c.vocab,
                   best.as<int32_t>());
    device->Candidates({on_device.as<float>(), c.vocab, best.as<int32_t>(),
                        all_asks.as<CandidateAsk>(), static_cast<int>(asks.size()),
                        all_wanted.as<int32_t>(), values.as<float>(), rows.as<CandidateRow>(),
                        scratch.data()});
    device->CopyOut(out.rows.data(), rows.data(), asks.size() * sizeof(CandidateRow));
    device->CopyOut(out.wanted_logits.data(), values.data(), wanted.size() * 4);
    EXPECT_TRUE(device->Synchronize().ok()) << device->Synchronize().ToString();
    const Answers plain = FindPlainly(logits, asks, wanted);
    EXPECT_EQ(out.wanted_logits, plain.wanted_logits);
    for (size_t i = 0; i < asks.size(); ++i) {
      const CandidateRow &got = out.rows[i], &want = plain.rows[i];
      EXPECT_EQ(got.count, want.count) << c.name;
      for (int k = 0; k < want.count; ++k) {
        EXPECT_EQ(got.ids[k], want.ids[k]) << c.name << ", place " << k;
        EXPECT_EQ(got.logits[k], want.logits[k]) << c.name << ", place " << k;
        if (got.ids[k] != want.ids[k]) break;
      }
      EXPECT_NEAR(got.total, want.total, 1e-10 * want.total) << c.name;
      EXPECT_NEAR(got.normalizer, want.normalizer, 1e-10 * want.normalizer) << c.name;
      // The last of the draws may be others, and neighbours change places, by rounding.
      for (int d = 0; asks[i].total && d < kDraws; ++d)
        for (int e = 0; e < kDraws; ++e)
          if (got.draw_ids[d] == want.draw_ids[e]) {
            EXPECT_NEAR(got.draw_above[d], want.draw_above[e], 1e-10 * want.total) << c.name;
          }
      if (asks[i].draws) {
        EXPECT_LE(got.draw_bound, want.draw_bound + 2 * kDrawError) << c.name;
        if (c.vocab > kDraws && std::isfinite(got.draw_bound)) {
          EXPECT_GE(got.draw_bound, want.draw_bound - 2 * kDrawError) << c.name;
        }
      }
    }
    return out;
  };
  const int unsettled = Compare(c, find);
  if (c.settles) {
    EXPECT_EQ(unsettled, 0);
  }
}

INSTANTIATE_TEST_SUITE_P(Table, CandidateSampler, ::testing::ValuesIn(MakeCases()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace lserve
