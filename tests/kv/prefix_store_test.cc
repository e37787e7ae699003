// The files of the prefix cache: what comes back is what was written, or nothing.
#include "kv/prefix_store.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <random>

namespace lserve {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kPages[2] = {3000, 1000};

BlockHash NameOf(uint64_t number) {
  const std::string parts[] = {"test", std::to_string(number)};
  return ChainSeed(parts);
}

// Its contents are a function of its number.
StoredBlock Make(uint64_t number) {
  StoredBlock block;
  block.name = NameOf(number);
  block.before = NameOf(number - 1);
  block.block = static_cast<int32_t>(number);
  block.dense = number % 3 == 0;
  std::mt19937_64 random(number);
  for (int k : {0, 1}) {
    if (k == 1 && number % 4 == 0) continue;  // its streaming page was gone
    block.pages[k].resize(static_cast<size_t>(kPages[k]));
    for (std::byte& b : block.pages[k]) b = static_cast<std::byte>(random());
  }
  return block;
}

void ExpectEqual(const std::optional<StoredBlock>& a, const StoredBlock& b) {
  ASSERT_TRUE(a.has_value());
  EXPECT_EQ(a->name, b.name);
  EXPECT_EQ(a->before, b.before);
  EXPECT_EQ(a->block, b.block);
  EXPECT_EQ(a->dense, b.dense);
  for (int k : {0, 1}) EXPECT_TRUE(a->pages[k] == b.pages[k]);
}

class PrefixStoreTest : public ::testing::Test {
 protected:
  void SetUp() override {
    directory_ = fs::path(::testing::TempDir()) / ("lserve-store-" + std::to_string(getpid()));
    fs::remove_all(directory_);
  }
  void TearDown() override { fs::remove_all(directory_); }
  std::unique_ptr<PrefixStore> Open(int64_t limit = 1 << 30) {
    auto store = PrefixStore::Open(directory_.string(), limit, kPages);
    EXPECT_TRUE(store.ok()) << store.status().ToString();
    return std::move(*store);
  }
  fs::path OnlyFile() {
    fs::path found;
    for (const auto& file : fs::directory_iterator(directory_)) found = file.path();
    return found;
  }
  fs::path directory_;
};

TEST_F(PrefixStoreTest, KeepsBlocksOverARestart) {
  {
    auto store = Open();
    for (uint64_t i = 1; i <= 20; ++i) store->Write(Make(i), 1);
    store->Flush();
    for (uint64_t i = 1; i <= 20; ++i) ExpectEqual(store->Read(NameOf(i), 2), Make(i));
    EXPECT_FALSE(store->Has(NameOf(21)));
    EXPECT_FALSE(store->Read(NameOf(21), 2).has_value());
  }
  auto store = Open();
  EXPECT_GT(store->bytes(), 20 * 3000);
  for (uint64_t i = 1; i <= 20; ++i) ExpectEqual(store->Read(NameOf(i), 1), Make(i));
}

// As a tier: page by page, and what was gone is known without reading.
TEST_F(PrefixStoreTest, TellsWhichPagesABlockHas) {
  auto store = Open();
  for (uint64_t i : {1, 4}) store->Write(Make(i), 1);  // 4 has no streaming page
  store->Flush();
  const auto right = [&](uint64_t i, HeadClass cls) {
    const std::byte* page = store->Load(NameOf(i), cls, 2);
    const std::vector<std::byte> want = Make(i).pages[static_cast<int>(cls)];
    return page != nullptr && std::equal(want.begin(), want.end(), page);
  };
  for (uint64_t i : {1, 4}) {
    EXPECT_TRUE(store->Has(NameOf(i), HeadClass::kRetrieval));
    EXPECT_TRUE(right(i, HeadClass::kRetrieval));
  }
  EXPECT_TRUE(store->Has(NameOf(1), HeadClass::kStreaming));
  EXPECT_TRUE(right(1, HeadClass::kStreaming));
  EXPECT_FALSE(store->Has(NameOf(4), HeadClass::kStreaming));
  EXPECT_EQ(store->Load(NameOf(4), HeadClass::kStreaming, 2), nullptr);
  EXPECT_FALSE(store->Has(NameOf(7), HeadClass::kRetrieval));
  EXPECT_EQ(store->Load(NameOf(7), HeadClass::kRetrieval, 2), nullptr);
}

TEST_F(PrefixStoreTest, AClassThatNoLayerHasNeedsNoBytes) {
  const int64_t pages[2] = {3000, 0};
  auto store = PrefixStore::Open(directory_.string(), 1 << 30, pages);
  ASSERT_TRUE(store.ok());
  StoredBlock block = Make(1);
  block.pages[1].clear();
  (*store)->Write(block, 1);
  (*store)->Flush();
  EXPECT_TRUE((*store)->Has(NameOf(1), HeadClass::kStreaming));
  EXPECT_NE((*store)->Load(NameOf(1), HeadClass::kStreaming, 1), nullptr);
}

TEST_F(PrefixStoreTest, WhatIsQueuedIsWrittenAtTheEnd) {
  {
    auto store = Open();
    for (uint64_t i = 1; i <= 200; ++i) store->Write(Make(i), 1);
  }
  auto store = Open();
  for (uint64_t i = 1; i <= 200; ++i) ExpectEqual(store->Read(NameOf(i), 1), Make(i));
}

// Every length it may be cut off at around the borders of its parts, and every part damaged.
TEST_F(PrefixStoreTest, DamagedFilesAreSkippedAndForgotten) {
  std::mt19937 random(3);
  const auto damage = [&](const std::function<void(std::string*)>& change) {
    fs::remove_all(directory_);
    {
      auto store = Open();
      store->Write(Make(1), 1);
    }
    const fs::path path = OnlyFile();
    std::ifstream in(path, std::ios::binary);
    std::string bytes((std::istreambuf_iterator<char>(in)), {});
    const std::string before = bytes;
    in.close();
    change(&bytes);
    if (bytes == before) return;
    std::ofstream(path, std::ios::binary) << bytes;
    auto store = Open();
    EXPECT_TRUE(store->Has(NameOf(1)));
    EXPECT_FALSE(store->Read(NameOf(1), 1).has_value());
    EXPECT_FALSE(store->Has(NameOf(1)));
    EXPECT_EQ(store->bytes(), 0);
    EXPECT_FALSE(fs::exists(path));
  };
  for (size_t length : {0, 1, 7, 8, 40, 103, 104, 120, 135, 136, 137, 3000, 3135, 3136, 4135})
    damage([&](std::string* bytes) { bytes->resize(length); });
  damage([](std::string* bytes) { bytes->push_back(0); });
  for (size_t at = 0; at < 136; ++at) damage([&](std::string* bytes) { (*bytes)[at] ^= 1; });
  for (int i = 0; i < 50; ++i)
    damage([&](std::string* bytes) {
      (*bytes)[random() % bytes->size()] ^= static_cast<char>(1 << random() % 8);
    });
}

TEST_F(PrefixStoreTest, AnothersPagesAreSkipped) {
  Open()->Write(Make(1), 1);
  const int64_t other[2] = {2000, 1000};
  auto store = PrefixStore::Open(directory_.string(), 1 << 30, other);
  ASSERT_TRUE(store.ok());
  EXPECT_FALSE((*store)->Read(NameOf(1), 1).has_value());
}

TEST_F(PrefixStoreTest, ForeignFilesAreLeftAlone) {
  fs::create_directories(directory_ / "directory.lskv");
  for (const char* name : {"notes.txt", "abc.lskv", "zz-1.lskv", "x.tmp"})
    std::ofstream(directory_ / name) << "mine";
  auto store = Open();
  EXPECT_EQ(store->bytes(), 0);
  for (const char* name : {"notes.txt", "abc.lskv", "zz-1.lskv", "x.tmp", "directory.lskv"})
    EXPECT_TRUE(fs::exists(directory_ / name)) << name;
}

TEST_F(PrefixStoreTest, IsBoundedAndLosesTheLongestUnusedFirst) {
  constexpr int64_t kLimit = 40 * 4136;
  auto store = Open(kLimit);
  for (uint64_t i = 1; i <= 30; ++i) store->Write(Make(i), 1);
  store->Flush();
  for (uint64_t i = 1; i <= 10; ++i) store->Use(NameOf(i), 5);
  for (uint64_t i = 101; i <= 125; ++i) store->Write(Make(i), 6);
  store->Flush();
  EXPECT_LE(store->bytes(), kLimit);
  for (uint64_t i = 1; i <= 10; ++i) EXPECT_TRUE(store->Has(NameOf(i))) << i;
  EXPECT_FALSE(store->Has(NameOf(30))) << "of equal age, the later blocks of a prompt go first";
  int64_t files = 0;
  for (const auto& file : fs::directory_iterator(directory_))
    files += static_cast<int64_t>(file.file_size());
  EXPECT_EQ(files, store->bytes());
  store.reset();
  EXPECT_LE(Open(kLimit / 4)->bytes(), kLimit / 4) << "a smaller limit holds from the start on";
}

TEST_F(PrefixStoreTest, ADirectoryThatCannotBeIsAnError) {
  std::ofstream(directory_) << "a file";
  const auto store = PrefixStore::Open(directory_.string(), 1 << 30, kPages);
  ASSERT_FALSE(store.ok());
  EXPECT_NE(store.status().message().find("--prefix-cache-dir " + directory_.string()),
            std::string::npos);
}

// Killed in the middle of writing, a hundred times: what is read afterwards is whole.
TEST_F(PrefixStoreTest, SurvivesBeingKilled) {
  uint64_t written = 0, read = 0;
  for (int round = 0; round < 100; ++round) {
    int pipe_ends[2];
    ASSERT_EQ(pipe(pipe_ends), 0);
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      auto store = PrefixStore::Open(directory_.string(), 1 << 30, kPages);
      for (uint64_t i = 1; store.ok(); ++i) {
        while (!(*store)->ready()) (*store)->Flush();
        (*store)->Write(Make(static_cast<uint64_t>(round) * 1000 + i % 500), 1);
        if (i != static_cast<uint64_t>(round % 37) + 1) continue;
        (*store)->Flush();  // so many are there; it goes on writing when the signal comes
        if (write(pipe_ends[1], "x", 1) != 1) break;
      }
      _exit(1);
    }
    char byte;
    ASSERT_EQ(::read(pipe_ends[0], &byte, 1), 1);
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    close(pipe_ends[0]);
    close(pipe_ends[1]);
    auto store = Open();
    for (uint64_t i = 0; i < 500; ++i) {
      const uint64_t number = static_cast<uint64_t>(round) * 1000 + i;
      if (!store->Has(NameOf(number))) continue;
      ++written;
      const auto block = store->Read(NameOf(number), 1);
      if (!block) continue;
      ++read;
      ExpectEqual(block, Make(number));
      if (HasFatalFailure()) return;
    }
  }
  EXPECT_GT(written, 100u);
  EXPECT_EQ(read, written) << "renaming is atomic: no cut-off file has a block's name";
}

}  // namespace
}  // namespace lserve
