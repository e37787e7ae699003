// Attention over plans. A tile's rows are its queries times the heads that share its list, so that
// every page is read once for the whole group; prefill, decode, dense, streaming and selected lists
// are the same walk.
//
// Order of arithmetic. The sequence is cut into segments of kSegmentBlocks blocks at absolute
// positions. Within a segment an online softmax starts afresh; the partial results (maximum, sum,
// weighted values) of the segments are merged in order. A row therefore sees the same operations
// whether its tile is one query or many, and whether one thread walks the tile or its segments are
// shared out, as long sequences at decode are. A block in which a row sees nothing changes nothing,
// exactly.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/cpu/cpu_ops.h"

namespace lserve::cpu {
namespace {

constexpr int kSegmentBlocks = 16;
constexpr int kItemBlocks = 16;  // blocks of work worth a task
constexpr int kSplitRows = 32;   // tiles with more rows keep a thread busy by themselves
constexpr float kLog2E = 1.44269504088896341f;

// A partial result of a tile: max [rows], sum [rows], out [rows][dim].
size_t PartialFloats(int rows, int dim) {
  return static_cast<size_t>(rows) * (static_cast<size_t>(dim) + 2);
}

struct Partial {
  float *max, *sum, *out;
  Partial(float* p, int rows) : max(p), sum(p + rows), out(p + 2 * rows) {}
  void Reset(int rows, int dim) {
    std::fill_n(max, rows, -INFINITY);
    std::memset(sum, 0, sizeof(float) * static_cast<size_t>(rows) * static_cast<size_t>(dim + 1));
  }
};

// into = merge(into, from), base-2 logarithms. Empty sides are exact no-ops.
void MergePartial(Partial into, Partial from, int rows, int dim) {
  for (int r = 0; r < rows; ++r) {
    const float a = into.max[r], b = from.max[r];
    if (b == -INFINITY) continue;
    float* out = into.out + static_cast<int64_t>(r) * dim;
    const float* add = from.out + static_cast<int64_t>(r) * dim;
    const float max = std::max(a, b);
    const float keep = a == -INFINITY ? 0.0f : std::exp2(a - max), take = std::exp2(b - max);
    into.max[r] = max;
    into.sum[r] = into.sum[r] * keep + from.sum[r] * take;
    for (int i = 0; i < dim; ++i) out[i] = out[i] * keep + add[i] * take;
  }
}

int KvHead(const AttentionArgs& args, const Tile& tile) {
  return tile.head / (args.plan->shape.num_q_heads / args.plan->shape.num_kv_heads);
}

// Keys and values of a block as bf16 pairs: straight from the page where it holds just that, else
// through `buffer` [2][64 * dim].
struct BlockData {
  const uint16_t *k, *v;
};
BlockData LoadBlock(const AttentionArgs& args, const Tile& tile, int kv_head, int block,
                    uint16_t* buffer) {
  const KvCodec& codec = args.view.codec;
  const int dim = codec.dim();
  const std::byte* slice = args.view.Slice(tile.seq, kv_head, block);
  CHECK(slice != nullptr);
  const int valid = std::min(kBlockTokens, tile.kv_len - block * kBlockTokens);
  uint16_t* const v = buffer + kBlockTokens * dim;
  BlockData data{SlicePairs(codec, slice, true, buffer), SlicePairs(codec, slice, false, v)};
  if (valid < kBlockTokens) {
    // Places past the sequence's end hold anything, NaN too. Their probability is zero, but zero
    // times NaN is not.
    if (data.v != v) std::memcpy(v, data.v, static_cast<size_t>(kBlockTokens * dim) * 2);
    data.v = v;
    for (int t = valid; t < kBlockTokens; ++t)
      for (int c = 0; c < dim; ++c) v[codec.VIndex(t, c)] = 0;
  }
  return data;
}

// Divides by the sum and writes a tile's rows, and their log-sum-exp if it is wanted.
void Finish(const AttentionArgs& args, const Tile& tile, Partial total) {
  const int heads = args.plan->shape.heads_per_tile, rows = tile.q_len * heads,
            dim = args.view.codec.dim();
  for (int r = 0; r < rows; ++r) {
    const int row = tile.q_begin + r / heads, head = tile.head + r % heads;
    float* out = args.out.Row(row) + static_cast<int64_t>(head) * dim;
    const float inverse = total.sum[r] > 0 ? 1.0f / total.sum[r] : 0.0f;
    for (int i = 0; i < dim; ++i) out[i] = total.out[static_cast<int64_t>(r) * dim + i] * inverse;
    if (args.lse) {
      args.lse[static_cast<int64_t>(row) * args.plan->shape.num_q_heads + head] =
          total.sum[r] > 0 ? (total.max[r] + std::log2(total.sum[r])) / kLog2E : -INFINITY;
    }
  }
}

}  // namespace

const uint16_t* SlicePairs(const KvCodec& codec, const std::byte* slice, bool keys,
                           uint16_t* buffer) {
  const KvType type = keys ? codec.k_type() : codec.v_type();
  const std::byte* codes = slice + (keys ? 0 : codec.v_offset());
  if (type == KvType::kKv16) return reinterpret_cast<const uint16_t*>(codes);
  const uint16_t* scale = reinterpret_cast<const uint16_t*>(
      slice + (keys ? codec.k_scale_offset() : codec.v_scale_offset()));
  BestKernels().decode_slice({KvBits(type), reinterpret_cast<const uint8_t*>(codes), scale,
                              scale + kBlockTokens, codec.dim(), keys, buffer});
  return buffer;
}

// Segments [segment_begin, segment_end) of a tile, counted among those that hold listed blocks.
struct AttentionOp::Item {
  const Tile* tile;
  int segment_begin, segment_end;
  float* partials;  // one a segment; null: merge on the spot and finish the tile
};

AttentionOp::AttentionOp(ThreadPool* pool)
    : pool_(pool), per_thread_(static_cast<size_t>(pool->size())) {}

void AttentionOp::Merge(const AttentionArgs& args, const Tile& tile, const float* partials,
                        int segments, Scratch* scratch) {
  const int rows = tile.q_len * args.plan->shape.heads_per_tile, dim = args.view.codec.dim();
  const size_t size = PartialFloats(rows, dim);
  Partial total(scratch->Get<float>(size), rows);
  total.Reset(rows, dim);
  for (int s = 0; s < segments; ++s)
    MergePartial(total, Partial(const_cast<float*>(partials) + static_cast<size_t>(s) * size, rows),
                 rows, dim);
  Finish(args, tile, total);
}

void AttentionOp::RunItem(const AttentionArgs& args, const Item& item, Scratch* scratch) {
  const CpuKernels& kernels = BestKernels();
  const Tile& tile = *item.tile;
  const int heads = args.plan->shape.heads_per_tile, rows = tile.q_len * heads,
            dim = args.view.codec.dim();
  const int kv_head = KvHead(args, tile);
  const size_t size = PartialFloats(rows, dim);
  // Scratch: total and segment results, then q, k and v in bf16.
  float* floats = scratch->Get<float>(2 * size + static_cast<size_t>(rows * dim + 1) / 2 +
                                      static_cast<size_t>(kBlockTokens * dim) + 64);
  uint16_t* q = reinterpret_cast<uint16_t*>(floats + 2 * size);
  uint16_t* buffer = q + (static_cast<size_t>(rows * dim) + 31) / 32 * 32;
  for (int r = 0; r < rows; ++r)
    kernels.to_bf16_row(
        args.q.Row(tile.q_begin + r / heads) + static_cast<int64_t>(tile.head + r % heads) * dim,
        dim, q + static_cast<int64_t>(r) * dim);
  const bool whole = item.partials == nullptr;
  Partial total(floats, rows);
  if (whole) total.Reset(rows, dim);
  int segment = -1, segment_id = -1;  // running count, absolute number
  Partial current(floats + size, rows);
  const auto close = [&] {
    if (whole && segment_id >= 0) MergePartial(total, current, rows, dim);
  };
  for (const lserve::Run& run : args.plan->RunsOf(tile)) {
    for (int block = run.first; block < run.first + run.count; ++block) {
      if (block / kSegmentBlocks != segment_id) {
        if (segment >= item.segment_begin && segment < item.segment_end) close();
        segment_id = block / kSegmentBlocks;
        ++segment;
        if (segment >= item.segment_end) return;
        if (segment >= item.segment_begin) {
          if (!whole)
            current = Partial(
                item.partials + static_cast<size_t>(segment - item.segment_begin) * size, rows);
          current.Reset(rows, dim);
        }
      }
      if (segment < item.segment_begin) continue;
      const BlockData data = LoadBlock(args, tile, kv_head, block, buffer);
      kernels.attn_block({q, data.k, data.v, rows, dim, heads, args.scale * kLog2E, run.masked != 0,
                          block * kBlockTokens, tile.q_pos, tile.sink_len, tile.window_len,
                          current.max, current.sum, current.out});
    }
  }
  if (!whole) return;
  close();
  Finish(args, tile, total);
}

void AttentionOp::Run(const AttentionArgs& args) {
  const int dim = args.view.codec.dim(), heads = args.plan->shape.heads_per_tile;
  struct Split {
    const Tile* tile;
    size_t offset;
    int segments;
  };
  std::vector<Item> items;
  std::vector<Split> splits;
  std::vector<std::pair<size_t, size_t>> split_items;  // item index, offset of its first partial
  size_t floats = 0;
  for (const Tile& tile : args.plan->tiles) {
    const int rows = tile.q_len * heads;
    if (rows > kSplitRows || ListedBlocks(*args.plan, tile) < 2 * kItemBlocks) {
      items.push_back({&tile, 0, 1 << 30, nullptr});
      continue;
    }
    // Segments in order, gathered into items of at least kItemBlocks blocks.
    const size_t size = PartialFloats(rows, dim);
    int segments = 0, last = -1, item_begin = 0, in_item = 0;
    splits.push_back({&tile, floats, 0});
    const auto finish_item = [&] {
      split_items.emplace_back(items.size(), floats + static_cast<size_t>(item_begin) * size);
      items.push_back({&tile, item_begin, segments, nullptr});
      item_begin = segments;
      in_item = 0;
    };
    for (const lserve::Run& run : args.plan->RunsOf(tile))
      for (int block = run.first; block < run.first + run.count; ++block) {
        if (block / kSegmentBlocks != last) {
          if (in_item >= kItemBlocks) finish_item();
          last = block / kSegmentBlocks;
          ++segments;
        }
        ++in_item;
      }
    if (in_item > 0) finish_item();
    splits.back().segments = segments;
    floats += static_cast<size_t>(segments) * size;
  }
  float* partials = partials_.Get<float>(floats);
  for (const auto& [index, offset] : split_items) items[index].partials = partials + offset;
  pool_->ParallelFor(static_cast<int64_t>(items.size()), [&](int64_t i, int thread) {
    // Later tiles of a prompt read more: they go first, so that no thread is left with a long one
    // at the end.
    RunItem(args, items[items.size() - 1 - static_cast<size_t>(i)],
            &per_thread_[static_cast<size_t>(thread)]);
  });
  pool_->ParallelFor(static_cast<int64_t>(splits.size()), [&](int64_t i, int thread) {
    const Split& split = splits[static_cast<size_t>(i)];
    Merge(args, *split.tile, partials + split.offset, split.segments,
          &per_thread_[static_cast<size_t>(thread)]);
  });
}

}  // namespace lserve::cpu
