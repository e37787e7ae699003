#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/ref/ref_ops.h"

namespace lserve::ref {
namespace {

constexpr double kLowest = -std::numeric_limits<double>::infinity();

// One listed block of a tile, its K and V as the codec returns them.
struct Block {
  int first_pos;  // position of its first token
  bool masked;
  int tokens;             // tokens below kv_len
  std::vector<double> k;  // [D][64]
  std::vector<double> v;  // [64][D]
};

void Decode(const KvView& view, int seq, int kv_head, int block, int kv_len, Block* out) {
  const int dim = view.codec.dim();
  const std::byte* slice = view.Slice(seq, kv_head, block);
  CHECK(slice != nullptr);
  std::vector<float> row(static_cast<size_t>(dim));
  out->first_pos = block * kBlockTokens;
  out->tokens = std::min(kBlockTokens, kv_len - out->first_pos);
  out->k.assign(static_cast<size_t>(dim) * kBlockTokens, 0);
  out->v.assign(static_cast<size_t>(dim) * kBlockTokens, 0);
  for (int t = 0; t < out->tokens; ++t) {
    view.codec.DecodeK(slice, t, row.data());
    for (int c = 0; c < dim; ++c) out->k[static_cast<size_t>(c * kBlockTokens + t)] = row[c];
    view.codec.DecodeV(slice, t, row.data());
    std::copy(row.begin(), row.end(), out->v.begin() + t * dim);
  }
}

// score[t] = scale * q.k_t over the block's tokens, -infinity where the query may not look.
void Scores(const Tile& tile, const Block& block, const float* q, int q_pos, double scale, int dim,
            double* score) {
  std::fill(score, score + kBlockTokens, 0.0);
  for (int c = 0; c < dim; ++c) {
    const double x = q[c];
    const double* k = block.k.data() + static_cast<int64_t>(c) * kBlockTokens;
    for (int t = 0; t < kBlockTokens; ++t) score[t] += x * k[t];
  }
  for (int t = 0; t < kBlockTokens; ++t) {
    const bool visible = !block.masked || Visible(tile, q_pos, block.first_pos + t);
    score[t] = visible ? scale * score[t] : kLowest;
  }
}

// All queries and heads of a tile against its list. Each query's softmax is over exact scores of
// its whole list, not online: first all scores, then all weights, then the sum of values.
void RunTile(const AttentionArgs& args, const Tile& tile) {
  const AttnPlan& plan = *args.plan;
  const KvView& view = args.view;
  const int dim = view.codec.dim();
  const int kv_head = tile.head / (plan.shape.num_q_heads / plan.shape.num_kv_heads);

  std::vector<std::pair<int, bool>> list;  // block, masked
  for (const Run& run : plan.RunsOf(tile))
    for (int i = 0; i < run.count; ++i) list.emplace_back(run.first + i, run.masked != 0);

  const int rows = tile.q_len * plan.shape.heads_per_tile;
  const size_t width = list.size() * kBlockTokens;
  std::vector<double> p(static_cast<size_t>(rows) * width);
  const auto query = [&](int row) {
    return args.q.Row(tile.q_begin + row % tile.q_len) + (tile.head + row / tile.q_len) * dim;
  };

  Block block;
  for (size_t b = 0; b < list.size(); ++b) {
    Decode(view, tile.seq, kv_head, list[b].first, tile.kv_len, &block);
    block.masked = list[b].second;
    for (int r = 0; r < rows; ++r)
      Scores(tile, block, query(r), tile.q_pos + r % tile.q_len, args.scale, dim,
             p.data() + r * width + b * kBlockTokens);
  }

  for (int r = 0; r < rows; ++r) {
    double* row = p.data() + r * width;
    const double top = *std::max_element(row, row + width);
    double sum = 0;
    for (size_t j = 0; j < width; ++j) sum += row[j] = std::exp(row[j] - top);
    for (size_t j = 0; j < width; ++j) row[j] /= sum;
    if (args.lse)
      args.lse[static_cast<int64_t>(tile.q_begin + r % tile.q_len) * plan.shape.num_q_heads +
               tile.head + r / tile.q_len] = static_cast<float>(top + std::log(sum));
  }

  std::vector<double> out(static_cast<size_t>(rows) * dim);
  for (size_t b = 0; b < list.size(); ++b) {
    Decode(view, tile.seq, kv_head, list[b].first, tile.kv_len, &block);
    for (int r = 0; r < rows; ++r) {
      for (int t = 0; t < block.tokens; ++t) {
        const double weight = p[r * width + b * kBlockTokens + t];
        if (weight == 0) continue;  // what is not visible is not read: it may be anything
        const double* v = block.v.data() + static_cast<int64_t>(t) * dim;
        for (int c = 0; c < dim; ++c) out[static_cast<size_t>(r * dim + c)] += weight * v[c];
      }
    }
  }
  for (int r = 0; r < rows; ++r) {
    float* to = args.out.Row(tile.q_begin + r % tile.q_len) + (tile.head + r / tile.q_len) * dim;
    std::copy_n(out.begin() + static_cast<int64_t>(r) * dim, dim, to);
  }
}

}  // namespace

void Attention(const AttentionArgs& args, ThreadPool* pool) {
  const AttnPlan& plan = *args.plan;
  CHECK(args.q.cols == plan.shape.num_q_heads * args.view.codec.dim());
  CHECK(args.view.heads->num_heads() == plan.shape.num_kv_heads);
  pool->ParallelFor(static_cast<int64_t>(plan.tiles.size()), [&](int64_t tile, int) {
    RunTile(args, plan.tiles[static_cast<size_t>(tile)]);
  });
}

}  // namespace lserve::ref
