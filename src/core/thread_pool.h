// A fixed set of threads for data-parallel loops. A token of a small model runs through hundreds of
// short loops, so workers spin for some microseconds before they sleep, and the calling thread
// works too.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace lserve {

class ThreadPool {
 public:
  // `threads` counts the caller: ThreadPool(1) starts none. 0 means one for each core this process
  // may use.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls body(index, thread) once for every index in [0, count), in any order; thread is in [0,
  // size()). Returns when all have ended. One loop at a time, from one thread; a body must not
  // start another.
  void ParallelFor(int64_t count, const std::function<void(int64_t index, int thread)>& body);

 private:
  void Worker(int thread);
  void RunLoop(int thread);

  std::vector<std::thread> workers_;
  const std::function<void(int64_t, int)>* body_ = nullptr;
  int64_t count_ = 0;
  alignas(64) std::atomic<int64_t> next_{0};
  alignas(64) std::atomic<uint64_t> generation_{0};
  alignas(64) std::atomic<int> busy_{0};
  std::atomic<int> sleepers_{0};
  std::atomic<bool> caller_sleeps_{false};
  std::atomic<bool> stop_{false};
  std::mutex mutex_;
  std::condition_variable wake_;  // workers
  std::condition_variable done_;  // the caller
};

}  // namespace lserve
