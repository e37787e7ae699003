// Page selection in two passes over the threads: scores, a job's blocks in pieces so that one long
// sequence keeps all threads busy, then each job's choice.
#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/cpu/cpu_ops.h"

namespace lserve::cpu {
namespace {

constexpr int kPieceBlocks = 64;  // of a job's blocks, a task

// Blocks [begin, end) of a job for its query heads; scores [heads][stride].
struct Piece {
  const SelectJob* job;
  int begin, end;
  float* scores;  // of block `begin` and the first head
  int64_t stride;
};

int KvHead(const SelectArgs& args, const SelectJob& job) {
  const int group = args.q.cols / args.view.codec.dim() / args.view.heads->num_heads();
  return job.head / group;
}

// The best of each block's logical pages.
void ScoreBounds(const SelectArgs& args, const Piece& piece) {
  const CpuKernels& kernels = BestKernels();
  const SelectJob& job = *piece.job;
  const int dim = args.view.codec.dim(), pages = args.view.stats.pages_per_block(),
            kv_head = KvHead(args, job);
  const float* q = args.q.Row(job.row) + static_cast<int64_t>(job.head) * dim;
  float logical[4];
  for (int b = piece.begin; b < piece.end; ++b) {
    const uint16_t* stats = args.view.Stats(job.seq, kv_head, b);
    CHECK(stats != nullptr);
    for (int h = 0; h < job.heads; ++h) {
      kernels.box_scores(q + static_cast<int64_t>(h) * dim, stats, args.view.stats.bits, pages, dim,
                         logical);
      piece.scores[h * piece.stride + b - piece.begin] =
          *std::max_element(logical, logical + pages);
    }
  }
}

// The best of each block's keys, and of the keys in front that reach into it.
void ScoreKeys(const SelectArgs& args, const Piece& piece, Scratch* scratch) {
  const CpuKernels& kernels = BestKernels();
  const SelectJob& job = *piece.job;
  const int dim = args.view.codec.dim(), kv_head = KvHead(args, job);
  uint16_t* keys = scratch->Get<uint16_t>(static_cast<size_t>((kBlockTokens + job.heads) * dim));
  uint16_t* q = keys + kBlockTokens * dim;
  const size_t heads = static_cast<size_t>(job.heads);
  std::vector<float> best(heads), tail(heads), reaching(heads, -INFINITY);
  kernels.to_bf16_row(args.q.Row(job.row) + static_cast<int64_t>(job.head) * dim, job.heads * dim,
                      q);
  const bool joins = args.reach > 0 && piece.begin > job.first_block;
  for (int b = piece.begin - joins; b < piece.end; ++b) {
    const std::byte* slice = args.view.Slice(job.seq, kv_head, b);
    CHECK(slice != nullptr);
    kernels.best_keys(q, SlicePairs(args.view.codec, slice, true, keys), job.heads, dim, args.reach,
                      best.data(), tail.data());
    if (b >= piece.begin)
      for (size_t h = 0; h < heads; ++h)
        piece.scores[static_cast<int64_t>(h) * piece.stride + b - piece.begin] =
            std::max(best[h], reaching[h]);
    reaching.swap(tail);
  }
}

// The job's list from its scores [heads][blocks]. Those of the first head become the ranking.
void Choose(const SelectJob& job, int dim, int count, float* scores) {
  const int64_t blocks = job.end_block - job.first_block;
  if (job.heads > 1) {
    const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
    for (int h = 0; h < job.heads; ++h) {
      float* s = scores + h * blocks;
      float max = -INFINITY;
      for (int64_t i = 0; i < blocks; ++i) max = std::max(max, s[i] *= scale);
      double sum = 0;
      for (int64_t i = 0; i < blocks; ++i) sum += std::exp(static_cast<double>(s[i] - max));
      const float lse = max + static_cast<float>(std::log(sum));
      for (int64_t i = 0; i < blocks; ++i)
        scores[i] = h == 0 ? s[i] - lse : std::max(scores[i], s[i] - lse);
    }
  }
  std::vector<int32_t> order(static_cast<size_t>(blocks));
  for (int32_t i = 0; i < blocks; ++i) order[static_cast<size_t>(i)] = i;
  std::nth_element(
      order.begin(), order.begin() + count - 1, order.end(),
      [&](int32_t a, int32_t b) { return scores[a] != scores[b] ? scores[a] > scores[b] : a < b; });
  std::sort(order.begin(), order.begin() + count);
  for (int i = 0; i < count; ++i) job.list[i] = job.first_block + order[static_cast<size_t>(i)];
}

}  // namespace

SelectOp::SelectOp(ThreadPool* pool)
    : pool_(pool), per_thread_(static_cast<size_t>(pool->size())) {}

void SelectOp::Run(const SelectArgs& args) {
  struct Ranked {
    const SelectJob* job;
    size_t offset;
  };
  std::vector<Ranked> ranked;
  size_t floats = 0;
  for (const SelectJob& job : args.jobs) {
    const int blocks = job.end_block - job.first_block;
    *job.count = std::min(job.k, blocks);
    if (*job.count == blocks) {
      for (int i = 0; i < blocks; ++i) job.list[i] = job.first_block + i;
    } else if (*job.count > 0) {
      ranked.push_back({&job, floats});
      floats += static_cast<size_t>(blocks) * static_cast<size_t>(job.heads);
    }
  }
  float* scores = scores_.Get<float>(floats);
  std::vector<Piece> pieces;
  for (const Ranked& r : ranked)
    for (int b = r.job->first_block; b < r.job->end_block; b += kPieceBlocks)
      pieces.push_back({r.job, b, std::min(b + kPieceBlocks, r.job->end_block),
                        scores + r.offset + (b - r.job->first_block),
                        r.job->end_block - r.job->first_block});
  pool_->ParallelFor(static_cast<int64_t>(pieces.size()), [&](int64_t i, int thread) {
    const Piece& piece = pieces[static_cast<size_t>(i)];
    if (args.score == PageScore::kKeys)
      ScoreKeys(args, piece, &per_thread_[static_cast<size_t>(thread)]);
    else
      ScoreBounds(args, piece);
  });
  pool_->ParallelFor(static_cast<int64_t>(ranked.size()), [&](int64_t i, int) {
    const Ranked& r = ranked[static_cast<size_t>(i)];
    Choose(*r.job, args.view.codec.dim(), *r.job->count, scores + r.offset);
  });
}

}  // namespace lserve::cpu
