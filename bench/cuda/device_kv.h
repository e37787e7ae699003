// What the benchmarks of the CUDA kernels share: device memory, and paged keys and values in the
// host's and the device's memory at the same places, so that a host reference and a kernel read the
// same bytes. Bytes that nobody wrote are all ones: NaN in every 16-bit float.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <span>
#include <thread>
#include <vector>

#include "core/dtype.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/to_device.h"
#include "plan/attn_plan.h"

namespace lserve::bench {

inline void Ok(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
  std::exit(1);
}

template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(size_t n) : n_(n) {
    Ok(cudaMalloc(&data_, std::max<size_t>(1, n) * sizeof(T)), "cudaMalloc");
    Ok(cudaMemset(data_, 0xff, n * sizeof(T)), "cudaMemset");
  }
  explicit DeviceArray(std::span<const T> host) : DeviceArray(host.size()) { Set(host); }
  explicit DeviceArray(const std::vector<T>& host) : DeviceArray(std::span<const T>(host)) {}
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  ~DeviceArray() { cudaFree(data_); }
  T* get() const { return data_; }
  size_t size() const { return n_; }
  void Set(std::span<const T> host) {
    Ok(cudaMemcpy(data_, host.data(), host.size_bytes(), cudaMemcpyHostToDevice), "copy in");
  }
  std::vector<T> Host() const {
    std::vector<T> out(n_);
    Ok(cudaMemcpy(out.data(), data_, n_ * sizeof(T), cudaMemcpyDeviceToHost), "copy out");
    return out;
  }

 private:
  T* data_ = nullptr;
  size_t n_;
};

using Random = std::mt19937;

inline std::vector<uint16_t> RandomBf16(size_t n, float deviation, Random* random) {
  std::normal_distribution<float> normal(0, deviation);
  std::vector<uint16_t> out(n);
  for (uint16_t& x : out) x = ToBf16(normal(*random));
  return out;
}

// Pages of one layer for `slots` sequences of up to `blocks` blocks, page ids in random order, both
// classes of heads. Fill `pages` and `stats` through view(), then Upload.
class PagedKv {
 public:
  PagedKv(KvCodec codec, HeadMap heads, int slots, int blocks, KeyStats stats, Random* random)
      : heads_(std::move(heads)) {
    view_.codec = codec;
    view_.stats = stats;
    const size_t pages = static_cast<size_t>(slots) * static_cast<size_t>(blocks);
    for (HeadClass cls : {HeadClass::kRetrieval, HeadClass::kStreaming}) {
      const size_t i = static_cast<size_t>(cls),
                   heads_here = static_cast<size_t>(heads_.count(cls));
      if (heads_here == 0) continue;
      PoolView& pool = view_.pools[i];
      pool.page_bytes = static_cast<int64_t>(heads_here * codec.slice_bytes());
      pool.stats_page_elements = static_cast<int64_t>(heads_here * view_.stats.slice_bytes() / 2);
      pool.table_stride = blocks;
      pages_[i].assign(pages * static_cast<size_t>(pool.page_bytes), std::byte{0xff});
      stats_[i].assign(pages * static_cast<size_t>(pool.stats_page_elements), 0xffff);
      table_[i].resize(pages);
      for (size_t p = 0; p < pages; ++p) table_[i][p] = static_cast<int32_t>(p);
      std::shuffle(table_[i].begin(), table_[i].end(), *random);
      pool.pages = pages_[i].data(), pool.stats = stats_[i].data(), pool.table = table_[i].data();
    }
  }
  KvView view() {
    view_.heads = &heads_;
    return view_;
  }
  cuda::DeviceView Upload() {
    KvView view = this->view();
    for (size_t i : {0u, 1u}) {
      if (pages_[i].empty()) continue;
      device_pages_[i] = std::make_unique<DeviceArray<std::byte>>(pages_[i]);
      device_stats_[i] = std::make_unique<DeviceArray<uint16_t>>(stats_[i]);
      device_table_[i] = std::make_unique<DeviceArray<int32_t>>(table_[i]);
      view.pools[i].pages = device_pages_[i]->get();
      view.pools[i].stats = device_stats_[i]->get();
      view.pools[i].table = device_table_[i]->get();
    }
    return cuda::ToDevice(view);
  }

 private:
  HeadMap heads_;
  KvView view_;
  std::vector<std::byte> pages_[2];
  std::vector<uint16_t> stats_[2];
  std::vector<int32_t> table_[2];
  std::unique_ptr<DeviceArray<std::byte>> device_pages_[2];
  std::unique_ptr<DeviceArray<uint16_t>> device_stats_[2];
  std::unique_ptr<DeviceArray<int32_t>> device_table_[2];
};

// body(i) for i in [0, n) over all processors.
template <class Body>
void Parallel(size_t n, Body body) {
  const size_t workers = std::max(1u, std::thread::hardware_concurrency());
  std::vector<std::thread> threads;
  for (size_t w = 0; w < workers; ++w)
    threads.emplace_back([=] {
      for (size_t i = w; i < n; i += workers) body(i);
    });
  for (std::thread& t : threads) t.join();
}

// Median milliseconds of one replay of what `work` puts on the stream, captured as a graph.
template <class Work>
float GraphTime(Work work, int replays) {
  Ok(cudaDeviceSynchronize(), "what was filled before");
  cudaStream_t stream;
  Ok(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
  Ok(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
  work(stream);
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  Ok(cudaStreamEndCapture(stream, &graph), "capture");
  Ok(cudaGraphInstantiate(&exec, graph, 0), "graph");
  cudaEvent_t begin, end;
  Ok(cudaEventCreate(&begin), "event");
  Ok(cudaEventCreate(&end), "event");
  std::vector<float> times;
  for (int i = 0; i < replays + 2; ++i) {
    Ok(cudaEventRecord(begin, stream), "record");
    Ok(cudaGraphLaunch(exec, stream), "graph launch");
    Ok(cudaEventRecord(end, stream), "record");
    Ok(cudaEventSynchronize(end), "graph replay");
    float ms = 0;
    Ok(cudaEventElapsedTime(&ms, begin, end), "elapsed");
    if (i >= 2) times.push_back(ms);
  }
  Ok(cudaGraphExecDestroy(exec), "destroy");
  Ok(cudaGraphDestroy(graph), "destroy");
  Ok(cudaStreamDestroy(stream), "destroy");
  std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2),
                   times.end());
  return times[times.size() / 2];
}

}  // namespace lserve::bench
