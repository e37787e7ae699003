// The cache step by step: what Extend takes, what Release gives back, where bytes lie, what
// swapping keeps, and that the integrity check finds damage.
#include "kv/kv_cache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <set>

#include "core/dtype.h"

namespace lserve {
namespace {

constexpr HeadClass kR = HeadClass::kRetrieval, kS = HeadClass::kStreaming;

KvCacheConfig Config() {
  KvCacheConfig config;
  config.layers = {HeadMap({kR, kS, kS}), HeadMap({kR, kR, kR}), HeadMap({kS, kS, kS})};
  config.codec = KvCodec(KvType::kKv8, KvType::kKv4, 16);
  config.stats = {16, 16};
  config.max_slots = 3;
  config.max_blocks = 10;
  config.pages[0] = 12;
  config.pages[1] = 9;
  config.poison_freed = true;
  return config;
}

std::vector<int> Held(const KvCache& cache, int slot, HeadClass cls) {
  const PoolView& pool = cache.View(0).pools[static_cast<int>(cls)];
  std::vector<int> blocks;
  for (int b = 0; b < pool.table_stride; ++b)
    if (pool.table[slot * pool.table_stride + b] != kNoPage) blocks.push_back(b);
  return blocks;
}

TEST(KvCache, PageBytesCountsHeadsOfTheClassOverAllLayers) {
  const KvCacheConfig config = Config();
  const int64_t slice = static_cast<int64_t>(config.codec.slice_bytes());
  EXPECT_EQ(slice, 64 * 16 + 256 + 64 * 8 + 256);
  EXPECT_EQ(PageBytes(config, kR), 4 * (slice + 4 * 2 * 16 * 2));
  EXPECT_EQ(PageBytes(config, kS), 5 * slice);
}

TEST(KvCache, StatisticsThatNobodyReadsTakeNoMemory) {
  KvCacheConfig config = Config();
  config.stats.logical_tokens = 0;
  EXPECT_EQ(PageBytes(config, kR), 4 * static_cast<int64_t>(config.codec.slice_bytes()));
  KvCache cache(config);
  const int slot = cache.AllocateSlot();
  ASSERT_TRUE(cache.Extend(slot, 2 * kBlockTokens));
  for (int layer = 0; layer < static_cast<int>(config.layers.size()); ++layer)
    for (int h = 0; h < config.layers[0].num_heads(); ++h)
      EXPECT_EQ(cache.View(layer).Stats(slot, h, 1), nullptr);
  const SwappedPages pages = cache.SwapOut(slot);
  EXPECT_EQ(static_cast<int64_t>(pages.bytes.size()),
            2 * (PageBytes(config, kR) + PageBytes(config, kS)));
  EXPECT_TRUE(cache.SwapIn(slot, pages));
}

TEST(KvCache, ExtendTakesPagesOnceAndOnlyWhole) {
  KvCache cache(Config());
  const int a = cache.AllocateSlot(), b = cache.AllocateSlot();
  EXPECT_NE(a, b);
  for (int len : {0, 1, 63, 64, 65, 127, 128, 129}) {
    const int64_t needed = cache.PagesNeeded(a, len, kR), free = cache.free_pages(kR);
    EXPECT_EQ(needed, cache.PagesNeeded(a, len, kS));
    ASSERT_TRUE(cache.Extend(a, len));
    EXPECT_EQ(cache.free_pages(kR), free - needed);
    EXPECT_EQ(Held(cache, a, kR).size(), static_cast<size_t>((len + 63) / 64)) << len;
    EXPECT_EQ(cache.PagesNeeded(a, len, kR), 0);
  }
  // 6 streaming pages are left: 7 blocks do not fit, and nothing changes.
  EXPECT_FALSE(cache.Extend(b, 7 * 64));
  EXPECT_TRUE(Held(cache, b, kR).empty());
  EXPECT_TRUE(Held(cache, b, kS).empty());
  EXPECT_EQ(cache.free_pages(kR), 9);
  EXPECT_EQ(cache.free_pages(kS), 6);
  EXPECT_TRUE(cache.Extend(b, 6 * 64));
  EXPECT_EQ(cache.free_pages(kS), 0);
  EXPECT_TRUE(cache.CheckIntegrity().ok()) << cache.CheckIntegrity().ToString();
  cache.FreeSlot(a);
  cache.FreeSlot(b);
  EXPECT_EQ(cache.free_pages(kR), cache.total_pages(kR));
  EXPECT_EQ(cache.free_pages(kS), cache.total_pages(kS));
  EXPECT_TRUE(cache.CheckIntegrity().ok());
}

TEST(KvCache, SlotsRunOut) {
  KvCache cache(Config());
  std::set<int> slots;
  for (int i = 0; i < 3; ++i) slots.insert(cache.AllocateSlot());
  EXPECT_EQ(slots, (std::set<int>{0, 1, 2}));
  EXPECT_EQ(cache.AllocateSlot(), -1);
  cache.FreeSlot(1);
  EXPECT_EQ(cache.AllocateSlot(), 1);
}

TEST(KvCache, ReleasedBlocksStayReleased) {
  KvCache cache(Config());
  const int slot = cache.AllocateSlot();
  ASSERT_TRUE(cache.Extend(slot, 5 * 64));
  cache.ReleaseStreaming(slot, 2, 2);  // nothing yet
  EXPECT_EQ(Held(cache, slot, kS).size(), 5u);
  cache.ReleaseStreaming(slot, 2, 4);
  EXPECT_EQ(Held(cache, slot, kS), (std::vector<int>{0, 1, 4}));
  EXPECT_EQ(Held(cache, slot, kR).size(), 5u);
  EXPECT_EQ(cache.free_pages(kS), 6);
  ASSERT_TRUE(cache.Extend(slot, 7 * 64));
  EXPECT_EQ(Held(cache, slot, kS), (std::vector<int>{0, 1, 4, 5, 6}));
  cache.ReleaseStreaming(slot, 2, 3);  // a window does not move back
  EXPECT_EQ(Held(cache, slot, kS), (std::vector<int>{0, 1, 4, 5, 6}));
  cache.ReleaseStreaming(slot, 2, 6);
  EXPECT_EQ(Held(cache, slot, kS), (std::vector<int>{0, 1, 6}));
  EXPECT_TRUE(cache.CheckIntegrity().ok());
  // A new owner of the slot starts afresh.
  cache.FreeSlot(slot);
  ASSERT_EQ(cache.AllocateSlot(), slot);
  ASSERT_TRUE(cache.Extend(slot, 4 * 64));
  EXPECT_EQ(Held(cache, slot, kS).size(), 4u);
}

// Every byte that any (slot, head, block) may write is its own.
TEST(KvCache, SlicesDoNotOverlap) {
  const KvCacheConfig config = Config();
  KvCache cache(config);
  const int a = cache.AllocateSlot(), b = cache.AllocateSlot();
  ASSERT_TRUE(cache.Extend(a, 4 * 64));
  ASSERT_TRUE(cache.Extend(b, 3 * 64));
  struct Piece {
    std::byte* data;
    size_t size;
  };
  std::vector<Piece> pieces;
  for (size_t layer = 0; layer < config.layers.size(); ++layer) {
    const KvView view = cache.View(static_cast<int>(layer));
    for (int head = 0; head < 3; ++head)
      for (auto [slot, blocks] : {std::pair{a, 4}, {b, 3}})
        for (int block = 0; block < blocks; ++block) {
          std::byte* slice = view.Slice(slot, head, block);
          ASSERT_NE(slice, nullptr);
          EXPECT_EQ(reinterpret_cast<uintptr_t>(slice) % 64, 0u);
          pieces.push_back({slice, view.codec.slice_bytes()});
          uint16_t* stats = view.Stats(slot, head, block);
          EXPECT_EQ(stats == nullptr, view.heads->streaming(head));
          if (stats)
            pieces.push_back({reinterpret_cast<std::byte*>(stats), view.stats.slice_bytes()});
        }
  }
  for (size_t i = 0; i < pieces.size(); ++i)
    std::memset(pieces[i].data, static_cast<int>(i), pieces[i].size);
  for (size_t i = 0; i < pieces.size(); ++i)
    EXPECT_TRUE(std::all_of(pieces[i].data, pieces[i].data + pieces[i].size, [&](std::byte x) {
      return x == static_cast<std::byte>(i);
    })) << i;
  EXPECT_EQ(cache.View(0).Slice(a, 0, 4), nullptr) << "no page yet";
  EXPECT_EQ(cache.View(0).Stats(a, 0, 4), nullptr);
}

// Freed bytes are NaN.
TEST(KvCache, FreedPagesArePoisoned) {
  KvCacheConfig config = Config();
  config.codec = KvCodec(KvType::kKv16, KvType::kKv16, 16);
  KvCache cache(config);
  const int slot = cache.AllocateSlot();
  ASSERT_TRUE(cache.Extend(slot, 64));
  const KvView view = cache.View(1);
  std::vector<float> key(16, 3.0f);
  std::byte* slice = view.Slice(slot, 2, 0);
  view.codec.EncodeK(key.data(), 0, slice);
  cache.FreeSlot(slot);
  view.codec.DecodeK(slice, 0, key.data());
  for (float x : key) EXPECT_TRUE(std::isnan(x));
}

TEST(KvCache, SwapKeepsBytesStatisticsAndHoles) {
  const KvCacheConfig config = Config();
  KvCache cache(config);
  const int slot = cache.AllocateSlot();
  ASSERT_TRUE(cache.Extend(slot, 6 * 64));
  cache.ReleaseStreaming(slot, 1, 4);
  int seed = 0;
  const auto each = [&](int in_slot, auto body) {
    seed = 0;
    for (int layer = 0; layer < 3; ++layer) {
      const KvView view = cache.View(layer);
      for (int head = 0; head < 3; ++head)
        for (int block = 0; block < 6; ++block) {
          std::byte* slice = view.Slice(in_slot, head, block);
          ASSERT_EQ(slice == nullptr, view.heads->streaming(head) && block >= 1 && block < 4);
          if (slice == nullptr) continue;
          body(slice, view.codec.slice_bytes());
          if (uint16_t* stats = view.Stats(in_slot, head, block))
            body(reinterpret_cast<std::byte*>(stats), view.stats.slice_bytes());
        }
    }
  };
  each(slot, [&](std::byte* data, size_t size) { std::memset(data, ++seed, size); });
  const SwappedPages pages = cache.SwapOut(slot);
  EXPECT_EQ(pages.blocks[0], (std::vector<int32_t>{0, 1, 2, 3, 4, 5}));
  EXPECT_EQ(pages.blocks[1], (std::vector<int32_t>{0, 4, 5}));
  EXPECT_EQ(static_cast<int64_t>(pages.bytes.size()),
            6 * PageBytes(config, kR) + 3 * PageBytes(config, kS));
  cache.FreeSlot(slot);
  EXPECT_EQ(cache.free_pages(kR), cache.total_pages(kR));
  EXPECT_EQ(cache.free_pages(kS), cache.total_pages(kS));

  // Others took the slot and most pages meanwhile.
  const int first = cache.AllocateSlot(), second = cache.AllocateSlot();
  EXPECT_EQ(first, slot);
  ASSERT_TRUE(cache.Extend(first, 7 * 64));
  EXPECT_FALSE(cache.SwapIn(second, pages)) << "5 of 6 retrieval pages are free";
  EXPECT_EQ(cache.free_pages(kR), 5);
  EXPECT_TRUE(Held(cache, second, kR).empty());
  cache.FreeSlot(first);
  ASSERT_TRUE(cache.SwapIn(second, pages));
  each(second, [&](std::byte* data, size_t size) {
    const std::byte wanted{static_cast<unsigned char>(++seed)};
    ASSERT_TRUE(std::all_of(data, data + size, [&](std::byte x) { return x == wanted; })) << seed;
  });
  // What was released is not asked for again, and the window goes on.
  EXPECT_EQ(cache.PagesNeeded(second, 7 * 64, kS), 1);
  ASSERT_TRUE(cache.Extend(second, 7 * 64));
  cache.ReleaseStreaming(second, 1, 5);
  EXPECT_EQ(Held(cache, second, kS), (std::vector<int>{0, 5, 6}));
  EXPECT_TRUE(cache.CheckIntegrity().ok());
}

TEST(KvCache, IntegrityCheckFindsDamage) {
  const auto damaged = [](auto damage) {
    KvCache cache(Config());
    const int slot = cache.AllocateSlot();
    CHECK(cache.Extend(slot, 3 * 64));
    int32_t* table = const_cast<int32_t*>(cache.View(0).pools[0].table);
    damage(table);
    const Status status = cache.CheckIntegrity();
    const std::string message = status.ok() ? "ok" : status.message();
    // Pages that the tables no longer name cannot be dropped; the cache is thrown away as it is.
    return message;
  };
  EXPECT_EQ(damaged([](int32_t*) {}), "ok");
  EXPECT_NE(damaged([](int32_t* t) { t[1] = t[0]; }).find("retrieval pool: page 0 has 1 owners"),
            std::string::npos);
  EXPECT_NE(
      damaged([](int32_t* t) { t[2] = kNoPage; }).find("page 2 has 1 owners, the tables name it 0"),
      std::string::npos);
  EXPECT_NE(damaged([](int32_t* t) { t[3] = 11; }).find("page 11 has 0 owners"), std::string::npos);
  EXPECT_NE(damaged([](int32_t* t) { t[3] = 12; }).find("names page 12 of 12"), std::string::npos);
  EXPECT_NE(damaged([](int32_t* t) { t[10] = 5; }).find("free slot 1 holds page 5"),
            std::string::npos);
}

// Models without streaming heads have no streaming memory, and their sequences are as free as
// others.
TEST(KvCache, ClassesThatNoLayerHas) {
  KvCacheConfig config = Config();
  config.layers = {HeadMap({kR, kR})};
  EXPECT_EQ(PageBytes(config, kS), 0);
  KvCache cache(config);
  const int slot = cache.AllocateSlot();
  ASSERT_TRUE(cache.Extend(slot, 3 * 64));
  const SwappedPages pages = cache.SwapOut(slot);
  EXPECT_TRUE(cache.SwapIn(slot, pages));
  EXPECT_TRUE(cache.CheckIntegrity().ok());
}

}  // namespace
}  // namespace lserve
