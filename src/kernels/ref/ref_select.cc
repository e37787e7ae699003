#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "kernels/ref/ref_ops.h"

namespace lserve::ref {
namespace {

constexpr double kLowest = -std::numeric_limits<double>::infinity();

// S of one block: the best upper bound of q.k among its logical pages.
double BlockScore(const float* q, const KeyStats& layout, const uint16_t* stats) {
  std::vector<float> low(static_cast<size_t>(layout.dim)), high(low);
  double best = kLowest;
  for (int page = 0; page < layout.pages_per_block(); ++page) {
    layout.Decode(stats, page, low.data(), high.data());
    double sum = 0;
    for (size_t i = 0; i < low.size(); ++i) {
      const double x = q[i];
      sum += std::max(x * low[i], x * high[i]);
    }
    best = std::max(best, sum);
  }
  return best;
}

// The largest q.k of the keys from token `first` on of a block whose 64 keys are stored.
double BestKey(const float* q, const KvCodec& codec, const std::byte* slice, int first) {
  std::vector<float> key(static_cast<size_t>(codec.dim()));
  double best = kLowest;
  for (int t = first; t < kBlockTokens; ++t) {
    codec.DecodeK(slice, t, key.data());
    double sum = 0;
    for (size_t i = 0; i < key.size(); ++i) sum += static_cast<double>(q[i]) * key[i];
    best = std::max(best, sum);
  }
  return best;
}

// log(sum(exp(x))), -infinity for an empty sum.
double LogSumExp(std::span<const double> x) {
  const double top = x.empty() ? kLowest : *std::max_element(x.begin(), x.end());
  if (top == kLowest) return kLowest;
  double sum = 0;
  for (double value : x) sum += std::exp(value - top);
  return top + std::log(sum);
}

void SelectOne(const SelectJob& job, const SelectArgs& args) {
  const KvView& view = args.view;
  const Mat q = args.q;
  const int dim = view.codec.dim(), group = q.cols / dim / view.heads->num_heads();
  const int kv_head = job.head / group, blocks = job.end_block - job.first_block;
  CHECK(blocks >= 0 && job.k >= 0 && (job.heads == 1 || job.heads == group));
  const int chosen = std::min(job.k, blocks);

  std::vector<double> score(static_cast<size_t>(blocks), kLowest), head_score(score);
  for (int h = job.head; h < job.head + job.heads; ++h) {
    for (int b = 0; b < blocks; ++b) {
      const int block = job.first_block + b;
      const float* query = q.Row(job.row) + h * dim;
      double& s = head_score[static_cast<size_t>(b)];
      if (args.score != PageScore::kKeys) {
        s = BlockScore(query, view.stats, view.Stats(job.seq, kv_head, block));
        continue;
      }
      s = BestKey(query, view.codec, view.Slice(job.seq, kv_head, block), 0);
      if (b > 0 && args.reach > 0)
        s = std::max(s, BestKey(query, view.codec, view.Slice(job.seq, kv_head, block - 1),
                                kBlockTokens - args.reach));
    }
    if (job.heads > 1) {  // heads with large queries must not outvote the others: normalise each
      for (double& s : head_score) s /= std::sqrt(static_cast<double>(dim));
      const double lse = LogSumExp(head_score);
      for (double& s : head_score) s = s == kLowest ? kLowest : s - lse;
    }
    for (size_t b = 0; b < score.size(); ++b) score[b] = std::max(score[b], head_score[b]);
  }

  std::vector<int32_t> order(score.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return score[static_cast<size_t>(a)] > score[static_cast<size_t>(b)];
  });
  std::sort(order.begin(), order.begin() + chosen);
  for (int i = 0; i < chosen; ++i) job.list[i] = job.first_block + order[static_cast<size_t>(i)];
  *job.count = chosen;
}

}  // namespace

void Select(const SelectArgs& args, ThreadPool* pool) {
  pool->ParallelFor(static_cast<int64_t>(args.jobs.size()), [&](int64_t job, int) {
    SelectOne(args.jobs[static_cast<size_t>(job)], args);
  });
}

}  // namespace lserve::ref
