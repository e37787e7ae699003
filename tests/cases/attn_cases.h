// THE table of attention cases: correctness tests, benchmarks and every backend run the same ones.
// A case is small data, found by its name, which also replays it:
//     kernels_test --gtest_filter='*/d64_g3_kv8_decode_random'
//     kernels_bench --benchmark_filter=...
// AttnProblem builds a case: random q, K and V, pages (scratch_kv.h), and a plan that is valid by
// construction. Only listed blocks are stored; all others, and tokens past kv_len, are NaN or have
// no page.
#pragma once

#include <memory>
#include <ostream>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "plan/attn_plan.h"
#include "tests/cases/scratch_kv.h"

namespace lserve::cases {

// The `q_len` newest of `kv_len` stored tokens ask.
struct SeqCase {
  int kv_len, q_len;
};

enum class PlanKind {
  kDense,      // every block up to the newest
  kStreaming,  // the blocks that `sink` and `window` leave visible
  kSelected,   // `blocks` random blocks and the newest, as a selector would list them
  kRandom,     // anything valid: a list, sink and window of its own for each tile
};

struct AttnCase {
  std::string name;
  int dim = 64, kv_heads = 2, group = 1;
  int heads_per_tile = 1;  // divides group
  KvType k_type = KvType::kKv16, v_type = KvType::kKv16;
  std::vector<SeqCase> seqs;
  PlanKind plan = PlanKind::kDense;
  int sink = 0, window = kNoWindow;  // kStreaming
  int blocks = 0;                    // kSelected
  int q_tile = 64;
  int padding = 0;       // columns between the rows of q and of out
  double sharpness = 1;  // standard deviation of the scores
  bool large = false;    // for benchmarks: too slow for the oracle
  double tolerance =
      0;  // of backends with 16-bit products, in units that attention_test.cc derives
  int q_heads() const { return kv_heads * group; }
};

// GoogleTest prints a case as the string that replays it.
inline void PrintTo(const AttnCase& c, std::ostream* out) { *out << c.name; }

// Unique names, fixed order.
std::span<const AttnCase> AttnCases();

// kv8, k8v4, ...
std::string CodecName(const AttnCase& c);

class AttnProblem {
 public:
  // `q_tile` overrides the case's when positive.
  explicit AttnProblem(const AttnCase& c, int q_tile = 0);

  const KvView& view() const { return kv_->view(); }
  const AttnPlan& plan() const { return plan_; }
  Mat q() const { return q_; }
  // A matrix like q, filled with NaN, that lives as long as the problem.
  Mat NewOutput();
  float scale() const { return scale_; }
  int rows() const { return q_.rows; }

  int64_t bytes() const { return bytes_; }  // of slices, each read once a tile
  int64_t flops() const { return flops_; }  // two products over visible pairs

 private:
  void BuildTiles(const AttnCase& c, int q_tile, std::mt19937_64* random);
  void FillPages(const AttnCase& c, uint64_t seed);

  std::unique_ptr<ScratchKv> kv_;
  std::vector<Tile> tiles_;
  std::vector<Run> runs_;
  AttnPlan plan_;
  std::vector<float> q_data_;
  std::vector<std::vector<float>> outputs_;
  Mat q_;
  float scale_ = 0;
  int64_t bytes_ = 0, flops_ = 0;
};

// Normal random numbers, every 16th column four times as large (real keys have such channels).
void FillNormal(Mat m, double deviation, std::mt19937_64* random);

}  // namespace lserve::cases
