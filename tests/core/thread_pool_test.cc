#include "core/thread_pool.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <numeric>
#include <set>
#include <string>
#include <vector>

namespace lserve {
namespace {

class ThreadPoolTest : public ::testing::TestWithParam<int> {};

TEST_P(ThreadPoolTest, CallsEveryIndexOnce) {
  ThreadPool pool(GetParam());
  EXPECT_EQ(pool.size(), GetParam());
  for (int64_t count : {0, 1, 2, 3, 7, 64, 1000, 100000}) {
    std::vector<std::atomic<int>> calls(static_cast<size_t>(count));
    std::atomic<bool> thread_in_range = true;
    pool.ParallelFor(count, [&](int64_t i, int thread) {
      ++calls[static_cast<size_t>(i)];
      if (thread < 0 || thread >= pool.size()) thread_in_range = false;
    });
    EXPECT_TRUE(thread_in_range);
    for (int64_t i = 0; i < count; ++i) ASSERT_EQ(calls[static_cast<size_t>(i)], 1) << count;
  }
}

// Loops follow each other at once and change size; everything a loop wrote is seen after it.
TEST_P(ThreadPoolTest, ManyShortLoops) {
  ThreadPool pool(GetParam());
  std::vector<int64_t> values(97);
  for (int loop = 0; loop < 1000; ++loop) {
    pool.ParallelFor(loop % 97, [&](int64_t i, int) { values[static_cast<size_t>(i)] += 1; });
  }
  for (int64_t i = 0; i < 97; ++i) {
    int64_t expected = 0;
    for (int loop = 0; loop < 1000; ++loop) expected += i < loop % 97;
    ASSERT_EQ(values[static_cast<size_t>(i)], expected) << i;
  }
}

// A thread's number is its own while a loop runs: scratch memory indexed by it needs no lock.
TEST_P(ThreadPoolTest, ThreadNumbersAreExclusive) {
  ThreadPool pool(GetParam());
  std::vector<std::atomic<int>> inside(static_cast<size_t>(pool.size()));
  std::atomic<int> clashes = 0;
  std::vector<int64_t> sums(static_cast<size_t>(pool.size()) * 16);
  pool.ParallelFor(50000, [&](int64_t i, int thread) {
    if (inside[static_cast<size_t>(thread)].fetch_add(1) != 0) ++clashes;
    sums[static_cast<size_t>(thread) * 16] += i;
    inside[static_cast<size_t>(thread)].fetch_sub(1);
  });
  EXPECT_EQ(clashes, 0);
  EXPECT_EQ(std::accumulate(sums.begin(), sums.end(), int64_t{0}), int64_t{50000} * 49999 / 2);
}

INSTANTIATE_TEST_SUITE_P(Threads, ThreadPoolTest, ::testing::Values(1, 2, 3, 5));

TEST(ThreadPool, ZeroMeansTheCoresThatMayBeUsed) { EXPECT_GE(ThreadPool(0).size(), 1); }

TEST(ThreadPool, IsMadeAndEndedWithoutWork) {
  for (int i = 0; i < 50; ++i) ThreadPool pool(3);
}

// Idle workers go to sleep after a while and must wake for the next loop.
TEST(ThreadPool, WakesSleepers) {
  ThreadPool pool(3);
  for (int round = 0; round < 5; ++round) {
    // Long past the spinning phase without a clock: this thread works alone.
    volatile int64_t sink = 0;
    for (int64_t i = 0; i < 20000000; ++i) sink = sink + i;
    std::atomic<int64_t> sum = 0;
    pool.ParallelFor(100, [&](int64_t i, int) { sum += i; });
    EXPECT_EQ(sum, 4950);
  }
}

// What a worker that has lost its core looks like to the others: stopped inside a signal handler.
std::atomic<bool> g_stopped{false}, g_go_on{false};
void StopHere(int) {
  g_stopped = true;
  while (!g_go_on) {
  }
}

std::set<std::string> Threads() {
  std::set<std::string> ids;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/task"))
    ids.insert(entry.path().filename().string());
  return ids;
}

TEST(ThreadPool, DoesNotWaitForAWorkerThatIsNotInTheLoop) {
  g_stopped = g_go_on = false;
  const std::set<std::string> before = Threads();
  ThreadPool pool(2);
  pool.ParallelFor(100, [](int64_t, int) {});
  std::string worker;
  for (const std::string& id : Threads())
    if (!before.contains(id)) worker = id;
  ASSERT_FALSE(worker.empty());
  struct sigaction stop = {}, old = {};
  stop.sa_handler = StopHere;
  ASSERT_EQ(sigaction(SIGUSR1, &stop, &old), 0);
  ASSERT_EQ(syscall(SYS_tgkill, getpid(), std::stoi(worker), SIGUSR1), 0);
  while (!g_stopped) sched_yield();
  int64_t sum = 0;  // of this thread alone
  for (int loop = 0; loop < 100; ++loop) pool.ParallelFor(100, [&](int64_t i, int) { sum += i; });
  EXPECT_EQ(sum, 100 * 4950);
  g_go_on = true;
  std::atomic<int64_t> both = 0;
  pool.ParallelFor(1000, [&](int64_t i, int) { both += i; });
  EXPECT_EQ(both, 499500);
  sigaction(SIGUSR1, &old, nullptr);
}

}  // namespace
}  // namespace lserve
