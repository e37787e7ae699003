#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/cpu/cpu_ops.h"

namespace lserve::cpu {
namespace {

// Block scores of one query head: the best of its logical pages.
void HeadScores(const SelectArgs& args, const SelectJob& job, int head, int kv_head,
                float* scores) {
  const CpuKernels& kernels = BestKernels();
  const int dim = args.view.codec.dim(), pages = args.view.stats.pages_per_block();
  const float* q = args.q.Row(job.row) + static_cast<int64_t>(head) * dim;
  float logical[4];
  for (int b = job.first_block; b < job.end_block; ++b) {
    const uint16_t* stats = args.view.Stats(job.seq, kv_head, b);
    CHECK(stats != nullptr);
    kernels.box_scores(q, stats, pages, dim, logical);
    *scores++ = *std::max_element(logical, logical + pages);
  }
}

void RunJob(const SelectArgs& args, const SelectJob& job) {
  const int blocks = job.end_block - job.first_block, count = std::min(job.k, blocks);
  *job.count = count;
  if (count == blocks) {
    for (int i = 0; i < blocks; ++i) job.list[i] = job.first_block + i;
    return;
  }
  const int dim = args.view.codec.dim();
  const int group = args.q.cols / dim / args.view.heads->num_heads(), kv_head = job.head / group;
  std::vector<float> scores(static_cast<size_t>(blocks)), best;
  for (int h = 0; h < job.heads; ++h) {
    HeadScores(args, job, job.head + h, kv_head, scores.data());
    if (job.heads == 1) {
      best.swap(scores);
      break;
    }
    const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
    float max = -INFINITY;
    for (float& s : scores) max = std::max(max, s *= scale);
    double sum = 0;
    for (float s : scores) sum += std::exp(static_cast<double>(s - max));
    const float lse = max + static_cast<float>(std::log(sum));
    if (h == 0) best.assign(static_cast<size_t>(blocks), -INFINITY);
    for (size_t i = 0; i < best.size(); ++i) best[i] = std::max(best[i], scores[i] - lse);
  }
  std::vector<int32_t> order(static_cast<size_t>(blocks));
  for (int i = 0; i < blocks; ++i) order[static_cast<size_t>(i)] = i;
  std::nth_element(order.begin(), order.begin() + count - 1, order.end(),
                   [&](int32_t a, int32_t b) {
                     const float x = best[static_cast<size_t>(a)], y = best[static_cast<size_t>(b)];
                     return x != y ? x > y : a < b;
                   });
  std::sort(order.begin(), order.begin() + count);
  for (int i = 0; i < count; ++i) job.list[i] = job.first_block + order[static_cast<size_t>(i)];
}

}  // namespace

void Select(const SelectArgs& args, ThreadPool* pool) {
  pool->ParallelFor(static_cast<int64_t>(args.jobs.size()),
                    [&](int64_t i, int) { RunJob(args, args.jobs[static_cast<size_t>(i)]); });
}

}  // namespace lserve::cpu
