// Random workloads: whatever the chunks, the batch, the preemptions, the cancellations and what the
// prefix cache holds, every request ends and hears the tokens it would hear alone, and no page is
// lost. LSERVE_RANDOM_ROUNDS=N runs N times as many.
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <random>

#include "tests/engine/core_harness.h"

namespace lserve::testing {
namespace {

uint64_t Rounds(uint64_t base) {
  const char* factor = std::getenv("LSERVE_RANDOM_ROUNDS");
  return base * (factor ? std::max(1, std::atoi(factor)) : 1);
}

class RandomWorkload {
 public:
  explicit RandomWorkload(uint64_t seed) : random_(seed) {
    growing_ = Number(0, 1) == 1;
    const int count = Number(growing_ ? 3 : 1, 9);
    for (int i = 0; i < count; ++i) requests_.push_back(MakeRequest(i));
  }

  int Number(int low, int high) { return std::uniform_int_distribution<int>(low, high)(random_); }
  const std::vector<Request>& requests() const { return requests_; }

  // Pools from "just fits the longest request alone" up.
  CoreSetup MakeSetup() {
    CoreSetup setup;
    int longest = 1;
    for (const Request& r : requests_)
      longest = std::max(longest, static_cast<int>(r.prompt.size()) + r.sampling.max_tokens);
    setup.max_context = (longest + kBlockTokens - 1) / kBlockTokens * kBlockTokens;
    setup.pages = setup.max_context / kBlockTokens + (Number(0, 1) ? Number(0, 3) : Number(0, 40));
    setup.max_running = Number(1, 9);
    setup.prefix_cache = Number(0, 4) > 0;
    setup.checkpoint_blocks = Number(1, 10);
    setup.step_tokens =
        std::max(setup.max_running, Number(1, 3) == 1 ? Number(1, 20) : Number(20, 300));
    if (Number(0, 1)) {  // a streaming pool that is just large enough, as on a GPU
      int dense = 0;
      for (const Request& r : requests_)
        if (r.attention == AttentionMode::kDense)
          dense = std::max(dense, static_cast<int>(r.prompt.size()) + r.sampling.max_tokens);
      const int sparse =
          setup.sparsity.prefill_sink + setup.sparsity.prefill_local + setup.step_tokens;
      const int64_t least =
          std::max(sparse / kBlockTokens + 5, (dense + kBlockTokens - 1) / kBlockTokens);
      setup.streaming_pages = std::min(setup.pages, least + Number(0, 6));
    }
    return setup;
  }

 private:
  Request MakeRequest(int i) {
    Request r;
    r.id = "r" + std::to_string(i);
    int length = Number(0, 3) == 0 ? Number(1, 5) : Number(1, 700);
    if (growing_) length = Number(1, 120);
    if (i > 0 && Number(0, 1)) {  // begins as an earlier one
      const auto& other = requests_[static_cast<size_t>(Number(0, i - 1))].prompt;
      const int common =
          Number(0, 1) ? static_cast<int>(other.size()) : Number(1, static_cast<int>(other.size()));
      r.prompt.assign(other.begin(), other.begin() + common);
      length = std::max(1, Number(0, 3) ? Number(0, 100) : 700 - common);
    }
    for (int t = 0; t < length; ++t) r.prompt.push_back(Number(0, NullRunner::kVocab - 1));
    r.sampling.max_tokens = Number(1, 3) == 1 ? Number(1, 200) : Number(1, 30);
    r.sampling.temperature = Number(0, 1) ? 0.0 : 1.0;
    r.sampling.seed = static_cast<uint64_t>(Number(1, 1000));
    if (growing_) r.sampling.max_tokens = Number(100, 250);
    r.sampling.ignore_eos = growing_ || Number(0, 1) == 1;
    if (Number(0, 2) == 0) r.sampling.repetition_penalty = 1.3;
    if (Number(0, 3) == 0) r.sampling.stop = {"abca", "ddd"};
    if (Number(0, 3) == 0) r.sampling.prompt_logprobs = 1;
    if (Number(0, 3) == 0) r.attention = AttentionMode::kDense;
    if (Number(0, 3) == 0) r.budget = 64 * Number(4, 6);
    if (Number(0, 4) == 0) r.cache_salt = "salt";
    r.priority = Number(0, 4) == 0 ? Number(-1, 1) : 0;
    r.progress = Number(0, 1) == 1;
    return r;
  }

  std::mt19937_64 random_;
  bool growing_;  // short prompts and long answers: pages run out while all decode
  std::vector<Request> requests_;
};

// What a request hears with the engine to itself and its prompt in one piece.
Heard Alone(const Request& request) {
  CoreSetup setup;
  setup.max_running = 1;
  setup.step_tokens = 4096;
  CoreHarness harness(setup);
  harness.Add(request);
  EXPECT_TRUE(harness.Finish(5000));
  return harness.heard(request.id);
}

// Steps that any workload of these requests may take: with one token a step and all the preemption
// there can be, each step moves at least one sequence by a token.
int MostSteps(const std::vector<Request>& requests) {
  int steps = 100;
  for (const Request& r : requests)
    steps += static_cast<int>(r.prompt.size()) + r.sampling.max_tokens + kPatience;
  return steps;
}

TEST(CoreRandom, SameTokensWhateverTheScheduling) {
  const auto directory =
      std::filesystem::path(::testing::TempDir()) / ("lserve-random-" + std::to_string(getpid()));
  EngineStats total;
  for (uint64_t seed = 1; seed <= Rounds(500); ++seed) {
    SCOPED_TRACE(seed);
    RandomWorkload work(seed);
    CoreSetup setup = work.MakeSetup();
    std::unique_ptr<PrefixStore> store;  // some keep what they lose in files
    if (setup.prefix_cache && work.Number(0, 4) == 0) {
      const CoreHarness sizes(setup);
      const int64_t pages[2] = {PageBytes(sizes.cache().config(), HeadClass::kRetrieval),
                                PageBytes(sizes.cache().config(), HeadClass::kStreaming)};
      auto opened = PrefixStore::Open(directory.string(), work.Number(10, 1000) * pages[0], pages);
      ASSERT_TRUE(opened.ok()) << opened.status().ToString();
      store = std::move(*opened);
      setup.store = store.get();
    }
    if (setup.prefix_cache && work.Number(0, 2) == 0)  // and some in host memory
      setup.host_bytes = int64_t{1} << work.Number(18, 22);
    CoreHarness harness(setup);
    const bool at_once = work.Number(0, 1);
    size_t added = 0;
    for (int step = 0; added < work.requests().size() || !harness.core().idle(); ++step) {
      ASSERT_LT(step, MostSteps(work.requests()) * 2) << "somebody starves";
      while (added < work.requests().size() &&
             (at_once || harness.core().idle() || work.Number(0, 9) == 0))
        harness.Add(work.requests()[added++]);
      harness.core().Step();
      if (step % 16 == 0) harness.ExpectWhole();
    }
    harness.ExpectWhole();
    const EngineStats stats = harness.core().stats();
    total.preemptions += stats.preemptions;
    total.replays += stats.replays;
    total.prefix_hits += stats.prefix_hits;
    for (const Request& r : work.requests()) {
      const Heard& heard = harness.heard(r.id);
      const Heard alone = Alone(r);
      ASSERT_EQ(heard.finishes, 1);
      EXPECT_EQ(heard.tokens, alone.tokens) << r.id;
      EXPECT_EQ(heard.text, alone.text) << r.id;
      EXPECT_EQ(heard.end.reason, alone.end.reason);
      EXPECT_EQ(heard.end.usage.completion_tokens, static_cast<int>(alone.tokens.size()));
      EXPECT_EQ(heard.end.usage.pages_read, alone.end.usage.pages_read);
      EXPECT_EQ(heard.end.usage.pages_total, alone.end.usage.pages_total);
      EXPECT_LE(heard.end.usage.pages_read, heard.end.usage.pages_total);
      if (r.progress) {
        EXPECT_EQ(heard.progress, static_cast<int>(r.prompt.size()));
      }
      ASSERT_EQ(heard.prompt.size(), r.sampling.prompt_logprobs >= 0 ? r.prompt.size() : 0);
      for (size_t i = 1; i < heard.prompt.size(); ++i)
        ASSERT_EQ(heard.prompt[i].logprob->logprob, alone.prompt[i].logprob->logprob);
    }
    if (HasFailure()) return;
    total.prefix_restored += stats.prefix_restored;
    total.prefix_host_restored += stats.prefix_host_restored;
    if (store) store->Flush();
    std::filesystem::remove_all(directory);
  }
  EXPECT_GT(total.preemptions, 300) << "the workloads no longer test preemption";
  EXPECT_GT(total.replays, 20) << "nor prompts that run again after it";
  EXPECT_GT(total.prefix_hits, 30000) << "nor the prefix cache";
  EXPECT_GT(total.prefix_restored, 5) << "nor its files";
  EXPECT_GT(total.prefix_host_restored, 30) << "nor its host memory";
}

// Within one step, also while a prompt is read: dynamo#14507, vllm#54947.
TEST(CoreRandom, CancellationAtAnyMomentLeavesPoolsWholeAndOthersAlone) {
  for (uint64_t seed = 1001; seed <= 1100; ++seed) {
    SCOPED_TRACE(seed);
    RandomWorkload work(seed);
    CoreHarness harness(work.MakeSetup());
    for (const Request& r : work.requests()) harness.Add(r);
    std::map<std::string, bool> cancelled;
    for (int step = 0; !harness.core().idle(); ++step) {
      ASSERT_LT(step, MostSteps(work.requests()));
      std::string victim;
      if (work.Number(0, 9) == 0) {
        const int i = work.Number(0, static_cast<int>(work.requests().size()) - 1);
        victim = work.requests()[static_cast<size_t>(i)].id;
        if (harness.heard(victim).finishes == 0) cancelled[victim] = true;
        harness.core().Cancel(victim);
      }
      harness.core().Step();
      if (!victim.empty()) {
        EXPECT_EQ(harness.heard(victim).finishes, 1) << "not within one step";
      }
    }
    harness.ExpectWhole();
    for (const Request& r : work.requests()) {
      const Heard& heard = harness.heard(r.id);
      ASSERT_EQ(heard.finishes, 1);
      const std::vector<int32_t> alone = Alone(r).tokens;
      if (cancelled[r.id]) {
        EXPECT_EQ(heard.end.reason, FinishReason::kAborted);
        ASSERT_LE(heard.tokens.size(), alone.size());
        EXPECT_TRUE(std::equal(heard.tokens.begin(), heard.tokens.end(), alone.begin()));
      } else {
        EXPECT_EQ(heard.tokens, alone);
      }
    }
    if (HasFailure()) return;
  }
}

}  // namespace
}  // namespace lserve::testing
