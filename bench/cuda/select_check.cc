// Page selection and decode plans on the device.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <numeric>

#include "decode_check.h"
#include "device_kv.h"
#include "sparse/planner.h"

namespace lserve::bench {
namespace {

struct SelectCase {
  int dim, logical_tokens, kv_heads, group, rows, blocks, k;
  bool shared;
  int bits;   // of statistics
  bool ties;  // few different pages, many equal scores
};

// Statistics of a block: of each logical page random minima and maxima.
void FillStats(const KeyStats& layout, uint16_t* stats, Random* random) {
  std::normal_distribution<float> normal;
  std::vector<float> low(static_cast<size_t>(layout.dim)), high(low);
  for (int page = 0; page < layout.pages_per_block(); ++page) {
    for (size_t c = 0; c < low.size(); ++c) {
      const float a = normal(*random), b = normal(*random);
      low[c] = std::min(a, b), high[c] = std::max(a, b);
    }
    layout.Encode(low.data(), high.data(), page, stats);
  }
}

// Scores of blocks [first, end) as they are ranked, in double precision.
std::vector<double> Ranking(const KvView& view, int slot, int kv_head, int first, int end,
                            const uint16_t* q, int heads, bool shared) {
  const int dim = view.codec.dim(), pages = view.stats.pages_per_block();
  const double lowest = -std::numeric_limits<double>::infinity();
  std::vector<double> best(static_cast<size_t>(end - first), lowest);
  for (int h = 0; h < heads; ++h) {
    std::vector<double> score;
    for (int b = first; b < end; ++b) {
      const uint16_t* stats = view.Stats(slot, kv_head, b);
      std::vector<float> low(static_cast<size_t>(dim)), high(low);
      double top = lowest;
      for (int l = 0; l < pages; ++l) {
        view.stats.Decode(stats, l, low.data(), high.data());
        double sum = 0;
        for (int c = 0; c < dim; ++c) {
          const double x = FromBf16(q[h * dim + c]);
          sum += std::max(x * low[static_cast<size_t>(c)], x * high[static_cast<size_t>(c)]);
        }
        top = std::max(top, sum);
      }
      score.push_back(top);
    }
    if (shared) {
      double sum = 0;
      for (double& s : score) s /= std::sqrt(static_cast<double>(dim));
      const double top = *std::max_element(score.begin(), score.end());
      for (double s : score) sum += std::exp(s - top);
      for (double& s : score) s -= top + std::log(sum);
    }
    for (size_t i = 0; i < score.size(); ++i) best[i] = std::max(best[i], score[i]);
  }
  return best;
}

bool RunSelect(const SelectCase& c, Random* random, int* exact, int* total) {
  std::vector<HeadClass> classes;
  for (int h = 0; h < c.kv_heads; ++h)
    classes.push_back(h % 3 == 1 ? HeadClass::kStreaming : HeadClass::kRetrieval);
  const HeadMap heads(classes);
  PagedKv kv(KvCodec(KvType::kKv4, KvType::kKv4, c.dim), heads, c.rows, c.blocks,
             KeyStats{c.logical_tokens, c.dim, c.bits}, random);
  const KvView view = kv.view();
  const size_t slice = view.stats.slice_bytes() / 2;
  std::vector<std::vector<uint16_t>> kinds;
  for (int i = 0; i < (c.ties ? 5 : 0); ++i) {
    kinds.emplace_back(slice);
    FillStats(view.stats, kinds.back().data(), random);
  }

  std::vector<DecodeRow> rows;
  for (int r = 0; r < c.rows; ++r) {
    const int sinks = static_cast<int>((*random)() % 3);
    const int local =
        r == 0 ? c.blocks
               : sinks + static_cast<int>((*random)() % static_cast<unsigned>(c.blocks - sinks));
    DecodeRow row{r, r, 1, c.blocks * 64, 0, 0, 1, 1, sinks, local, c.k};
    if (r % 5 == 3) row.due = 0;
    if (r % 7 == 4) row.slot = -1;
    rows.push_back(row);
    for (int h = 0; h < c.kv_heads; ++h)
      for (int b = sinks; b < local && !heads.streaming(h); ++b) {
        uint16_t* stats = view.Stats(r, h, b);
        if (c.ties)
          std::ranges::copy(kinds[(*random)() % kinds.size()], stats);
        else
          FillStats(view.stats, stats, random);
      }
  }
  const int q_heads = c.kv_heads * c.group, layers = 2, layer = 1;
  const int lists_per_layer = c.shared ? c.kv_heads : q_heads, capacity = c.k + 3;
  const std::vector<uint16_t> q =
      RandomBf16(static_cast<size_t>(c.rows * q_heads * c.dim), 1, random);
  const DeviceArray<uint16_t> dq(q);
  const DeviceArray<DecodeRow> d_rows(rows);
  const size_t lists = static_cast<size_t>(c.rows * layers * lists_per_layer);
  const DeviceArray<int32_t> d_lists(lists * static_cast<size_t>(capacity)), d_counts(lists);
  const DeviceArray<std::byte> workspace(
      cuda::SelectWorkspace(c.rows, q_heads, c.blocks, PageScore::kBounds));
  cuda::SelectLaunch launch{};
  launch.q = dq.get(), launch.q_stride = q_heads * c.dim;
  launch.rows = d_rows.get(), launch.num_rows = c.rows, launch.max_blocks = c.blocks;
  launch.view = kv.Upload();
  launch.lists = {d_lists.get(), d_counts.get(), capacity, layers, lists_per_layer};
  launch.layer = layer, launch.q_heads = q_heads, launch.shared = c.shared;
  launch.workspace = workspace.get();
  Ok(cuda::LaunchSelect(launch, nullptr), "LaunchSelect");
  Ok(cudaDeviceSynchronize(), "select");
  const std::vector<int32_t> chosen = d_lists.Host(), counts = d_counts.Host();
  launch.settled = true;
  for (int i = 0; i < 3; ++i)  // begin while the one before ends
    Ok(cuda::LaunchSelect(launch, nullptr), "LaunchSelect");
  Ok(cudaDeviceSynchronize(), "select");
  if (chosen != d_lists.Host() || counts != d_counts.Host()) {
    std::printf("FAILED select: two runs differ\n");
    return false;
  }

  std::atomic<int> bad = 0, same = 0, all = 0;
  Parallel(lists, [&](size_t i) {
    const int list = static_cast<int>(i) % lists_per_layer;
    const int of_layer = static_cast<int>(i) / lists_per_layer % layers;
    const int slot = static_cast<int>(i) / lists_per_layer / layers;
    const DecodeRow& row = rows[static_cast<size_t>(slot)];
    const int kv_head = c.shared ? list : list / c.group;
    if (of_layer != layer || row.slot < 0 || !row.due || heads.streaming(kv_head)) {
      bad += counts[i] != -1;  // untouched
      return;
    }
    const int head = c.shared ? list * c.group : list, n = row.local_begin - row.sink_blocks;
    const std::vector<double> score =
        Ranking(view, slot, kv_head, row.sink_blocks, row.local_begin,
                q.data() + (row.row * q_heads + head) * c.dim, c.shared ? c.group : 1, c.shared);
    std::vector<int> order(static_cast<size_t>(n));
    std::iota(order.begin(), order.end(), 0);
    const size_t k = static_cast<size_t>(std::min(c.k, n));
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
      return score[static_cast<size_t>(a)] > score[static_cast<size_t>(b)];
    });
    std::sort(order.begin(), order.begin() + static_cast<int64_t>(k));
    const int32_t* list_here = chosen.data() + i * static_cast<size_t>(capacity);
    std::vector<int> got;
    for (size_t j = 0; j < k; ++j) got.push_back(list_here[j] - row.sink_blocks);
    order.resize(k);
    ++all;
    same += got == order;
    bool good = counts[i] == static_cast<int>(k) &&
                std::is_sorted(got.begin(), got.end(), std::less_equal<int>()) &&
                (k == 0 || (got.front() >= 0 && got.back() < n));
    if (good && got != order) {  // only where scores are closer than single precision tells
      double least = 1e30, most = -1e30;
      std::vector<uint8_t> in(static_cast<size_t>(n));
      for (int b : got) in[static_cast<size_t>(b)] = 1;
      for (int b = 0; b < n; ++b)
        if (in[static_cast<size_t>(b)])
          least = std::min(least, score[static_cast<size_t>(b)]);
        else
          most = std::max(most, score[static_cast<size_t>(b)]);
      good = !c.ties && least >= most - 1e-4;
    }
    bad += !good;
  });
  *exact += same, *total += all;
  if (bad > 0)
    std::printf(
        "FAILED select %d bits D %d logical %d kv heads %d group %d rows %d blocks %d k %d%s%s: %d "
        "lists\n",
        c.bits, c.dim, c.logical_tokens, c.kv_heads, c.group, c.rows, c.blocks, c.k,
        c.shared ? "" : " a list a head", c.ties ? " ties" : "", bad.load());
  return bad == 0;
}

}  // namespace

bool CheckSelect() {
  Random random(2);
  std::vector<SelectCase> cases;
  for (int bits : {16, 8}) {
    for (int dim : {64, 128})
      for (int logical : {16, 32, 64})
        for (bool shared : {true, false}) {
          cases.push_back({dim, logical, 3, 4, 5, 300, 40, shared, bits, false});
          cases.push_back({dim, logical, 2, 7, 3, 133, 20, shared, bits, true});
        }
    for (int group : {1, 3, 6, 8, 12})
      for (int blocks : {5, 64, 67, 1000, 1025})
        cases.push_back({128, 16, 2, group, 3, blocks, 59, true, bits, false});
    cases.push_back({64, 16, 1, 2, 1, 16384, 59, true, bits, false});
    cases.push_back({64, 64, 1, 1, 1, 16384, 5000, false, bits, true});
    cases.push_back({64, 16, 4, 4, 64, 80, 30, true, bits, false});
  }
  int failed = 0, exact = 0, total = 0;
  for (const SelectCase& c : cases) failed += !RunSelect(c, &random, &exact, &total);
  std::printf("select: %zu cases, %d failed; %d of %d lists identical to double precision\n",
              cases.size(), failed, exact, total);
  return failed == 0;
}

namespace {

std::vector<std::pair<int, int>> Expand(const AttnPlan& plan, const Tile& tile) {
  std::vector<std::pair<int, int>> out;
  for (const Run& run : plan.RunsOf(tile))
    for (int i = 0; i < run.count; ++i) out.emplace_back(run.first + i, run.masked);
  return out;
}

bool RunPlan(const SparsityConfig& config, int layers, int kv_heads, int group, int sequences,
             Random* random) {
  std::vector<HeadMap> maps;
  std::vector<uint8_t> head_class;
  for (int l = 0; l < layers; ++l) {
    std::vector<HeadClass> classes;
    for (int h = 0; h < kv_heads; ++h) {
      classes.push_back((*random)() % 2 ? HeadClass::kStreaming : HeadClass::kRetrieval);
      head_class.push_back(static_cast<uint8_t>(classes.back()));
    }
    maps.emplace_back(classes);
  }
  Planner planner(config, &maps, group, 64);
  std::vector<SelectionState> states(static_cast<size_t>(sequences));
  std::vector<SeqStep> steps;
  for (int i = 0; i < sequences; ++i) {
    SeqStep step;
    step.slot = sequences - 1 - i, step.q_begin = i, step.q_len = 1;
    step.pos = static_cast<int>((*random)() % 20000);
    if ((*random)() % 2) step.pos = step.pos / 64 * 64 + static_cast<int>((*random)() % 3) - 1;
    step.pos = std::max(0, step.pos);
    step.decode = true;
    step.mode = i % 5 == 4 ? AttentionMode::kDense : AttentionMode::kLserve;
    step.budget = config.budget;
    step.state = &states[static_cast<size_t>(i)];
    steps.push_back(step);
  }
  planner.Begin(steps);
  const int per_head = config.shared_lists ? 1 : group, lists_here = kv_heads * per_head;
  const int capacity = config.budget / kBlockTokens;
  std::vector<DecodeRow> rows;
  std::vector<int32_t> lists(static_cast<size_t>(sequences * layers * lists_here * capacity), -1);
  std::vector<int32_t> counts(static_cast<size_t>(sequences * layers * lists_here));
  for (int i = 0; i < sequences; ++i) rows.push_back(planner.decode_row(i));
  rows.push_back(rows[0]), rows.back().slot = -1;
  for (int l = 0; l < layers; ++l)
    for (const SelectJob& job : planner.SelectJobs(l)) {
      std::vector<int> all(static_cast<size_t>(job.end_block - job.first_block));
      std::iota(all.begin(), all.end(), job.first_block);
      std::vector<int> some;
      std::sample(all.begin(), all.end(), std::back_inserter(some), job.k, *random);
      std::copy(some.begin(), some.end(), job.list);
      *job.count = static_cast<int>(some.size());
      const int list = config.shared_lists ? job.head / group : job.head;
      const size_t at = static_cast<size_t>((job.seq * layers + l) * lists_here + list);
      std::copy(some.begin(), some.end(), lists.begin() + static_cast<int64_t>(at) * capacity);
      counts[at] = *job.count;
    }
  const int num_rows = static_cast<int>(rows.size()), run_capacity = capacity + 8;
  const size_t num_tiles = static_cast<size_t>(layers * num_rows * lists_here);
  const DeviceArray<DecodeRow> d_rows(rows);
  const DeviceArray<int32_t> d_lists(lists), d_counts(counts);
  const DeviceArray<uint8_t> d_class(head_class);
  const DeviceArray<Tile> d_tiles(num_tiles);
  const DeviceArray<Run> d_runs(num_tiles * static_cast<size_t>(run_capacity));
  const DeviceArray<int32_t> d_blocks(num_tiles);
  const int first_layer = layers > 1 ? 1 : 0;
  Ok(cuda::LaunchDecodePlan({d_rows.get(),
                             num_rows,
                             {d_lists.get(), d_counts.get(), capacity, layers, lists_here},
                             d_class.get(),
                             first_layer,
                             layers,
                             kv_heads * group,
                             kv_heads,
                             config.shared_lists,
                             d_tiles.get(),
                             d_runs.get(),
                             run_capacity,
                             d_blocks.get()},
                            nullptr),
     "LaunchDecodePlan");
  Ok(cudaDeviceSynchronize(), "decode plan");
  const std::vector<Tile> tiles = d_tiles.Host();
  const std::vector<Run> runs = d_runs.Host();
  const std::vector<int32_t> blocks = d_blocks.Host();
  int bad = 0;
  for (int l = first_layer; l < layers; ++l) {
    const AttnPlan expected = planner.Plan(l);
    const size_t begin = static_cast<size_t>(l * num_rows * lists_here);
    const size_t real = static_cast<size_t>(sequences * lists_here);
    AttnPlan got = expected;
    got.runs = runs;
    got.tiles = std::span(tiles).subspan(begin, real);
    const Status status = Validate(got);
    if (!status.ok()) ++bad, std::printf("%s\n", status.ToString().c_str());
    for (size_t i = 0; i < real && status.ok(); ++i) {
      const Tile &a = expected.tiles[i], &b = got.tiles[i];
      bad += a.seq != b.seq || a.head != b.head || a.q_begin != b.q_begin || a.q_len != b.q_len ||
             a.q_pos != b.q_pos || a.kv_len != b.kv_len || a.sink_len != b.sink_len ||
             a.window_len != b.window_len || Expand(expected, a) != Expand(got, b) ||
             ListedBlocks(got, b) != blocks[begin + i];
    }
    for (size_t i = real; i < static_cast<size_t>(num_rows * lists_here); ++i)
      bad += tiles[begin + i].q_len != 0 || blocks[begin + i] != 0;
  }
  if (bad > 0) std::printf("FAILED decode plan: %d tiles\n", bad);
  return bad == 0;
}

}  // namespace

bool CheckDecodePlan() {
  Random random(3);
  int failed = 0, cases = 0;
  for (bool shared : {true, false})
    for (int budget : {512, 4096})
      for (int sequences : {1, 8, 61})
        for (int kv_heads : {1, 2, 8}) {
          SparsityConfig config;
          config.shared_lists = shared, config.budget = budget, config.dense_below = 3000;
          config.decode_sink = kv_heads == 2 ? 0 : 128;
          failed += !RunPlan(config, 4, kv_heads, 4, sequences, &random), ++cases;
        }
  std::printf("decode plan: %d cases, %d failed\n", cases, failed);
  return failed == 0;
}

}  // namespace lserve::bench
