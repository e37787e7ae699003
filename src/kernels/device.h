// A GPU as the model runner sees it: its memory, the ops of the forward pass over that memory, and
// recorded graphs of them. Implemented by the CUDA backend, a shared library that OpenDevice loads
// at run time, so that one program serves machines with and without an NVIDIA driver.
//
// One thread, the engine's. Ops are asynchronous and in order; nothing waits but CopyOut,
// Synchronize and Elapsed. An op cannot fail by itself: the first failure of the device is kept,
// everything after it does nothing, and Synchronize returns it. All pointers are device
// memory.
#pragma once

#include <memory>
#include <string>

#include "core/memory.h"
#include "core/status.h"
#include "kernels/cuda/args.h"
#include "plan/kv_codec.h"

namespace lserve {

struct DeviceInfo {
  std::string name;  // "NVIDIA H100 80GB HBM3"
  int compute = 0;   // capability, 90 for Hopper
  int multiprocessors = 0;
  size_t total_bytes = 0, free_bytes = 0;
};

using cuda::MatmulArgs;

class Device : public Memory {
 public:
  bool host() const final { return false; }
  virtual DeviceInfo info() const = 0;
  // What the kernels cannot store or read is named in the error, with what would work.
  virtual Status Supports(const KvCodec& codec, int group) const = 0;
  virtual int PrefillTile(int dim, int group) const = 0;
  virtual size_t PrefillWorkspace(int num_tiles, const PlanShape& shape) const = 0;
  virtual size_t DecodeWorkspace(int num_tiles, const PlanShape& shape, int dim) const = 0;
  virtual size_t SelectWorkspace(int num_rows, int q_heads, int max_blocks,
                                 PageScore score) const = 0;
  virtual size_t CandidateWorkspace(int num_asks, int cols) const = 0;

  virtual void Embed(const uint16_t* table, const int32_t* ids, int rows, int cols, float* out) = 0;
  // out bf16 or, wide, float; row r reads x row from[r], or r where from is null.
  virtual void RmsNorm(const float* x, const int32_t* from, const float* weight, float eps,
                       int rows, int cols, void* out, bool wide) = 0;
  virtual void Matmul(const MatmulArgs& args) = 0;
  // out[n][rows / 2] = silu(x w_gate^T) * (x w_up^T) in bf16, gate and up one below the other in
  // args.w; args.y is scratch [n][rows] in bf16.
  virtual void SwiGlu(const MatmulArgs& args, uint16_t* out) = 0;
  virtual void Append(const cuda::AppendLaunch& args) = 0;
  virtual void Gather(const cuda::GatherLaunch& args) = 0;
  virtual void Select(const cuda::SelectLaunch& args) = 0;
  virtual void DecodePlan(const cuda::DecodePlanLaunch& args) = 0;
  virtual void Prefill(const cuda::PrefillArgs& args) = 0;
  virtual void Decode(const cuda::DecodeArgs& args) = 0;
  // best[r]: index of the largest logit, the smaller index of equals.
  virtual void Argmax(const float* logits, int rows, int cols, int32_t* best) = 0;
  virtual void Candidates(const cuda::CandidateLaunch& args) = 0;

  // Small helpers: conversions, and bf16 numbers of a normal distribution from a seed.
  virtual void ToBf16(const float* from, int64_t count, uint16_t* to) = 0;
  virtual void ToFloat(const uint16_t* from, int64_t count, float* to) = 0;
  virtual void SiluMulWide(const float* gate, const float* up, int64_t count, float* out) = 0;
  virtual void FillNormal(uint16_t* out, int64_t count, float deviation, uint64_t seed) = 0;

  // Graphs. Between Begin and End, ops are recorded and not run; no copies, no new shapes of Matmul
  // (their first use measures candidates). Graph numbers are never used twice.
  virtual void BeginGraph() = 0;
  virtual int EndGraph() = 0;  // the graph
  virtual void RunGraph(int graph) = 0;

  // Waits for everything; the first failure since the device was opened.
  virtual Status Synchronize() = 0;
  // Milliseconds of device time between two marks; Mark is asynchronous, Elapsed waits. i in [0,
  // 64).
  virtual void Mark(int i) = 0;
  virtual double Elapsed(int begin, int end) = 0;
};

// Opens GPU `index`. Errors say what is missing and what works without it: no library or driver, a
// driver too old, a compute capability below 8.0, no such device.
Result<std::unique_ptr<Device>> OpenDevice(int index);

}  // namespace lserve
