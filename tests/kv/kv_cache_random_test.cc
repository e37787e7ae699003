// Random sequences of operations as an engine makes them, against a plain model: what each sequence
// holds, and what its pages contain. After every operation the pools must be whole.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <optional>
#include <random>

#include "kv/kv_cache.h"

namespace lserve {
namespace {

constexpr HeadClass kR = HeadClass::kRetrieval, kS = HeadClass::kStreaming;
constexpr int kSinkBlocks = 1;

class Machine {
 public:
  explicit Machine(uint64_t seed) : random_(seed), cache_(Config()) {}

  void Step() {
    const size_t at = sequences_.empty() ? 0 : Random(sequences_.size());
    switch (Random(11)) {
      case 0:
        return Start();
      case 1:
        return Stop(at);
      case 2:
        return SwapOut(at);
      case 3:
        return SwapIn(at);
      case 4:
        return Release(at);
      default:
        return Grow(at);
    }
  }

  // Every pool is whole, holds what the model says, and nothing else.
  void Verify() {
    const Status status = cache_.CheckIntegrity();
    ASSERT_TRUE(status.ok()) << status.ToString();
    int64_t held[2] = {0, 0};
    for (const Sequence& s : sequences_) {
      if (s.slot < 0) continue;
      for (HeadClass cls : {kR, kS})
        for (int b = 0; b < kMaxBlocks; ++b) {
          const int32_t* stamp = Stamp(s.slot, cls, b);
          ASSERT_EQ(stamp != nullptr, Holds(s, cls, b)) << "slot " << s.slot << " block " << b;
          if (stamp == nullptr) continue;
          ++held[static_cast<int>(cls)];
          ASSERT_EQ(*stamp, StampOf(s, cls, b)) << "slot " << s.slot << " block " << b;
        }
    }
    for (HeadClass cls : {kR, kS})
      ASSERT_EQ(cache_.free_pages(cls), cache_.total_pages(cls) - held[static_cast<int>(cls)]);
  }

  void StopAll() {
    while (!sequences_.empty()) Stop(0);
    ASSERT_EQ(cache_.free_pages(kR), cache_.total_pages(kR));
    ASSERT_EQ(cache_.free_pages(kS), cache_.total_pages(kS));
    ASSERT_TRUE(cache_.CheckIntegrity().ok());
  }

  // How often each kind of thing happened: a test that never preempts tests nothing.
  std::map<std::string, int> seen;

 private:
  static constexpr int kMaxBlocks = 16;

  struct Sequence {
    int id = 0, slot = -1;  // slot -1: swapped out
    int len = 0;
    int released = kSinkBlocks;  // streaming blocks [kSinkBlocks, released) are gone
    SwappedPages pages;
  };

  static KvCacheConfig Config() {
    KvCacheConfig config;
    config.layers = {HeadMap({kR, kS}), HeadMap({kS, kR})};
    config.codec = KvCodec(KvType::kKv8, KvType::kKv8, 16);
    config.stats = {32, 16};
    config.max_slots = 5;
    config.max_blocks = kMaxBlocks;
    config.pages[0] = 26;
    config.pages[1] = 18;
    config.poison_freed = true;
    return config;
  }

  size_t Random(size_t n) { return random_() % n; }

  static bool Holds(const Sequence& s, HeadClass cls, int block) {
    if (block >= (s.len + kBlockTokens - 1) / kBlockTokens) return false;
    return cls == kR || block < kSinkBlocks || block >= s.released;
  }
  static int32_t StampOf(const Sequence& s, HeadClass cls, int block) {
    return s.id * 1000 + static_cast<int>(cls) * 100 + block;
  }
  // In the last layer, so that offsets are wrong if they can be.
  int32_t* Stamp(int slot, HeadClass cls, int block) const {
    return reinterpret_cast<int32_t*>(cache_.View(1).Slice(slot, cls == kR ? 1 : 0, block));
  }
  void Write(const Sequence& s, int from_block) {
    for (HeadClass cls : {kR, kS})
      for (int b = from_block; b < (s.len + kBlockTokens - 1) / kBlockTokens; ++b)
        if (Holds(s, cls, b)) *Stamp(s.slot, cls, b) = StampOf(s, cls, b);
  }

  void Start() {
    const int slot = cache_.AllocateSlot();
    int running = 0;
    for (const Sequence& s : sequences_) running += s.slot >= 0;
    ASSERT_EQ(slot < 0, running == 5);
    if (slot < 0) return;
    for (const Sequence& s : sequences_) ASSERT_NE(s.slot, slot);
    Sequence s;
    s.id = ++last_id_;
    s.slot = slot;
    sequences_.push_back(std::move(s));
    ++seen["start"];
  }
  void Stop(size_t at) {
    if (sequences_.empty()) return;
    if (sequences_[at].slot >= 0) cache_.FreeSlot(sequences_[at].slot);
    sequences_.erase(sequences_.begin() + static_cast<ptrdiff_t>(at));
    ++seen["stop"];
  }
  void Grow(size_t at) {
    if (sequences_.empty() || sequences_[at].slot < 0) return;
    Sequence& s = sequences_[at];
    const int len =
        std::min<int>(s.len + 1 + static_cast<int>(Random(150)), kMaxBlocks * kBlockTokens);
    bool fits = true;
    for (HeadClass cls : {kR, kS}) {
      Sequence longer;
      longer.len = len;
      longer.released = s.released;
      int64_t more = 0;
      for (int b = 0; b < kMaxBlocks; ++b) more += Holds(longer, cls, b) - Holds(s, cls, b);
      ASSERT_EQ(cache_.PagesNeeded(s.slot, len, cls), more);
      fits = fits && more <= cache_.free_pages(cls);
    }
    ASSERT_EQ(cache_.Extend(s.slot, len), fits);
    ++seen[fits ? "grow" : "full"];
    if (!fits) return;
    const int from = (s.len + kBlockTokens - 1) / kBlockTokens;
    s.len = len;
    Write(s, from);
  }
  // As a window moves: up to some block that is stored, the newest excepted.
  void Release(size_t at) {
    if (sequences_.empty() || sequences_[at].slot < 0) return;
    Sequence& s = sequences_[at];
    const int newest = (s.len - 1) / kBlockTokens;
    if (s.len == 0 || newest <= 0) return;
    const int end = static_cast<int>(Random(static_cast<size_t>(newest) + 1));
    cache_.ReleaseStreaming(s.slot, kSinkBlocks, end);
    if (end > s.released) ++seen["release"];
    s.released = std::max(s.released, end);
  }
  void SwapOut(size_t at) {
    if (sequences_.empty() || sequences_[at].slot < 0) return;
    Sequence& s = sequences_[at];
    s.pages = cache_.SwapOut(s.slot);
    cache_.FreeSlot(s.slot);
    s.slot = -1;
    ++seen["swap out"];
  }
  void SwapIn(size_t at) {
    if (sequences_.empty() || sequences_[at].slot >= 0) return;
    Sequence& s = sequences_[at];
    const int slot = cache_.AllocateSlot();
    if (slot < 0) return;
    bool fits = true;
    for (HeadClass cls : {kR, kS})
      fits = fits && static_cast<int64_t>(s.pages.blocks[static_cast<int>(cls)].size()) <=
                         cache_.free_pages(cls);
    ASSERT_EQ(cache_.SwapIn(slot, s.pages), fits);
    ++seen[fits ? "swap in" : "no room"];
    if (!fits) return cache_.FreeSlot(slot);
    s.slot = slot;
    s.pages = {};
  }

  std::mt19937_64 random_;
  KvCache cache_;
  std::vector<Sequence> sequences_;
  int last_id_ = 0;
};

TEST(KvCacheRandom, StaysWhole) {
  std::map<std::string, int> seen;
  for (uint64_t seed = 0; seed < 12; ++seed) {
    SCOPED_TRACE(seed);
    Machine machine(seed);
    for (int i = 0; i < 1500; ++i) {
      machine.Step();
      machine.Verify();
      if (::testing::Test::HasFatalFailure()) return;
    }
    for (const auto& [what, count] : machine.seen) seen[what] += count;
    machine.StopAll();
  }
  for (const char* what :
       {"start", "stop", "grow", "full", "release", "swap out", "swap in", "no room"})
    EXPECT_GT(seen[what], 20) << what;
}

}  // namespace
}  // namespace lserve
