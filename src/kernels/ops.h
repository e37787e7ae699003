// Every op that the forward pass is made of, once, as data in and data out. A backend implements
// Ops; `ref` is the oracle of the others. Activations are float, row-major. All calls come from one
// thread, the engine's; a backend parallelises inside.
#pragma once

#include <memory>
#include <span>
#include <string_view>

#include "core/status.h"
#include "core/tensor.h"
#include "core/thread_pool.h"
#include "plan/attn_plan.h"
#include "plan/kv_view.h"
#include "plan/page_score.h"

namespace lserve {

// A matrix [rows = outputs][cols = inputs] in the backend's own layout, made by Ops::Prepare; holds
// its own memory, in the precision it was stored in.
class Weight {
 public:
  virtual ~Weight() = default;
  virtual int rows() const = 0;
  virtual int cols() const = 0;
  virtual size_t bytes() const = 0;
};

// y = x W^T + bias; with `accumulate` y += x W^T + bias.
struct LinearOutput {
  const Weight* weight = nullptr;
  const float* bias = nullptr;  // [rows] or null
  Mat y;                        // [x.rows][weight->rows()]
  bool accumulate = false;
};

// Rotates q and k, stores k and v, and makes the statistics of full logical pages. Tokens of one
// sequence are consecutive and ascending.
struct AppendArgs {
  Mat q;     // [tokens][q heads * D], rotated in place
  Mat k, v;  // [tokens][kv heads * D]; k is rotated in place
  Mat rope;  // [tokens][D]: D/2 cosines, then D/2 sines; half-split rotation: (x1, x2) -> (x1 c -
             // x2 s, x2 c + x1 s)
  std::span<const int32_t> seq;  // [tokens] sequence slot
  std::span<const int32_t>
      pos;  // [tokens] absolute position; the page of its block is in the table
  KvView view;
};

// One list to choose: the `k` best blocks of [first_block, end_block), all closed, for query heads
// [head, head + heads) of one KV head.
struct SelectJob {
  int32_t seq, row;     // sequence slot; row of q
  int32_t head, heads;  // heads == group size: one list shared by the group (A12.g); 1: a list a
                        // query head (A7)
  int32_t first_block, end_block;
  int32_t k;       // blocks to choose; at least end_block - first_block means all
  int32_t* list;   // out, capacity k: chosen blocks, ascending
  int32_t* count;  // out: min(k, end_block - first_block)
};

// Score S of a block for one head: kKeys, max of q.k as stored over its 64 keys and the last
// `reach` of the block in front, from which a head that reads on comes here before the next choice
// (not for the first ranked block); else max over its logical pages of sum_i max(q_i * min_i,
// q_i * max_i), an upper bound of every q.k in it. A shared list ranks by max over heads of (S /
// sqrt(D) - lse), lse over the ranked blocks of that head. Score descending, then block ascending.
// Backends round q to bf16 for kKeys.
struct SelectArgs {
  Mat q;  // [rows][q heads * D], rotated
  std::span<const SelectJob> jobs;
  KvView view;
  PageScore score = PageScore::kBounds;
  int reach = 0;  // tokens, at most 64; kKeys only
};

struct AttentionArgs {
  Mat q;    // [rows][q heads * D], rotated
  Mat out;  // like q
  const AttnPlan* plan = nullptr;
  KvView view;
  float scale = 0;  // usually 1 / sqrt(D)
  float* lse =
      nullptr;  // optional [rows][q heads]: log of the sum of exp(scale * q.k) over visible keys
};

class Ops {
 public:
  virtual ~Ops() = default;
  virtual std::string_view name() const = 0;
  // What this backend cannot store or read is named in the error.
  virtual Status SupportsKv(const KvCodec& codec, int group) const = 0;
  // Queries a prefill tile should have for this group size and head dimension.
  virtual int PrefillTile(int group) const = 0;

  // Packs a stored matrix. `to_bf16` converts it instead of keeping its stored type.
  virtual Result<std::unique_ptr<Weight>> Prepare(const TensorView& tensor, bool to_bf16) = 0;

  virtual void Embed(const Weight& table, std::span<const int32_t> ids, Mat out) = 0;
  // out = x / sqrt(mean(x^2) + eps) * weight, row by row; out may be x.
  virtual void RmsNorm(Mat x, const float* weight, float eps, Mat out) = 0;
  // Several matrices over the same input.
  virtual void Linear(Mat x, std::span<const LinearOutput> outputs) = 0;
  // out = silu(gate) * up; out may be gate.
  virtual void SiluMul(Mat gate, Mat up, Mat out) = 0;
  virtual void Append(const AppendArgs& args) = 0;
  virtual void Select(const SelectArgs& args) = 0;
  virtual void Attention(const AttentionArgs& args) = 0;
};

// backend: "ref", "cpu" or "cuda" (host matrices, for tests); the error lists them. The pool must
// outlive the Ops.
Result<std::unique_ptr<Ops>> MakeOps(const std::string& backend, ThreadPool* pool);

}  // namespace lserve
