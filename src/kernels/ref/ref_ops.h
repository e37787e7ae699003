// The reference backend: every op as its formula reads, in plain loops with double accumulators,
// never optimised. It is the oracle of the other backends and runs real models slowly. It stores
// and reads every codec, kv32 included, and walks every plan that Validate accepts.
//
// Weights stay in the precision they are stored in and are dequantised one row at a time. Threads
// share independent rows, heads and tiles; no sum is ever split over threads, so results do not
// depend on how many there are.
//
// Formulas: ops.h states each op; selection is A12.g of the design (group score) and A7 (single
// heads), attention the softmax over the keys that the plan makes visible.
#pragma once

#include <memory>

#include "kernels/ops.h"

namespace lserve {

// The pool must outlive the Ops.
std::unique_ptr<Ops> MakeRefOps(ThreadPool* pool);

namespace ref {

// One function an op, one file a function group; RefOps forwards to them.
Result<std::unique_ptr<Weight>> Prepare(const TensorView& tensor, bool to_bf16);
void Embed(const Weight& table, std::span<const int32_t> ids, Mat out, ThreadPool* pool);
void Linear(Mat x, std::span<const LinearOutput> outputs, ThreadPool* pool);
void RmsNorm(Mat x, const float* weight, float eps, Mat out, ThreadPool* pool);
void SiluMul(Mat gate, Mat up, Mat out, ThreadPool* pool);
void Append(const AppendArgs& args, ThreadPool* pool);
void Select(const SelectArgs& args, ThreadPool* pool);
void Attention(const AttentionArgs& args, ThreadPool* pool);

}  // namespace ref
}  // namespace lserve
