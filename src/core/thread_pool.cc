#include "core/thread_pool.h"

#include <sched.h>

#include <algorithm>

#include "core/check.h"

namespace lserve {
namespace {

constexpr int kSpins = 6000;  // some tens of microseconds

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

int UsableCores() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1u, std::thread::hardware_concurrency());
}

}  // namespace

ThreadPool::ThreadPool(int threads) {
  CHECK(threads >= 0);
  if (threads == 0) threads = UsableCores();
  for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { Worker(i); });
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::RunLoop(int thread) {
  for (int64_t i = next_.fetch_add(1); i < count_; i = next_.fetch_add(1)) (*body_)(i, thread);
}

void ThreadPool::ParallelFor(int64_t count, const std::function<void(int64_t, int)>& body) {
  if (count <= 1 || workers_.empty()) {
    for (int64_t i = 0; i < count; ++i) body(i, 0);
    return;
  }
  body_ = &body;
  count_ = count;
  next_.store(0);
  generation_.fetch_add(1);  // odd: workers come in
  if (sleepers_.load() > 0) {
    // No worker is between its last look at generation_ and its sleep.
    std::lock_guard lock(mutex_);
    wake_.notify_all();
  }
  RunLoop(0);
  // Even: who is not in by now stays out. All work is taken, and where other programs use the cores
  // a worker may need milliseconds to wake: nobody waits for one that has nothing to do.
  generation_.fetch_add(1);
  for (int spins = 0; busy_.load() != 0 && spins < kSpins; ++spins) Pause();
  if (busy_.load() == 0) return;
  // A worker has lost its core to another program: sleeping leaves it ours.
  std::unique_lock lock(mutex_);
  caller_sleeps_.store(true);
  done_.wait(lock, [&] { return busy_.load() == 0; });
  caller_sleeps_.store(false);
}

void ThreadPool::Worker(int thread) {
  uint64_t seen = 0;
  const auto nothing_new = [&] {
    const uint64_t generation = generation_.load();
    return generation % 2 == 0 || generation == seen;
  };
  while (true) {
    int spins = 0;
    while (nothing_new() && !stop_.load(std::memory_order_relaxed) && spins < kSpins) {
      Pause();
      ++spins;
    }
    if (nothing_new()) {
      std::unique_lock lock(mutex_);
      sleepers_.fetch_add(1);
      wake_.wait(lock, [&] { return stop_.load() || !nothing_new(); });
      sleepers_.fetch_sub(1);
      if (stop_.load()) return;
    }
    // Counted first, then a second look: the caller closes the loop first, then looks at the count.
    const uint64_t generation = generation_.load();
    busy_.fetch_add(1);
    if (generation % 2 == 1 && generation_.load() == generation) {
      RunLoop(thread);
      seen = generation;
    }
    if (busy_.fetch_sub(1) == 1 && caller_sleeps_.load()) {
      std::lock_guard lock(mutex_);
      done_.notify_one();
    }
  }
}

}  // namespace lserve
