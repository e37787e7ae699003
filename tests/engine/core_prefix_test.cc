// What the prefix cache does for requests: conversations, agents, equal prompts at the same time,
// and sequences that lost their pages.
#include <algorithm>
#include <random>

#include "tests/engine/core_harness.h"

namespace lserve::testing {
namespace {

// The request through the harness alone; then what it heard.
Heard Ask(CoreHarness* harness, Request request) {
  const std::string id = request.id;
  harness->Add(std::move(request));
  EXPECT_TRUE(harness->Finish(5000));
  harness->ExpectWhole();
  return harness->heard(id);
}

// The next turn: all that was said, and something new.
Request Next(const std::string& id, const Request& before, const Heard& heard, int more,
             int max_tokens) {
  Request r = Make(id, more, max_tokens);
  std::vector<int32_t> prompt = before.prompt;
  prompt.insert(prompt.end(), heard.tokens.begin(), heard.tokens.end());
  prompt.insert(prompt.end(), r.prompt.begin(), r.prompt.end());
  r.prompt = std::move(prompt);
  return r;
}

TEST(CorePrefix, AConversationComputesNothingTwice) {
  CoreSetup setup;
  setup.deterministic = false;
  CoreHarness harness(setup);
  const Request first = Make("1", 1000, 200);
  const Heard one = Ask(&harness, first);
  EXPECT_EQ(one.end.usage.cached_tokens, 0);
  const Heard two = Ask(&harness, Next("2", first, one, 30, 5));
  EXPECT_EQ(two.end.usage.cached_tokens, (1000 + 199) / 64 * 64) << "the answer too";
}

TEST(CorePrefix, DeterministicSharesPromptsOnly) {
  CoreHarness harness({});
  const Request first = Make("1", 1000, 200);
  const Heard one = Ask(&harness, first);
  const Request second = Next("2", first, one, 30, 5);
  const Heard two = Ask(&harness, second);
  EXPECT_EQ(two.end.usage.cached_tokens, 1000 / 64 * 64);
  CoreHarness fresh({});
  EXPECT_EQ(two.tokens, Ask(&fresh, second).tokens);
  EXPECT_EQ(Ask(&harness, Next("3", second, two, 30, 5)).end.usage.cached_tokens, 1230 / 64 * 64)
      << "what was an answer has been a prompt since";
}

TEST(CorePrefix, TheWholePromptIsNeverAHit) {
  CoreHarness harness({});
  for (int length : {64, 128, 129}) {
    Request request = Make(std::to_string(length), length, 3);
    const Heard one = Ask(&harness, request);
    request.id += "again";
    const Heard two = Ask(&harness, request);
    EXPECT_EQ(two.end.usage.cached_tokens, (length - 1) / 64 * 64);
    EXPECT_EQ(two.tokens, one.tokens);
  }
}

TEST(CorePrefix, SwitchedOff) {
  CoreSetup setup;
  setup.prefix_cache = false;
  CoreHarness harness(setup);
  Request request = Make("a", 500, 3);
  Ask(&harness, request);
  request.id = "b";
  EXPECT_EQ(Ask(&harness, request).end.usage.cached_tokens, 0);
  EXPECT_EQ(harness.core().stats().prefix_queries, 0);
}

TEST(CorePrefix, SaltsDoNotShareAndAnswersAreEqual) {
  CoreHarness harness({});
  Request request = Make("a", 500, 20);
  const Heard plain = Ask(&harness, request);
  request.id = "b";
  request.cache_salt = "mine";
  const Heard salted = Ask(&harness, request);
  EXPECT_EQ(salted.end.usage.cached_tokens, 0);
  EXPECT_EQ(salted.tokens, plain.tokens);
  request.id = "c";
  EXPECT_EQ(Ask(&harness, request).end.usage.cached_tokens, 448);
}

TEST(CorePrefix, ModesDoNotShare) {
  CoreHarness harness({});
  Request request = Make("a", 500, 20);
  Ask(&harness, request);
  request.id = "b";
  request.attention = AttentionMode::kDense;
  EXPECT_EQ(Ask(&harness, request).end.usage.cached_tokens, 0);
  request.id = "c";
  EXPECT_EQ(Ask(&harness, request).end.usage.cached_tokens, 448);
}

TEST(CorePrefix, PromptLogprobsWantEveryRow) {
  CoreHarness harness({});
  Request request = Make("a", 500, 3);
  Ask(&harness, request);
  request.id = "b";
  request.sampling.prompt_logprobs = 0;
  const Heard heard = Ask(&harness, request);
  EXPECT_EQ(heard.end.usage.cached_tokens, 0);
  EXPECT_EQ(heard.prompt.size(), 500u);
}

// n answers to one prompt, or many users of one document, arrive together: it is read once.
TEST(CorePrefix, EqualPromptsAtTheSameTimeAreComputedOnce) {
  CoreHarness harness({});
  std::vector<Request> requests;
  for (int i = 0; i < 4; ++i) {
    Request r = Make("document", 1000, 10);
    r.id = "r" + std::to_string(i);
    r.sampling.temperature = 1;
    r.sampling.seed = static_cast<uint64_t>(i);
    requests.push_back(r);
    harness.Add(r);
  }
  ASSERT_TRUE(harness.Finish(500));
  EXPECT_LE(harness.runner().rows(), 1000 + 4 * (40 + 10));
  for (int i = 1; i < 4; ++i) {
    const Heard& heard = harness.heard(requests[static_cast<size_t>(i)].id);
    EXPECT_EQ(heard.end.usage.cached_tokens, 960);
    CoreHarness fresh({});
    EXPECT_EQ(heard.tokens, Ask(&fresh, requests[static_cast<size_t>(i)]).tokens);
  }
}

// An agent's loop: it appends, drops what it thought, and trims its last turns. With a streaming
// pool that holds no more than a few windows, it recomputes a few hundred tokens at most (models
// with windows re-process everything in llama.cpp#24714).
TEST(CorePrefix, AnAgentsLoopRecomputesLittle) {
  CoreSetup setup;
  setup.deterministic = false;
  setup.max_context = 8192;
  setup.checkpoint_blocks = 16;
  CoreHarness harness(setup);
  Request request = Make("0", 3000, 40);
  Heard heard = Ask(&harness, request);
  std::vector<size_t> turns;
  for (int turn = 1; turn <= 12; ++turn) {
    SCOPED_TRACE(turn);
    // What is not needed by a checkpoint is gone.
    harness.prefix().Evict(
        HeadClass::kStreaming,
        std::max<int64_t>(0, harness.cache().total_pages(HeadClass::kStreaming) - 30 -
                                 harness.cache().free_pages(HeadClass::kStreaming)));
    turns.push_back(request.prompt.size());
    Request next = Next(std::to_string(turn), request, heard, 150, 100);
    if (turn % 3 == 1) {  // without the answer, which was thinking
      next.prompt.erase(next.prompt.begin() + static_cast<ptrdiff_t>(request.prompt.size()),
                        next.prompt.begin() +
                            static_cast<ptrdiff_t>(request.prompt.size() + heard.tokens.size()));
    } else if (turn % 3 == 2 && turns.size() > 2) {  // back to two turns ago, then something else
      next = Make(std::to_string(turn), 150, 100);
      next.prompt.insert(next.prompt.begin(), request.prompt.begin(),
                         request.prompt.begin() + static_cast<ptrdiff_t>(turns[turns.size() - 3]));
    }
    heard = Ask(&harness, next);
    EXPECT_LE(static_cast<int>(next.prompt.size()) - heard.end.usage.cached_tokens, 150 + 256);
    request = next;
  }
}

// Six answers that grow until they do not fit together, over prompts that the cache then loses.
// Recomputing what was preempted cost 10 to 79 % of the work: vllm#54644.
TEST(CorePrefix, PreemptedAnswersGoOnWhereTheyWere) {
  CoreSetup setup;
  setup.max_context = 1280;
  setup.pages = 22;
  CoreHarness harness(setup);
  std::vector<Request> requests;
  for (int i = 0; i < 6; ++i) {
    requests.push_back(Make(std::to_string(i), 330, 700));
    harness.Add(requests.back());
  }
  for (int step = 0; !harness.core().idle(); ++step) {
    ASSERT_LT(step, 20000);
    harness.core().Step();
    if (step % 50 == 0) harness.ExpectWhole();
  }
  EXPECT_GT(harness.core().stats().preemptions, 3);
  EXPECT_GT(harness.core().stats().replays, 0);
  EXPECT_EQ(harness.core().stats().prompt_tokens, 6 * 330) << "counted once";
  for (const Request& r : requests) {
    CoreHarness fresh({});
    EXPECT_EQ(harness.heard(r.id).tokens, Ask(&fresh, r).tokens) << r.id;
  }
}

TEST(CorePrefix, QueriesAndHitsAreCountedInTokens) {
  CoreHarness harness({});
  Request request = Make("a", 500, 3);
  Ask(&harness, request);
  request.id = "b";
  Ask(&harness, request);
  EXPECT_EQ(harness.core().stats().prefix_queries, 1000);
  EXPECT_EQ(harness.core().stats().prefix_hits, 448);
  EXPECT_EQ(harness.core().stats().prompt_tokens, 1000);
  EXPECT_EQ(harness.core().stats().retrieval_pages_used, 0) << "idle pages count as free";
}

// Conversations of several users at once, answers shared, in pools of every size: all of them end,
// no page is lost, and a turn that continues a conversation finds all that the pools still hold.
TEST(CorePrefix, RandomConversations) {
  EngineStats total;
  for (uint64_t seed = 1; seed <= 120; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 random(seed);
    const auto number = [&](int low, int high) {
      return std::uniform_int_distribution<int>(low, high)(random);
    };
    CoreSetup setup;
    setup.deterministic = false;
    setup.max_context = 1280;
    setup.pages = number(20, 40);
    setup.max_running = number(2, 6);
    setup.step_tokens = number(8, 200);
    setup.checkpoint_blocks = number(1, 12);
    CoreHarness harness(setup);
    struct Talk {
      Request request;
      int turns = 0;
    };
    std::vector<Talk> talks(static_cast<size_t>(number(2, 6)));
    for (size_t i = 0; i < talks.size(); ++i) {
      talks[i].request = Make("t" + std::to_string(i), number(1, 300), number(1, 400));
      if (number(0, 3) == 0) talks[i].request.attention = AttentionMode::kDense;
      harness.Add(talks[i].request);
    }
    for (int step = 0; !harness.core().idle(); ++step) {
      ASSERT_LT(step, 60000) << "somebody starves";
      harness.core().Step();
      if (step % 16 == 0) harness.ExpectWhole();
      for (Talk& talk : talks) {
        const Heard& heard = harness.heard(talk.request.id);
        if (heard.finishes == 0 || talk.turns >= 4) continue;
        ASSERT_EQ(heard.end.reason, FinishReason::kLength);
        Request next =
            Next(talk.request.id + "+", talk.request, heard, number(1, 90), number(1, 90));
        next.attention = talk.request.attention;
        ++talk.turns;
        if (static_cast<int>(next.prompt.size()) + 100 > 640) {
          talk.turns = 4;
          continue;
        }
        talk.request = next;
        harness.Add(next);
      }
    }
    harness.ExpectWhole();
    const EngineStats stats = harness.core().stats();
    total.preemptions += stats.preemptions;
    total.replays += stats.replays;
    total.prefix_hits += stats.prefix_hits;
    total.prefix_queries += stats.prefix_queries;
  }
  EXPECT_GT(total.preemptions, 20);
  EXPECT_GT(total.replays, 2);
  EXPECT_GT(total.prefix_hits, total.prefix_queries / 4);
}

}  // namespace
}  // namespace lserve::testing
