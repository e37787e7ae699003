#include "kv/page_pool.h"

#include <gtest/gtest.h>

#include <set>

namespace lserve {
namespace {

TEST(PagePool, HandsOutEachPageOnce) {
  PagePool pool(5);
  std::set<int32_t> pages;
  for (int i = 0; i < 5; ++i) pages.insert(pool.Allocate());
  EXPECT_EQ(pages, (std::set<int32_t>{0, 1, 2, 3, 4}));
  EXPECT_EQ(pool.free(), 0);
  EXPECT_TRUE(pool.DropOwner(3));
  EXPECT_EQ(pool.free(), 1);
  EXPECT_EQ(pool.Allocate(), 3);
}

TEST(PagePool, IsFreeWhenTheLastOwnerLeaves) {
  PagePool pool(2);
  const int32_t page = pool.Allocate();
  pool.AddOwner(page);
  EXPECT_FALSE(pool.DropOwner(page));
  EXPECT_EQ(pool.free(), 1);
  EXPECT_TRUE(pool.DropOwner(page));
  EXPECT_EQ(pool.free(), 2);
}

TEST(PagePool, CountsIdlePages) {
  PagePool pool(2);
  const int32_t page = pool.Allocate();
  pool.Hold(page);
  EXPECT_EQ(pool.idle(), 0);
  EXPECT_FALSE(pool.DropOwner(page));
  EXPECT_EQ(pool.idle(), 1);
  pool.AddOwner(page);
  EXPECT_EQ(pool.idle(), 0);
  EXPECT_FALSE(pool.Unhold(page));
  pool.Hold(page);
  EXPECT_FALSE(pool.DropOwner(page));
  EXPECT_TRUE(pool.Unhold(page));
  EXPECT_EQ(pool.idle(), 0);
  EXPECT_EQ(pool.free(), 2);
}

TEST(PagePool, CheckComparesWithTheTables) {
  PagePool pool(3);
  const int32_t a = pool.Allocate(), b = pool.Allocate();
  pool.AddOwner(b);
  std::vector<int32_t> owners(3);
  owners[static_cast<size_t>(a)] = 1;
  owners[static_cast<size_t>(b)] = 2;
  EXPECT_TRUE(pool.Check(owners).ok()) << pool.Check(owners).ToString();
  owners[static_cast<size_t>(b)] = 1;
  const Status status = pool.Check(owners);
  EXPECT_EQ(status.code(), Code::kInternal);
  EXPECT_NE(status.message().find(fmt::format("page {} has 2 owners", b)), std::string::npos)
      << status.ToString();
}

TEST(PagePoolDeathTest, BrokenPromises) {
  PagePool pool(1);
  EXPECT_DEATH(pool.DropOwner(0), "owners");
  EXPECT_DEATH(pool.AddOwner(0), "owners > 0");
  pool.Allocate();
  EXPECT_DEATH(pool.Allocate(), "free_");
}

}  // namespace
}  // namespace lserve
