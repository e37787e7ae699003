// The prefix cache by itself: what a hit needs, what is kept under pressure, who shares with whom.
#include "kv/prefix_cache.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <numeric>
#include <random>

namespace lserve {
namespace {

constexpr HeadClass kR = HeadClass::kRetrieval, kS = HeadClass::kStreaming;

PrefixCacheConfig Config() {
  PrefixCacheConfig config;
  config.sink_blocks = 1;
  config.window_tokens = 2 * kBlockTokens;
  config.slack_blocks = 0;
  config.checkpoint_blocks = 1000;
  return config;
}

// Sequences over a cache, without an engine: each computes its blocks, inserts them, and releases
// streaming pages as its window moves on.
class Fixture : public ::testing::Test {
 protected:
  struct Sequence {
    int slot = -1;
    PrefixPath path;
    std::vector<int32_t> tokens;
    int blocks = 0;  // stored
  };

  void Make(const PrefixCacheConfig& config, int64_t retrieval = 64, int64_t streaming = 64,
            bool streams = true) {
    cache_.reset();
    KvCacheConfig kv;
    kv.layers = {HeadMap({kR, streams ? kS : kR})};
    kv.codec = KvCodec(KvType::kKv16, KvType::kKv16, 16);
    kv.stats = {16, 16};
    kv.max_slots = 8;
    kv.max_blocks = 32;
    kv.pages[0] = retrieval;
    kv.pages[1] = streaming;
    kv.poison_freed = true;
    kv_ = std::make_unique<KvCache>(std::move(kv));
    cache_ = std::make_unique<PrefixCache>(config, kv_.get());
  }
  void TearDown() override {
    ExpectWhole();
    cache_.reset();
    EXPECT_EQ(kv_->free_pages(kR), kv_->total_pages(kR));
    EXPECT_EQ(kv_->free_pages(kS), kv_->total_pages(kS));
    EXPECT_TRUE(kv_->CheckIntegrity().ok());
  }
  void ExpectWhole() {
    EXPECT_TRUE(kv_->CheckIntegrity().ok()) << kv_->CheckIntegrity().ToString();
    EXPECT_TRUE(cache_->CheckIntegrity().ok()) << cache_->CheckIntegrity().ToString();
  }

  // A text of whole blocks, one letter a block.
  static std::vector<int32_t> Text(const std::string& letters) {
    std::vector<int32_t> tokens;
    for (char c : letters) tokens.insert(tokens.end(), kBlockTokens, c);
    return tokens;
  }
  PrefixHit Find(Sequence* s) {
    return cache_->Find(&s->path, s->tokens, static_cast<int>(s->tokens.size()) / kBlockTokens);
  }
  // A sequence that takes what is cached of its text and computes the rest; blocks from `decoded`
  // on as answer.
  Sequence Run(const std::string& text, int decoded = 1000, const std::string& salt = "",
               bool dense = false, int32_t budget = 0) {
    Sequence s;
    const std::string parts[] = {salt};
    s.path.seed = ChainSeed(parts);
    s.path.dense = dense;
    s.path.budget = budget;
    s.path.owner = ++last_owner_;
    s.tokens = Text(text);
    s.slot = kv_->AllocateSlot();
    const PrefixHit hit = Find(&s);
    hits_.push_back(hit.blocks);
    cache_->Attach(&s.path, hit, s.slot);
    for (s.blocks = hit.blocks; s.blocks < static_cast<int>(text.size()); ++s.blocks) {
      for (HeadClass cls : {kR, kS}) {
        const int64_t needed = kv_->PagesNeeded(s.slot, (s.blocks + 1) * kBlockTokens, cls);
        const int64_t missing = needed - kv_->free_pages(cls);
        if (missing > 0) {
          EXPECT_GE(cache_->Evict(cls, missing), missing);
        }
      }
      EXPECT_TRUE(kv_->Extend(s.slot, (s.blocks + 1) * kBlockTokens));
      const auto block = std::span<const int32_t>(s.tokens).subspan(
          static_cast<size_t>(s.blocks) * kBlockTokens, kBlockTokens);
      if (static_cast<int>(s.path.blocks.size()) == s.blocks)
        cache_->Insert(&s.path, s.slot, block, s.blocks >= decoded);
      if (!dense) kv_->ReleaseStreaming(s.slot, 1, s.blocks - 1);  // as its window moves
      ExpectWhole();
    }
    return s;
  }
  void End(Sequence* s, bool checkpoint = true) {
    if (checkpoint) cache_->Checkpoint(s->path);
    kv_->FreeSlot(s->slot);
    s->slot = -1;
    ExpectWhole();
  }
  // Blocks of the hit after everything that the tiers have was brought in; those from the host.
  std::pair<int, int64_t> FindAll(const std::string& text) {
    Sequence s;
    const std::string parts[] = {std::string()};
    s.path.seed = ChainSeed(parts);
    s.tokens = Text(text);
    Find(&s);
    const PrefixRestored restored =
        cache_->Restore(&s.path, s.tokens, static_cast<int>(text.size()), 1 << 30);
    ExpectWhole();
    return {Find(&s).blocks, restored.host};
  }
  int RunAndEnd(const std::string& text, int decoded = 1000, const std::string& salt = "",
                bool dense = false, int32_t budget = 0) {
    Sequence s = Run(text, decoded, salt, dense, budget);
    End(&s);
    return hits_.back();
  }

  std::unique_ptr<KvCache> kv_;
  std::unique_ptr<PrefixCache> cache_;
  std::vector<int> hits_;
  uint64_t last_owner_ = 0;
};

TEST_F(Fixture, FindsTheCommonPrefix) {
  Make(Config());
  EXPECT_EQ(RunAndEnd("abcdef"), 0);
  EXPECT_EQ(RunAndEnd("abcdef"), 6);
  EXPECT_EQ(RunAndEnd("abcxyz"), 3);
  EXPECT_EQ(RunAndEnd("abcxyw"), 5);
  EXPECT_EQ(RunAndEnd("bcdef"), 0) << "position is part of a name";
  EXPECT_EQ(cache_->blocks(), 6 + 3 + 1 + 5);
}

TEST_F(Fixture, SharedPagesAreTheSamePages) {
  Make(Config());
  Sequence a = Run("abcd"), b = Run("abce");
  for (int block = 0; block < 3; ++block)
    EXPECT_EQ(kv_->Page(kR, a.slot, block), kv_->Page(kR, b.slot, block));
  EXPECT_NE(kv_->Page(kR, a.slot, 3), kv_->Page(kR, b.slot, 3));
  EXPECT_EQ(kv_->total_pages(kR) - kv_->free_pages(kR), 5);
  End(&a);
  EXPECT_EQ(kv_->idle_pages(kR), 1) << "the block that b does not use";
  End(&b);
  EXPECT_EQ(kv_->idle_pages(kR), 5);
}

TEST_F(Fixture, SaltsBudgetsAndModesDoNotMix) {
  Make(Config());
  EXPECT_EQ(RunAndEnd("abcd", 2, "", false, 256), 0);
  EXPECT_EQ(RunAndEnd("abcd", 2, "salt", false, 256), 0);
  EXPECT_EQ(RunAndEnd("abcd", 2, "", false, 256), 4) << "the answer of this conversation";
  EXPECT_EQ(RunAndEnd("abcd", 2, "", false, 512), 2) << "answered under another budget";
}

TEST_F(Fixture, AnswersAreNotSharedWhenSwitchedOff) {
  PrefixCacheConfig config = Config();
  config.share_decoded = false;
  Make(config);
  RunAndEnd("abcd", 2);
  EXPECT_EQ(RunAndEnd("abcd"), 2);
}

TEST_F(Fixture, AnotherSequencesAnswerDoesNotReplaceOurs) {
  Make(Config());
  Sequence a = Run("ab");
  Sequence b = Run("ab");
  a.tokens = b.tokens = Text("abc");
  const auto block = std::span<const int32_t>(a.tokens).subspan(2 * kBlockTokens, kBlockTokens);
  for (Sequence* s : {&a, &b}) ASSERT_TRUE(kv_->Extend(s->slot, 3 * kBlockTokens));
  EXPECT_TRUE(cache_->Insert(&a.path, a.slot, block, true));
  EXPECT_FALSE(cache_->Insert(&b.path, b.slot, block, true));
  EXPECT_NE(kv_->Page(kR, a.slot, 2), kv_->Page(kR, b.slot, 2));
  End(&a);
  End(&b);
}

TEST_F(Fixture, TwoThatComputeTheSamePromptEndUpOnTheSamePages) {
  Make(Config());
  Sequence a = Run("ab"), b;
  b.path.seed = a.path.seed;
  b.tokens = a.tokens;
  b.slot = kv_->AllocateSlot();
  ASSERT_TRUE(kv_->Extend(b.slot, 2 * kBlockTokens));
  for (size_t block : {0, 1})
    EXPECT_TRUE(cache_->Insert(
        &b.path, b.slot,
        std::span<const int32_t>(b.tokens).subspan(block * kBlockTokens, kBlockTokens), false));
  for (HeadClass cls : {kR, kS})
    for (int block : {0, 1})
      EXPECT_EQ(kv_->Page(cls, a.slot, block), kv_->Page(cls, b.slot, block));
  End(&a);
  End(&b);
}

TEST_F(Fixture, UnderPressureTheLongestUnusedLeafGoesFirst) {
  Make(Config(), 8, 32);
  RunAndEnd("abcd");
  RunAndEnd("xyz");
  RunAndEnd("abcd");  // used again
  EXPECT_EQ(cache_->Evict(kR, 2), 1 + 1) << "one page is free anyway, z and y go";
  EXPECT_EQ(RunAndEnd("abcd"), 4);
  EXPECT_EQ(RunAndEnd("xyz"), 1);
}

TEST_F(Fixture, PagesInUseStay) {
  Make(Config(), 8, 32);
  Sequence a = Run("abcd");
  EXPECT_EQ(cache_->Evict(kR, 8), 0);
  EXPECT_EQ(kv_->idle_pages(kR), 0);
  End(&a);
  EXPECT_EQ(kv_->idle_pages(kR), 4);
  EXPECT_EQ(cache_->Evict(kR, 8), 4);
  EXPECT_EQ(cache_->blocks(), 0);
}

// Streaming pages that no checkpoint needs go before anything else; a hit then ends where all
// windows are whole.
TEST_F(Fixture, CheckpointsKeepTheirWindows) {
  Make(Config());
  RunAndEnd("abcdefghij");  // its end is a checkpoint: needs the sink a, and i, j
  EXPECT_EQ(cache_->Evict(kS, 7), 7);
  EXPECT_EQ(cache_->blocks(), 10) << "no block was lost for it";
  EXPECT_EQ(RunAndEnd("abcdefghij"), 10);
  EXPECT_EQ(RunAndEnd("abcdefghxx"), 1) << "only the sink is whole there";
  EXPECT_EQ(RunAndEnd("abcdefghyy"), 8) << "computed again, and now a place where prompts part";
}

TEST_F(Fixture, SlackKeepsBoundariesBeforeACheckpoint) {
  PrefixCacheConfig config = Config();
  config.slack_blocks = 3;
  Make(config);
  RunAndEnd("abcdefghij");
  EXPECT_EQ(cache_->Evict(kS, 100), 10) << "all go in the end";
  EXPECT_EQ(RunAndEnd("abcdefghij"), 0);
  EXPECT_EQ(cache_->Evict(kS, 4), 4);
  EXPECT_EQ(cache_->blocks(), 10);
  EXPECT_EQ(RunAndEnd("abcdefgxxx"), 7);
}

TEST_F(Fixture, RegularCheckpoints) {
  PrefixCacheConfig config = Config();
  config.checkpoint_blocks = 4;
  Make(config);
  RunAndEnd("abcdefghijkl");
  cache_->Evict(kS, 5);  // b, e, f, i, j
  EXPECT_EQ(RunAndEnd("abcdefxx"), 4);
  EXPECT_EQ(RunAndEnd("abcdefghixx"), 8);
}

TEST_F(Fixture, DenseSequencesNeedEveryStreamingPage) {
  Make(Config());
  EXPECT_EQ(RunAndEnd("abcdef", 1000, "", true), 0);
  EXPECT_EQ(RunAndEnd("abcdef", 1000, "", true), 6);
  EXPECT_EQ(cache_->Evict(kS, 1), 1) << "every page is needed: a leaf goes";
  EXPECT_EQ(cache_->blocks(), 5);
}

// The window of a running sequence moves on: what it left behind can be had without its blocks.
TEST_F(Fixture, IdleStreamingPagesOfBlocksInUseCanBeHad) {
  Make(Config());
  Sequence s = Run("abcdefghij");
  cache_->Checkpoint(s.path);
  const int64_t idle = kv_->idle_pages(kS);
  EXPECT_EQ(idle, 10 - 3) << "sink and two blocks of window are in use";
  EXPECT_EQ(cache_->Evict(kS, idle), idle);
  EXPECT_EQ(cache_->blocks(), 10);
  End(&s);
}

// ---- host memory behind the pools

class WithHost : public Fixture {
 protected:
  void MakeWithHost(int64_t retrieval, int64_t streaming, bool streams = true,
                    int64_t host_bytes = int64_t{4} << 20) {
    cache_.reset();
    Make(Config(), retrieval, streaming, streams);
    const int64_t pages[2] = {PageBytes(kv_->config(), kR), PageBytes(kv_->config(), kS)};
    auto host = HostPages::Create(host_bytes, pages, &HostMemory());
    ASSERT_TRUE(host.ok()) << host.status().ToString();
    host_ = std::move(*host);
    PrefixCacheConfig config = Config();
    config.host = host_.get();
    cache_ = std::make_unique<PrefixCache>(config, kv_.get());
  }
  void TearDown() override {
    Fixture::TearDown();
    host_.reset();
  }
  std::unique_ptr<HostPages> host_;
};

TEST_F(WithHost, WhatThePoolsGaveAwayComesBack) {
  MakeWithHost(12, 12);
  RunAndEnd("abcdef");
  EXPECT_EQ(cache_->Evict(kR, 12), 6);
  EXPECT_EQ(cache_->blocks(), 0);
  EXPECT_EQ(FindAll("abcdef"), std::pair(6, int64_t{6}));
  EXPECT_EQ(kv_->total_pages(kS) - kv_->free_pages(kS), 3) << "sink and window, nothing more";
  EXPECT_EQ(FindAll("abcdef"), std::pair(6, int64_t{0})) << "it is there";
  EXPECT_EQ(FindAll("abcdex"), std::pair(1, int64_t{0})) << "no checkpoint: but the sink is whole";
}

// The window of a checkpoint outlives the blocks' stay in the pool, also where its end went first.
TEST_F(WithHost, WindowsComeBackToBlocksThatStayed) {
  MakeWithHost(12, 12);
  RunAndEnd("abcdefghij");
  RunAndEnd("abcd");  // a second checkpoint
  EXPECT_EQ(cache_->Evict(kS, 7), 7);
  EXPECT_EQ(cache_->Evict(kR, 2), 2) << "j and i";
  EXPECT_EQ(cache_->Evict(kS, 12), cache_->blocks() > 0 ? 3 : 0);
  EXPECT_EQ(FindAll("abcdefghij").first, 10);
  EXPECT_EQ(FindAll("abcdxx").first, 4);
}

TEST_F(WithHost, AModelWithoutStreamingHeadsToo) {
  MakeWithHost(12, 12, false);
  RunAndEnd("abcdef");
  EXPECT_EQ(cache_->Evict(kR, 12), 6);
  EXPECT_EQ(FindAll("abcdef"), std::pair(6, int64_t{6}));
}

// Another prompt's windows, which its checkpoint needs, go before those that were just brought in,
// which none needs yet.
TEST_F(WithHost, WhatWasBroughtInDoesNotMakeRoomForTheRest) {
  for (int64_t streaming = 4; streaming < 13; ++streaming) {
    SCOPED_TRACE(streaming);
    MakeWithHost(12, streaming);
    RunAndEnd("abcdef");
    cache_->Evict(kR, 12);
    RunAndEnd("uvwxyz");
    EXPECT_EQ(FindAll("abcdef"), std::pair(6, int64_t{6}));
  }
}

// What does not fit any more is the end of what was used longest ago.
TEST_F(WithHost, IsBounded) {
  MakeWithHost(12, 12, true, int64_t{1} << 19);
  const int64_t room = (int64_t{1} << 19) / PageBytes(kv_->config(), kR);
  for (int i = 0; i < 2 * room; ++i) {
    RunAndEnd(std::string(5, static_cast<char>(i)));
    EXPECT_LE(host_->bytes(), int64_t{1} << 19);
  }
  cache_->Evict(kR, 12);
  EXPECT_EQ(FindAll(std::string(5, static_cast<char>(0))).first, 0);
  EXPECT_EQ(FindAll(std::string(5, static_cast<char>(2 * room - 1))).first, 5);
}

// ---- files behind the pools

// A window that a file lost, or never had, is in it again once it was computed again: else nobody
// would find the prompt until the file is the longest unused.
TEST_F(Fixture, FilesWithoutTheirWindowAreMadeAnew) {
  namespace fs = std::filesystem;
  const fs::path directory =
      fs::path(::testing::TempDir()) / ("lserve-cache-" + std::to_string(getpid()));
  const auto find = [&](bool cut) {
    Make(Config());
    const int64_t pages[2] = {PageBytes(kv_->config(), kR), PageBytes(kv_->config(), kS)};
    auto store = PrefixStore::Open(directory.string(), 1 << 30, pages);
    EXPECT_TRUE(store.ok()) << store.status().ToString();
    PrefixCacheConfig config = Config();
    config.store = store->get();
    cache_ = std::make_unique<PrefixCache>(config, kv_.get());
    const int found = FindAll("abcdef").first;
    RunAndEnd("abcdef");
    while (cache_->Save(1 << 20)) {
    }
    (*store)->Flush();
    cache_.reset();
    if (cut)
      for (const auto& file : fs::directory_iterator(directory))
        fs::resize_file(file.path(), fs::file_size(file.path()) / 2);
    return found;
  };
  EXPECT_EQ(find(false), 0);
  EXPECT_EQ(find(true), 6);
  EXPECT_EQ(find(false), 0) << "cut off";
  EXPECT_EQ(find(false), 6);
  fs::remove_all(directory);
  Make(Config());
}

// Whatever happened before: idle pages are really to be had.
TEST_F(Fixture, IdlePagesAreAPromise) {
  std::mt19937 random(5);
  for (int round = 0; round < 60; ++round) {
    PrefixCacheConfig config = Config();
    config.slack_blocks = static_cast<int>(random() % 3);
    config.checkpoint_blocks = 1 + static_cast<int>(random() % 6);
    Make(config, 200, 200);
    std::vector<Sequence> running;
    for (int i = 0; i < 12; ++i) {
      std::string text;
      for (size_t n = 1 + random() % 14; n > 0; --n) text += static_cast<char>('a' + random() % 2);
      const bool dense = random() % 4 == 0;
      Sequence s = Run(text, static_cast<int>(random() % 20), dense ? "dense" : "", dense);
      if (running.size() < 4 && random() % 2) {
        running.push_back(std::move(s));
      } else {
        End(&s, random() % 2);
      }
      if (random() % 4 == 0) cache_->Evict(random() % 2 ? kR : kS, 1 + random() % 5);
      ExpectWhole();
    }
    for (HeadClass cls : {kS, kR}) {
      const int64_t idle = kv_->idle_pages(cls);
      EXPECT_EQ(cache_->Evict(cls, 1000), idle);
      EXPECT_EQ(kv_->idle_pages(cls), 0);
    }
    for (Sequence& s : running) End(&s);
  }
}

TEST(BlockHash, CoversEverything) {
  const std::vector<std::string> a = {"ab", "c"}, b = {"a", "bc"};
  EXPECT_NE(ChainSeed(a), ChainSeed(b));
  const BlockHash seed = ChainSeed(a);
  std::vector<int32_t> tokens(kBlockTokens, 7);
  const BlockHash name = NextBlock(seed, tokens, kPrefilled);
  EXPECT_EQ(name, NextBlock(seed, tokens, kPrefilled));
  EXPECT_NE(name, NextBlock(ChainSeed(b), tokens, kPrefilled));
  EXPECT_NE(name, NextBlock(seed, tokens, 0));
  tokens.back() = 8;
  EXPECT_NE(name, NextBlock(seed, tokens, kPrefilled));
}

}  // namespace
}  // namespace lserve
