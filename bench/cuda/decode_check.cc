// Decode attention: random valid plans, every codec, NaN in everything that may not be read.
#include "decode_check.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "device_kv.h"
#include "sparse/windows.h"

namespace lserve::bench {
namespace {

struct Case {
  KvTypes types;
  int dim, kv_heads, group;
  int slots, max_len, q_len;
  bool shared;
};

struct Problem {
  std::vector<Tile> tiles;
  std::vector<Run> runs;
  PlanShape shape;
  int rows = 0;
};

enum class Kind { kDense, kStreaming, kChosen };

// Lengths near the borders of blocks are where masks go wrong.
int RandomLength(int least, int most, Random* random) {
  static constexpr int kNear[] = {0, 1, 2, 62, 63};
  int len = std::uniform_int_distribution<int>(least, most)(*random);
  if ((*random)() % 2) len = len / 64 * 64 + kNear[(*random)() % 5];
  return std::clamp(len, least, most);
}

Problem RandomProblem(const Case& c, const HeadMap& heads, Random* random) {
  Problem p;
  const int heads_per_tile = c.shared ? c.group : 1;
  p.shape = {c.kv_heads * c.group, c.kv_heads, heads_per_tile, c.q_len};
  for (int slot = 0; slot < c.slots; ++slot) {
    const int q_len = 1 + static_cast<int>((*random)() % static_cast<unsigned>(c.q_len));
    const int len = RandomLength(q_len, c.max_len, random);
    for (int head = 0; head < p.shape.num_q_heads; head += heads_per_tile) {
      Tile tile{slot, head, p.rows,   q_len, len - q_len, len, static_cast<int32_t>(p.runs.size()),
                0,    0,    kNoWindow};
      if ((*random)() % 16 == 0) {  // padding
        tile.q_len = 0, tile.run_end = tile.run_begin;
        p.tiles.push_back(tile);
        continue;
      }
      const Kind kind = heads.streaming(head / c.group) ? Kind::kStreaming
                        : (*random)() % 4 == 0          ? Kind::kDense
                                                        : Kind::kChosen;
      if (kind == Kind::kStreaming) {
        tile.sink_len = static_cast<int>((*random)() % 4) * 48;
        tile.window_len = 1 + static_cast<int>((*random)() % 400);
      }
      if (kind == Kind::kChosen) {
        std::vector<int32_t> blocks;
        const int oldest = tile.q_pos / kBlockTokens, newest = (len - 1) / kBlockTokens;
        for (int b = 0; b < oldest; ++b)
          if ((*random)() % 3 == 0) blocks.push_back(b);
        for (int b = oldest; b <= newest; ++b) blocks.push_back(b);
        AppendRuns(blocks, (tile.q_pos + 1) / kBlockTokens, &p.runs);
      } else {
        AppendWindowRuns(tile, &p.runs);
      }
      tile.run_end = static_cast<int32_t>(p.runs.size());
      p.tiles.push_back(tile);
    }
    p.rows += q_len;
  }
  return p;
}

// Writes random keys and values of the tokens that some query of some tile sees.
void Fill(const Problem& p, KvView view, int group, Random* random) {
  const int dim = view.codec.dim();
  std::normal_distribution<float> normal(0, 1);
  std::vector<float> row(static_cast<size_t>(dim));
  std::map<std::pair<int, int>, std::vector<uint8_t>> written;  // by sequence and KV head
  for (const Tile& tile : p.tiles) {
    const int kv_head = tile.head / group;
    std::vector<uint8_t>& done = written[{tile.seq, kv_head}];
    done.resize(static_cast<size_t>(tile.kv_len));
    for (int r = tile.run_begin; r < tile.run_end; ++r) {
      const Run& run = p.runs[static_cast<size_t>(r)];
      for (int pos = run.first * kBlockTokens;
           pos < std::min(tile.kv_len, (run.first + run.count) * kBlockTokens); ++pos) {
        bool seen = !run.masked;
        for (int i = 0; i < tile.q_len; ++i) seen |= Visible(tile, tile.q_pos + i, pos);
        if (!seen || done[static_cast<size_t>(pos)]) continue;
        done[static_cast<size_t>(pos)] = 1;
        std::byte* slice = view.Slice(tile.seq, kv_head, pos / kBlockTokens);
        const float offset = normal(*random), scale = std::exp(0.5f * normal(*random));
        for (float& x : row) x = offset + scale * normal(*random);
        view.codec.EncodeK(row.data(), pos % kBlockTokens, slice);
        for (float& x : row) x = 0.3f * offset + scale * normal(*random);
        view.codec.EncodeV(row.data(), pos % kBlockTokens, slice);
      }
    }
  }
}

// One query row of one tile; returns log-sum-exp.
double Reference(const Problem& p, const KvView& view, const Tile& tile, int group, int q_index,
                 const uint16_t* q, double scale, std::vector<double>* out) {
  const int dim = view.codec.dim();
  std::vector<float> row(static_cast<size_t>(dim));
  out->assign(static_cast<size_t>(dim), 0);
  double top = -std::numeric_limits<double>::infinity(), sum = 0;
  for (int r = tile.run_begin; r < tile.run_end; ++r) {
    const Run& run = p.runs[static_cast<size_t>(r)];
    for (int pos = run.first * kBlockTokens;
         pos < std::min(tile.kv_len, (run.first + run.count) * kBlockTokens); ++pos) {
      if (run.masked && !Visible(tile, tile.q_pos + q_index, pos)) continue;
      const std::byte* slice = view.Slice(tile.seq, tile.head / group, pos / kBlockTokens);
      view.codec.DecodeK(slice, pos % kBlockTokens, row.data());
      double dot = 0;
      for (int c = 0; c < dim; ++c) dot += static_cast<double>(FromBf16(q[c])) * row[c];
      dot *= scale;
      if (dot > top) {
        const double shrink = std::exp(top - dot);
        for (double& x : *out) x *= shrink;
        sum *= shrink, top = dot;
      }
      const double w = std::exp(dot - top);
      sum += w;
      view.codec.DecodeV(slice, pos % kBlockTokens, row.data());
      for (int c = 0; c < dim; ++c) (*out)[static_cast<size_t>(c)] += w * row[c];
    }
  }
  for (double& x : *out) x /= sum;
  return top + std::log(sum);
}

struct Worst {
  double out = 0, lse = 0;
};

bool RunCase(const Case& c, Random* random, Worst* worst) {
  std::vector<HeadClass> classes;
  for (int h = 0; h < c.kv_heads; ++h)
    classes.push_back((*random)() % 2 ? HeadClass::kStreaming : HeadClass::kRetrieval);
  const HeadMap heads(classes);
  const KvCodec codec(c.types.k, c.types.v, c.dim);
  const Problem p = RandomProblem(c, heads, random);
  PagedKv kv(codec, heads, c.slots, (c.max_len + 63) / 64, KeyStats{16, codec.dim()}, random);
  Fill(p, kv.view(), c.group, random);

  const size_t width = static_cast<size_t>(p.shape.num_q_heads * c.dim);
  const size_t stride = width + 64;  // not contiguous
  const size_t rows = static_cast<size_t>(p.rows);
  const std::vector<uint16_t> q = RandomBf16(rows * stride, 1.0f, random);
  const DeviceArray<uint16_t> dq(q);
  const DeviceArray<Tile> tiles(p.tiles);
  const DeviceArray<Run> runs(p.runs);
  const double scale = 1 / std::sqrt(static_cast<double>(c.dim));
  cuda::DecodeArgs args{};
  args.q = dq.get();
  args.q_stride = static_cast<int64_t>(stride), args.out_stride = static_cast<int64_t>(stride);
  args.view = kv.Upload();
  args.tiles = tiles.get(), args.runs = runs.get();
  args.num_tiles = static_cast<int>(p.tiles.size());
  args.max_blocks = (c.max_len + 63) / 64;
  args.shape = p.shape, args.scale = static_cast<float>(scale);

  std::vector<int32_t> listed;
  for (const Tile& tile : p.tiles) {
    int32_t blocks = 0;
    for (int r = tile.run_begin; r < tile.run_end; ++r)
      blocks += p.runs[static_cast<size_t>(r)].count;
    listed.push_back(blocks);
  }
  const DeviceArray<int32_t> d_listed(listed);
  const auto run = [&](bool deterministic, bool counted, const Tile* only,
                       std::vector<uint16_t>* out, std::vector<float>* lse) {
    const DeviceArray<uint16_t> d_out(rows * stride);
    const DeviceArray<float> d_lse(rows * static_cast<size_t>(p.shape.num_q_heads));
    cuda::DecodeArgs a = args;
    a.deterministic = deterministic;
    if (counted) a.tile_blocks = d_listed.get(), a.settled = true;
    if (only) a.tiles = only, a.num_tiles = 1;
    const DeviceArray<std::byte> workspace(
        cuda::DecodeWorkspace(a.num_tiles, p.shape, c.dim, deterministic));
    a.workspace = workspace.get();
    a.out = d_out.get(), a.lse = d_lse.get();
    for (int i = 0; i < (counted ? 4 : 1); ++i)  // begin while the one before ends
      Ok(cuda::LaunchDecode(a, nullptr), "LaunchDecode");
    Ok(cudaDeviceSynchronize(), "decode");
    *out = d_out.Host(), *lse = d_lse.Host();
  };

  const std::string name = "decode " + codec.name() + " D " + std::to_string(c.dim) + " kv heads " +
                           std::to_string(c.kv_heads) + " group " + std::to_string(c.group) +
                           " slots " + std::to_string(c.slots) + " len " +
                           std::to_string(c.max_len) + " q " + std::to_string(c.q_len) +
                           (c.shared ? "" : " a list a head");
  bool good = true;
  std::vector<uint16_t> out, again;
  std::vector<float> lse, lse_again;
  for (bool deterministic : {false, true}) {
    run(deterministic, false, nullptr, &out, &lse);
    run(deterministic, true, nullptr, &again, &lse_again);
    if (out != again) good = false, std::printf("FAILED %s: two runs differ\n", name.c_str());
    if (deterministic && p.tiles[0].q_len > 0) {
      std::vector<uint16_t> alone;
      std::vector<float> unused;
      run(true, false, tiles.get(), &alone, &unused);
      const Tile& tile = p.tiles[0];
      const size_t n = static_cast<size_t>(p.shape.heads_per_tile * c.dim);
      for (int i = 0; i < tile.q_len; ++i)
        if (!std::equal(alone.begin() + static_cast<int64_t>((tile.q_begin + i) * stride),
                        alone.begin() + static_cast<int64_t>((tile.q_begin + i) * stride + n),
                        out.begin() + static_cast<int64_t>((tile.q_begin + i) * stride)))
          good = false, std::printf("FAILED %s: depends on the batch\n", name.c_str());
    }
    std::vector<Worst> errors(p.tiles.size());
    Parallel(p.tiles.size(), [&](size_t t) {
      const Tile& tile = p.tiles[t];
      std::vector<double> expected;
      for (int i = 0; i < tile.q_len; ++i)
        for (int h = tile.head; h < tile.head + p.shape.heads_per_tile; ++h) {
          const size_t at =
              static_cast<size_t>(tile.q_begin + i) * stride + static_cast<size_t>(h * c.dim);
          const double log_sum =
              Reference(p, kv.view(), tile, c.group, i, q.data() + at, scale, &expected);
          double difference = 0, norm = 0;
          for (size_t d = 0; d < static_cast<size_t>(c.dim); ++d) {
            const double e = FromBf16(out[at + d]) - expected[d];
            difference += e * e, norm += expected[d] * expected[d];
          }
          const double error = std::sqrt(difference / norm);
          const double lse_error = std::abs(
              lse[static_cast<size_t>((tile.q_begin + i) * p.shape.num_q_heads + h)] - log_sum);
          // Written so that NaN is the worst of all.
          if (!(error <= errors[t].out)) errors[t].out = std::isnan(error) ? 1e9 : error;
          if (!(lse_error <= errors[t].lse))
            errors[t].lse = std::isnan(lse_error) ? 1e9 : lse_error;
        }
    });
    Worst here;
    for (const Worst& e : errors)
      here.out = std::max(here.out, e.out), here.lse = std::max(here.lse, e.lse);
    if (here.out > 1e-2 || here.lse > 2e-3)
      good = false, std::printf("FAILED %s%s: error %.3g, log-sum-exp %.3g\n", name.c_str(),
                                deterministic ? " deterministic" : "", here.out, here.lse);
    worst->out = std::max(worst->out, here.out), worst->lse = std::max(worst->lse, here.lse);
  }
  return good;
}

}  // namespace

bool CheckDecode() {
  Random random(1);
  std::vector<Case> cases;
  const KvType types[] = {KvType::kKv16, KvType::kKv8, KvType::kKv4};
  for (KvType k : types)
    for (KvType v : types)
      for (int dim : {64, 128}) {
        cases.push_back({{k, v}, dim, 2, 4, 3, 1500, 1, true});
        cases.push_back({{k, v}, dim, 2, 6, 2, 700, 2, true});
      }
  for (KvType k : types)
    for (int dim : {64, 128}) {
      for (int group : {1, 3, 7, 8}) cases.push_back({{k, k}, dim, 4, group, 5, 900, 1, true});
      cases.push_back({{k, k}, dim, 2, 4, 4, 900, 1, false});
      cases.push_back({{k, k}, dim, 2, 4, 2, 900, 8, true});  // 32 rows
      cases.push_back({{k, k}, dim, 1, 8, 2, 700, 8, true});  // 64 rows
      cases.push_back({{k, k}, dim, 1, 1, 3, 300, 40, true});
      cases.push_back({{k, k}, dim, 1, 4, 1, 64, 1, true});
      cases.push_back({{k, k}, dim, 1, 4, 1, 12000, 1, true});  // longer than 32 runs, 128 blocks
    }
  for (int slots : {1, 2, 17, 64, 256})
    cases.push_back({{KvType::kKv8, KvType::kKv8}, 64, 8, 4, slots, 400, 1, true});
  int failed = 0;
  Worst worst;
  for (const Case& c : cases) failed += !RunCase(c, &random, &worst);
  std::printf("decode: %zu cases, %d failed; worst relative error %.2e, log-sum-exp %.2e\n",
              cases.size(), failed, worst.out, worst.lse);
  return failed == 0;
}

}  // namespace lserve::bench
