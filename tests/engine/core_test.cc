// What a single request hears, and what happens at the limits: written out, where
// core_random_test.cc looks at random workloads.
#include <algorithm>

#include "tests/engine/core_harness.h"

namespace lserve::testing {
namespace {

// The request alone in a roomy engine.
Heard Ask(Request request, CoreSetup setup = {}) {
  CoreHarness harness(setup);
  const std::string id = request.id;
  harness.Add(std::move(request));
  EXPECT_TRUE(harness.Finish(5000));
  return harness.heard(id);
}

TEST(Core, LengthEndsAnAnswer) {
  const Heard heard = Ask(Make("a", 100, 7));
  EXPECT_EQ(heard.tokens.size(), 7u);
  EXPECT_EQ(heard.end.reason, FinishReason::kLength);
  EXPECT_EQ(heard.end.usage.prompt_tokens, 100);
  EXPECT_EQ(heard.end.usage.completion_tokens, 7);
}

TEST(Core, TheContextEndsAnAnswer) {
  CoreSetup setup;
  setup.max_context = 70;
  const Heard heard = Ask(Make("a", 60, 1000), setup);
  EXPECT_EQ(heard.tokens.size(), 10u);
  EXPECT_EQ(heard.end.reason, FinishReason::kLength);
}

TEST(Core, EosEndsAnAnswerUnlessIgnored) {
  Request request = Make("a", 20, 50);
  request.sampling.logit_bias = {{0, 100.0f}};
  EXPECT_EQ(Ask(request).tokens.size(), 50u);
  request.sampling.ignore_eos = false;
  const Heard heard = Ask(request);
  EXPECT_EQ(heard.tokens, (std::vector<int32_t>{0}));
  EXPECT_EQ(heard.text, "");
  EXPECT_EQ(heard.end.reason, FinishReason::kStop);
  request.sampling.min_tokens = 5;
  const Heard later = Ask(request);
  EXPECT_EQ(later.tokens.size(), 6u);
  EXPECT_EQ(later.tokens.back(), 0);
}

TEST(Core, StopTokenEndsAnAnswerWithoutItsText) {
  Request request = Make("a", 20, 50);
  const Heard whole = Ask(request);
  request.sampling.stop_token_ids = {whole.tokens[9]};
  const Heard heard = Ask(request);
  EXPECT_EQ(heard.end.reason, FinishReason::kStop);
  EXPECT_EQ(heard.tokens.back(), whole.tokens[9]);
  EXPECT_EQ(heard.outputs.back().text, "");
  EXPECT_LE(heard.tokens.size(), 10u);
}

TEST(Core, StopStringAcrossTokens) {
  Request request = Make("a", 20, 60);
  const Heard whole = Ask(request);
  // A piece of the text that begins inside a token and ends inside another.
  const std::string stop = whole.text.substr(21, 7);
  const size_t first = whole.text.find(stop);
  request.sampling.stop = {"never", stop};
  const Heard heard = Ask(request);
  EXPECT_EQ(heard.text, whole.text.substr(0, first));
  EXPECT_EQ(heard.end.reason, FinishReason::kStop);
  EXPECT_EQ(heard.end.stop_string, stop);
  EXPECT_LT(heard.tokens.size(), whole.tokens.size());
}

TEST(Core, HeldBackTextComesAtTheEnd) {
  Request request = Make("a", 20, 30);
  const Heard whole = Ask(request);
  request.sampling.stop = {whole.text.substr(whole.text.size() - 2) + "~"};  // never completed
  const Heard heard = Ask(request);
  EXPECT_EQ(heard.text, whole.text);
  EXPECT_EQ(heard.end.reason, FinishReason::kLength);
  EXPECT_EQ(heard.end.stop_string, std::nullopt);
  EXPECT_GE(heard.end.trailing_text.size(), 2u);
}

// All rows of logits at once took 62 GiB: local-inference-lab/vllm#264.
TEST(Core, PromptLogprobsCoverThePromptWithBoundedRows) {
  CoreSetup setup;
  setup.step_tokens = 512;
  CoreHarness harness(setup);
  for (const char* id : {"a", "b", "c"}) {
    Request request = Make(id, 300, 2);
    request.sampling.prompt_logprobs = 2;
    request.sampling.logprobs = 1;
    harness.Add(request);
  }
  ASSERT_TRUE(harness.Finish(100));
  EXPECT_LE(harness.runner().most_logit_rows(), 64 + 3);
  const Heard& heard = harness.heard("b");
  ASSERT_EQ(heard.prompt.size(), 300u);
  EXPECT_FALSE(heard.prompt[0].logprob.has_value());
  const std::vector<int32_t> prompt = Make("b", 300, 2).prompt;
  for (size_t i = 0; i < prompt.size(); ++i) {
    EXPECT_EQ(heard.prompt[i].id, prompt[i]);
    if (i > 0) {
      EXPECT_EQ(heard.prompt[i].top.size(), 2u);
    }
  }
  EXPECT_EQ(heard.outputs[0].logprob->id, heard.tokens[0]);
  EXPECT_EQ(heard.outputs[0].logprob->rank, 1);
}

// Requests that sample in every way, together, hear the same from a runner that keeps the logits.
TEST(Core, ARunnerThatKeepsLogitsGivesTheSameAnswers) {
  NullRunner picking(true);
  std::vector<Request> requests;
  for (int i = 0; i < 8; ++i) {
    Request r = Make(std::string(1, static_cast<char>('a' + i)), 30 + 40 * i, 40);
    r.sampling.seed = static_cast<uint64_t>(i);
    if (i > 0) r.sampling.temperature = 0.5 * i;
    if (i == 2) r.sampling.top_k = 5;
    if (i == 3) r.sampling.top_p = 0.7;
    if (i == 4) r.sampling.min_p = 0.1;
    if (i == 5) r.sampling.repetition_penalty = 1.3, r.sampling.logit_bias = {{3, 2.0f}};
    if (i == 6) r.sampling.frequency_penalty = 0.5, r.sampling.prompt_logprobs = 2;
    if (i % 2 == 1) r.sampling.logprobs = 3;
    requests.push_back(std::move(r));
  }
  CoreSetup setup;
  CoreHarness plain(setup);
  setup.model = &picking;
  CoreHarness kept(setup);
  for (CoreHarness* harness : {&plain, &kept}) {
    for (const Request& r : requests) harness->Add(r);
    ASSERT_TRUE(harness->Finish(5000));
  }
  for (const Request& r : requests) {
    const Heard &want = plain.heard(r.id), &got = kept.heard(r.id);
    EXPECT_EQ(got.tokens, want.tokens) << r.id;
    EXPECT_EQ(got.prompt.size(), want.prompt.size()) << r.id;
    ASSERT_EQ(got.outputs.size(), want.outputs.size()) << r.id;
    for (size_t i = 0; i < got.outputs.size(); ++i) {
      ASSERT_EQ(got.outputs[i].logprob.has_value(), want.outputs[i].logprob.has_value());
      if (!want.outputs[i].logprob) continue;
      EXPECT_FLOAT_EQ(got.outputs[i].logprob->logprob, want.outputs[i].logprob->logprob);
      EXPECT_EQ(got.outputs[i].logprob->rank, want.outputs[i].logprob->rank);
    }
  }
  EXPECT_EQ(picking.damage(), 0);
}

// Short requests waited for a long prompt to end: vllm#21495; 82 s instead of 1.9: ROCm/ATOM#1835.
TEST(Core, AShortRequestPassesALongPrompt) {
  CoreHarness harness({});
  harness.Add(Make("long", 1900, 1));
  for (int i = 0; i < 3; ++i) harness.core().Step();
  harness.Add(Make("short", 20, 3));
  for (int i = 0; i < 4; ++i) harness.core().Step();
  EXPECT_EQ(harness.heard("short").finishes, 1);
  EXPECT_EQ(harness.heard("long").finishes, 0);
  ASSERT_TRUE(harness.Finish(100));
}

// Answers fell from 270 to 6.6 tokens a second beside a long prompt: local-inference-lab/vllm#541.
TEST(Core, DecodingGoesOnBesideALongPrompt) {
  CoreHarness harness({});
  harness.Add(Make("short", 20, 100));
  harness.core().Step();
  harness.Add(Make("long", 1900, 1));
  for (int i = 0; i < 20; ++i) {
    const size_t before = harness.heard("short").tokens.size();
    harness.core().Step();
    EXPECT_EQ(harness.heard("short").tokens.size(), before + 1);
  }
  ASSERT_TRUE(harness.Finish(200));
}

TEST(Core, StepsStayInTheirBudget) {
  CoreSetup setup;
  setup.step_tokens = 100;
  CoreHarness harness(setup);
  for (int i = 0; i < 12; ++i) harness.Add(Make(std::to_string(i), 150 + 37 * i, 20));
  ASSERT_TRUE(harness.Finish(1000));
  EXPECT_LE(harness.runner().most_rows(), 100);
}

// Every sequence grows beyond what the pools hold together: they take turns and all end as alone.
TEST(Core, SequencesThatAllWantAPageTakeTurns) {
  CoreSetup setup;
  setup.max_context = 640;
  setup.pages = 12;
  CoreHarness harness(setup);
  for (int i = 0; i < 6; ++i) {
    Request request = Make(std::to_string(i), 60, 500);
    if (i % 2) request.attention = AttentionMode::kDense;
    harness.Add(request);
  }
  ASSERT_TRUE(harness.Finish(6 * 600));
  EXPECT_GT(harness.core().stats().preemptions, 0);
  for (int i = 0; i < 6; ++i) {
    Request request = Make(std::to_string(i), 60, 500);
    if (i % 2) request.attention = AttentionMode::kDense;
    EXPECT_EQ(harness.heard(std::to_string(i)).tokens, Ask(request).tokens) << i;
  }
}

TEST(Core, StreamingPagesLeaveTheWindowUnlessDense) {
  for (const AttentionMode mode : {AttentionMode::kLserve, AttentionMode::kDense}) {
    CoreHarness harness({});
    Request request = Make("a", 1500, 200);
    request.attention = mode;
    harness.Add(request);
    int64_t most = 0;
    while (!harness.core().idle()) {
      const EngineStats stats = harness.core().stats();
      most = std::max(most, stats.streaming_pages_used);
      if (mode == AttentionMode::kLserve && harness.heard("a").tokens.size() > 2) {
        EXPECT_LE(stats.streaming_pages_used, 4) << "one sink page, a window of 64 tokens";
      }
      harness.core().Step();
    }
    if (mode == AttentionMode::kDense) {
      EXPECT_GE(most, 26);
    } else {
      EXPECT_LE(most, 8) << "two sink pages, a window of 150 tokens, a chunk of 64";
    }
  }
}

TEST(Core, SparseAndDenseDifferAndVisitsTell) {
  Request request = Make("a", 1000, 40);
  const Heard sparse = Ask(request);
  request.attention = AttentionMode::kDense;
  const Heard dense = Ask(request);
  EXPECT_NE(sparse.tokens, dense.tokens);
  EXPECT_LT(sparse.end.usage.pages_read, sparse.end.usage.pages_total / 2);
  EXPECT_EQ(dense.end.usage.pages_read, dense.end.usage.pages_total);
  EXPECT_EQ(dense.end.usage.prefill_blocks_read, dense.end.usage.prefill_blocks_total);
  EXPECT_LT(sparse.end.usage.prefill_blocks_read, sparse.end.usage.prefill_blocks_total);
}

TEST(Core, NoTokenComesOfAStepThatTheDeviceDidNotSurvive) {
  NullRunner runner;
  CoreSetup setup;
  setup.model = &runner;
  CoreHarness harness(setup);
  harness.Add(Make("a", 30, 20));
  harness.core().Step();
  ASSERT_EQ(harness.heard("a").tokens.size(), 1u);
  runner.Break();
  harness.core().Step();
  EXPECT_EQ(harness.heard("a").tokens.size(), 1u);
  harness.core().FailAll(runner.Health());
  EXPECT_EQ(harness.heard("a").end.reason, FinishReason::kError);
  EXPECT_EQ(harness.heard("a").end.error.message(), "matmul [4, 64]: broken");
}

TEST(Core, FailAllTellsEverybody) {
  CoreHarness harness({});
  harness.Add(Make("a", 100, 5));
  harness.Add(Make("b", 100, 5));
  harness.core().Step();
  harness.core().FailAll(Internal("broken"));
  EXPECT_TRUE(harness.core().idle());
  for (const char* id : {"a", "b"}) {
    EXPECT_EQ(harness.heard(id).end.reason, FinishReason::kError);
    EXPECT_EQ(harness.heard(id).end.error.message(), "broken");
  }
}

}  // namespace
}  // namespace lserve::testing
