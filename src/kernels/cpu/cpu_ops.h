// The CPU backend: packed weights, SIMD chosen at run time, work shared over a thread pool. Needs a
// quantised or bf16 KV codec and head dimensions that are multiples of 16.
//
// Arithmetic: block-quantised weights meet activations rounded to 8 bits for each 32 elements; bf16
// weights meet bf16 activations; f16 and f32 weights meet float ones; sums are float or wider.
// Attention rounds q, k, v and the probabilities to bf16 and sums in float. Every row's result is
// independent of what else is in the call: kernels keep one order over inputs, and attention merges
// segments of kSegmentBlocks blocks at absolute positions in order.
#pragma once

#include <memory>
#include <vector>

#include "core/buffer.h"
#include "kernels/cpu/isa.h"
#include "kernels/ops.h"

namespace lserve {

// Whether LSERVE_CPU_ISA names a set of instructions that this processor has; unset: always.
Status CheckCpuIsa();
// REQUIRES: CheckCpuIsa() is ok.
std::unique_ptr<Ops> MakeCpuOps(ThreadPool* pool);

namespace cpu {

// Scratch that lives between calls; grows, never shrinks.
class Scratch {
 public:
  template <typename T>
  T* Get(size_t count) {
    if (count * sizeof(T) > buffer_.size()) buffer_ = Buffer(count * sizeof(T) * 5 / 4 + 4096);
    return buffer_.as<T>();
  }

 private:
  Buffer buffer_;
};

class LinearOp {
 public:
  explicit LinearOp(ThreadPool* pool);
  void Run(Mat x, std::span<const LinearOutput> outputs);

 private:
  ThreadPool* pool_;
  Scratch codes_, scales_, sums_, bf16_;
  std::vector<Scratch> per_thread_;
};

class AttentionOp {
 public:
  explicit AttentionOp(ThreadPool* pool);
  void Run(const AttentionArgs& args);

 private:
  struct Item;
  void RunItem(const AttentionArgs& args, const Item& item, Scratch* scratch);
  void Merge(const AttentionArgs& args, const Tile& tile, const float* partials, int segments,
             Scratch* scratch);

  ThreadPool* pool_;
  Scratch partials_;
  std::vector<Scratch> per_thread_;
};

void Append(const AppendArgs& args, ThreadPool* pool);
class SelectOp {
 public:
  explicit SelectOp(ThreadPool* pool);
  void Run(const SelectArgs& args);

 private:
  ThreadPool* pool_;
  Scratch scores_;
  std::vector<Scratch> per_thread_;
};

// A slice's keys or values as bf16 pairs: where they lie if they are stored so, else decoded to
// `buffer` [64 * D].
const uint16_t* SlicePairs(const KvCodec& codec, const std::byte* slice, bool keys,
                           uint16_t* buffer);

}  // namespace cpu
}  // namespace lserve
