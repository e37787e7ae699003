// The prefix cache's host memory: what comes back is what was put there, and it stays within its
// bound.
#include "kv/host_pages.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <string>

namespace lserve {
namespace {

constexpr HeadClass kR = HeadClass::kRetrieval, kS = HeadClass::kStreaming;
constexpr int64_t kPages[2] = {3000, 1000};
constexpr int64_t kSlab = 8 * 3000;

BlockHash NameOf(int number) {
  const std::string parts[] = {"test", std::to_string(number)};
  return ChainSeed(parts);
}

std::unique_ptr<HostPages> Make(int64_t slabs, const int64_t (&pages)[2] = kPages) {
  auto made = HostPages::Create(slabs * kSlab, pages, &HostMemory());
  EXPECT_TRUE(made.ok()) << made.status().ToString();
  return std::move(*made);
}

// A page whose bytes are a function of its number and class. Whether it was copied.
bool Put(HostPages* host, int number, HeadClass cls, uint64_t used) {
  std::byte* to = host->Add(NameOf(number), number, cls, used);
  if (to == nullptr) return false;
  std::memset(to, number * 2 + static_cast<int>(cls),
              static_cast<size_t>(kPages[static_cast<int>(cls)]));
  return true;
}

bool Right(HostPages* host, int number, HeadClass cls, uint64_t used) {
  const std::byte* bytes = host->Load(NameOf(number), cls, used);
  if (bytes == nullptr) return false;
  const std::byte want = static_cast<std::byte>(number * 2 + static_cast<int>(cls));
  for (int64_t i = 0; i < kPages[static_cast<int>(cls)]; ++i)
    if (bytes[i] != want) return false;
  return true;
}

TEST(HostPages, GivesBackWhatWasPutThere) {
  const auto host = Make(4);
  for (int i = 0; i < 10; ++i) {
    EXPECT_TRUE(Put(host.get(), i, kR, 1));
    if (i % 2) {
      EXPECT_TRUE(Put(host.get(), i, kS, 1));
    }
  }
  EXPECT_FALSE(Put(host.get(), 3, kR, 1)) << "it is there";
  EXPECT_EQ(host->blocks(), 10);
  EXPECT_EQ(host->bytes(), 10 * 3000 + 5 * 1000);
  for (int i = 0; i < 10; ++i) {
    EXPECT_TRUE(Right(host.get(), i, kR, 2));
    EXPECT_EQ(host->Has(NameOf(i), kS), i % 2 == 1);
    EXPECT_EQ(host->Load(NameOf(i), kS, 2) != nullptr, i % 2 == 1);
  }
  EXPECT_FALSE(host->Has(NameOf(77), kR));
  EXPECT_EQ(host->Load(NameOf(77), kR, 2), nullptr);
  EXPECT_TRUE(host->CheckIntegrity().ok()) << host->CheckIntegrity().ToString();
}

TEST(HostPages, TheLongestUnusedGoesFirstAndOfAChainItsEnd) {
  const auto host = Make(2);  // 16 retrieval pages
  for (int i = 0; i < 16; ++i) EXPECT_TRUE(Put(host.get(), i, kR, 1));
  for (int i = 8; i < 12; ++i) host->Use(NameOf(i), 3);
  EXPECT_TRUE(Put(host.get(), 20, kR, 2));
  EXPECT_FALSE(host->Has(NameOf(15), kR)) << "of equal age, the later block";
  EXPECT_TRUE(Put(host.get(), 21, kR, 2));
  EXPECT_FALSE(host->Has(NameOf(14), kR));
  EXPECT_TRUE(host->Has(NameOf(13), kR));
  EXPECT_FALSE(Put(host.get(), 30, kR, 0)) << "all else was used later";
  EXPECT_FALSE(host->Has(NameOf(30), kR));
  EXPECT_TRUE(host->CheckIntegrity().ok()) << host->CheckIntegrity().ToString();
}

// Memory that one class no longer needs becomes the other's.
TEST(HostPages, ClassesShareTheMemory) {
  const auto host = Make(3);
  for (int i = 0; i < 24; ++i) EXPECT_TRUE(Put(host.get(), i, kR, 1));
  for (int i = 0; i < 72; ++i) EXPECT_TRUE(Put(host.get(), 100 + i % 100, kS, 2)) << i;
  EXPECT_EQ(host->bytes(), 72 * 1000);
  EXPECT_TRUE(host->CheckIntegrity().ok()) << host->CheckIntegrity().ToString();
}

TEST(HostPages, AnyOrderOfCallsKeepsItWhole) {
  std::mt19937 random(4);
  for (int round = 0; round < 30; ++round) {
    const auto host = Make(2 + round % 5);
    for (uint64_t now = 1; now < 600; ++now) {
      const int number = static_cast<int>(random() % 60);
      const HeadClass cls = random() % 2 ? kR : kS;
      switch (random() % 3) {
        case 0:
          Put(host.get(), number, cls, random() % now);
          break;
        case 1:
          host->Use(NameOf(number), now);
          break;
        default:
          EXPECT_EQ(Right(host.get(), number, cls, now), host->Has(NameOf(number), cls));
      }
      EXPECT_LE(host->bytes(), (2 + round % 5) * kSlab);
      const Status whole = host->CheckIntegrity();
      ASSERT_TRUE(whole.ok()) << whole.ToString();
    }
  }
}

TEST(HostPages, AClassThatNoLayerHasTakesNothing) {
  const int64_t pages[2] = {3000, 0};
  const auto host = Make(2, pages);
  EXPECT_NE(host->Add(NameOf(1), 1, kR, 1), nullptr);
  EXPECT_EQ(host->Add(NameOf(1), 1, kS, 1), nullptr);
  EXPECT_TRUE(host->Has(NameOf(1), kS));
  EXPECT_NE(host->Load(NameOf(1), kS, 1), nullptr);
  EXPECT_EQ(host->bytes(), 3000);
}

TEST(HostPages, ErrorsNameTheFlagAndWhatFits) {
  const int64_t large[2] = {int64_t{40} << 20, int64_t{40} << 20};
  const auto little = HostPages::Create(int64_t{64} << 20, large, &HostMemory());
  ASSERT_FALSE(little.ok());
  EXPECT_EQ(little.status().message(),
            "--prefix-cache-host-gb 0.0625: it begins at 0.631 with this model");
  const auto much = HostPages::Create(int64_t{1} << 50, large, &HostMemory());
  ASSERT_FALSE(much.ok());
  EXPECT_NE(much.status().message().find("--prefix-cache-host-gb 1.05e+06: this machine has "),
            std::string::npos)
      << much.status().message();
}

}  // namespace
}  // namespace lserve
