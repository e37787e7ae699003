// Runs requests through an EngineCore with the null model and keeps what each of them heard.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "engine/engine_core.h"
#include "tests/engine/null_runner.h"

namespace lserve::testing {

// Token ids 0 (eos, without text) to 63; texts of one to three letters, so that stop strings cross
// token borders.
class LetterTokenizer : public Tokenizer {
 public:
  std::vector<int32_t> Encode(std::string_view text, bool, bool) const override {
    std::vector<int32_t> ids;
    for (char c : text) ids.push_back(1 + (c - 'a') % 4);
    return ids;
  }
  std::string TokenBytes(int32_t id, bool special = false) const override {
    if (id == 0) return special ? "<eos>" : "";
    std::string out;
    for (int i = id; i > 0; i /= 4) out += static_cast<char>('a' + i % 4);
    return out;
  }
  std::string Decode(const std::vector<int32_t>& ids, bool special = false) const override {
    std::string out;
    for (int32_t id : ids) out += TokenBytes(id, special);
    return out;
  }
  int vocab_size() const override { return NullRunner::kVocab; }
  int32_t bos() const override { return -1; }
  int32_t eos() const override { return 0; }
  bool is_special(int32_t id) const override { return id == 0; }
  bool strips_leading_space() const override { return false; }
  int32_t Find(std::string_view) const override { return -1; }
};

// What one request heard.
struct Heard {
  std::vector<int32_t> tokens;
  std::vector<TokenOutput> outputs, prompt;
  std::string text;
  int finishes = 0, progress = 0;
  Event end;

  void Hear(Event event) {
    EXPECT_EQ(finishes, 0) << "an event after the finish";
    if (event.kind == Event::Kind::kPromptLogprobs) {
      EXPECT_TRUE(tokens.empty());
      prompt.insert(prompt.end(), event.tokens.begin(), event.tokens.end());
    } else if (event.kind == Event::Kind::kTokens) {
      for (TokenOutput& out : event.tokens) {
        tokens.push_back(out.id);
        text += out.text;
        outputs.push_back(std::move(out));
      }
    } else if (event.kind == Event::Kind::kProgress) {
      EXPECT_GT(event.prompt_done, progress);
      progress = event.prompt_done;
    } else {
      ++finishes;
      text += event.trailing_text;
      end = std::move(event);
    }
  }
};

struct CoreSetup {
  int64_t pages = 1000;          // of each pool
  int64_t streaming_pages = -1;  // of that pool, if it has fewer
  int max_running = 8;
  int step_tokens = 64;
  int max_context = 2048;
  bool prefix_cache = true, deterministic = true;
  int checkpoint_blocks = 8;
  PrefixStore* store = nullptr;
  int64_t host_bytes = 0;  // of the prefix cache's host memory
  SparsityConfig sparsity;

  // Another model than the null one, and what its cache looks like.
  ModelRunner* model = nullptr;
  KvCodec codec{KvType::kKv32, KvType::kKv32, NullRunner::kDim};
  int group = 1, prefill_tile = 16;

  CoreSetup() {  // windows and budgets that a few hundred tokens exceed
    sparsity.prefill_sink = 70;
    sparsity.prefill_local = 150;
    sparsity.decode_sink = 64;
    sparsity.decode_local = 64;
    sparsity.budget = 256;
    sparsity.selector_sink_pages = 1;
    sparsity.selector_local_pages = 1;
    sparsity.dense_below = 256;
  }
};

// `length` prompt tokens that depend on the id; greedy, answers of exactly `max_tokens`.
inline Request Make(const std::string& id, int length, int max_tokens) {
  Request r;
  r.id = id;
  for (int i = 0; i < length; ++i)
    r.prompt.push_back(
        1 + static_cast<int32_t>(Mix(static_cast<uint64_t>(i), std::hash<std::string>()(id)) % 63));
  r.sampling.max_tokens = max_tokens;
  r.sampling.temperature = 0;
  r.sampling.ignore_eos = true;
  return r;
}

class CoreHarness {
 public:
  explicit CoreHarness(const CoreSetup& setup) {
    KvCacheConfig kv;
    const HeadClass r = HeadClass::kRetrieval, s = HeadClass::kStreaming;
    kv.layers = {HeadMap(std::vector<HeadClass>{r, s}), HeadMap(std::vector<HeadClass>{s, r})};
    kv.codec = setup.codec;
    kv.stats = {16, setup.codec.dim()};
    kv.max_slots = setup.max_running;
    kv.max_blocks = (setup.max_context + kBlockTokens - 1) / kBlockTokens;
    kv.pages[0] = kv.pages[1] = setup.pages;
    if (setup.streaming_pages >= 0) kv.pages[1] = setup.streaming_pages;
    kv.poison_freed = true;
    EXPECT_TRUE(Planner::Check(setup.sparsity).ok()) << Planner::Check(setup.sparsity).ToString();
    cache_ = std::make_unique<KvCache>(std::move(kv));
    planner_ = std::make_unique<Planner>(setup.sparsity, &cache_->config().layers, setup.group,
                                         setup.prefill_tile);
    CoreOptions options;
    options.max_running = setup.max_running;
    options.step_tokens = setup.step_tokens;
    options.max_context = setup.max_context;
    options.default_budget = setup.sparsity.budget;
    options.dense_below = setup.sparsity.dense_below;
    options.step_target_seconds = options.prompt_step_seconds = -1;  // no clocks in tests
    options.eos = {0};
    options.deterministic = setup.deterministic;
    if (setup.prefix_cache) {
      PrefixCacheConfig prefix;
      prefix.sink_blocks = planner_->SinkBlocks();
      prefix.window_tokens = setup.sparsity.prefill_local;
      prefix.share_decoded = !setup.deterministic;
      prefix.slack_blocks = 1;
      prefix.store = setup.store;
      if (setup.host_bytes > 0) {
        const int64_t pages[2] = {PageBytes(cache_->config(), HeadClass::kRetrieval),
                                  PageBytes(cache_->config(), HeadClass::kStreaming)};
        auto host = HostPages::Create(setup.host_bytes, pages, cache_->config().memory);
        EXPECT_TRUE(host.ok()) << host.status().ToString();
        host_ = std::move(*host);
        prefix.host = host_.get();
      }
      prefix.checkpoint_blocks = setup.checkpoint_blocks;
      prefix_ = std::make_unique<PrefixCache>(prefix, cache_.get());
    }
    core_ = std::make_unique<EngineCore>(options, setup.model ? setup.model : &runner_, &tokenizer_,
                                         cache_.get(), planner_.get(), prefix_.get());
  }
  ~CoreHarness() {
    core_.reset();
    ExpectWhole();
    prefix_.reset();
    for (HeadClass cls : {HeadClass::kRetrieval, HeadClass::kStreaming})
      EXPECT_EQ(cache_->free_pages(cls), cache_->total_pages(cls));
  }

  void Add(Request request) {
    Heard* heard = &heard_[request.id];
    const uint64_t seed = request.sampling.seed.value_or(0);
    core_->Add(
        std::move(request), [heard](Event e) { heard->Hear(std::move(e)); }, seed);
  }
  // Steps until nothing is left; false when that takes more than `most` steps.
  bool Finish(int most) {
    for (int i = 0; !core_->idle(); ++i) {
      if (i == most) return false;
      core_->Step();
    }
    return true;
  }
  // No page is lost, none is owned twice, nothing forbidden was read.
  void ExpectWhole() {
    Status s = cache_->CheckIntegrity();
    EXPECT_TRUE(s.ok()) << s.ToString();
    if (prefix_) s = prefix_->CheckIntegrity();
    EXPECT_TRUE(s.ok()) << s.ToString();
    EXPECT_EQ(runner_.damage(), 0);
    if (core_ && !core_->idle()) return;
    for (HeadClass cls : {HeadClass::kRetrieval, HeadClass::kStreaming})
      EXPECT_EQ(cache_->free_pages(cls) + cache_->idle_pages(cls), cache_->total_pages(cls));
  }

  EngineCore& core() { return *core_; }
  const KvCache& cache() const { return *cache_; }
  PrefixCache& prefix() { return *prefix_; }
  const NullRunner& runner() const { return runner_; }
  const Heard& heard(const std::string& id) { return heard_[id]; }

 private:
  NullRunner runner_;
  LetterTokenizer tokenizer_;
  std::unique_ptr<KvCache> cache_;
  std::unique_ptr<Planner> planner_;
  std::unique_ptr<HostPages> host_;
  std::unique_ptr<PrefixCache> prefix_;
  std::unique_ptr<EngineCore> core_;
  std::map<std::string, Heard> heard_;
};

}  // namespace lserve::testing
