#include "sparse/planner.h"

#include <algorithm>

#include "sparse/windows.h"

namespace lserve {

struct Planner::Impl {
  Impl(const SparsityConfig& config, const std::vector<HeadMap>* maps, int q_heads_per_kv, int tile,
       bool by_chunk)
      : cfg(config),
        layers(*maps),
        group(q_heads_per_kv),
        prefill_tile(tile),
        tiles_by_chunk(by_chunk) {}

  // A decode step of a sequence that reads selected pages only.
  struct Selected {
    bool on = false;
    bool due = false;     // choose anew this step
    int sink_blocks = 0;  // always read
    int local_begin = 0;  // read from here to the newest
    int k = 0;            // pages to choose between them
  };

  int ListsPerHead() const { return cfg.shared_lists ? 1 : group; }
  int KvHeads() const { return layers[0].num_heads(); }
  int64_t ListIndex(int layer, int kv_head, int list) const {
    return (static_cast<int64_t>(layer) * KvHeads() + kv_head) * ListsPerHead() + list;
  }

  Selected Decide(const SeqStep& step) const;
  void AddTiles(int layer, int kv_head, size_t index);
  void AddRetrievalRuns(int layer, int kv_head, int list, size_t index, const Tile& tile);

  const SparsityConfig cfg;
  const std::vector<HeadMap>& layers;
  const int group, prefill_tile;
  const bool tiles_by_chunk;

  std::vector<SeqStep> steps;
  std::vector<Selected> selected;  // by step
  std::vector<VisitCount> visits;  // by step
  std::vector<MissedMass> missed;  // by step
  int64_t selector_runs = 0;

  std::vector<SelectJob> jobs;
  std::vector<Tile> tiles;
  std::vector<Run> runs;
  std::vector<int32_t> blocks;
  std::vector<Tile> audit_tiles;
  std::vector<Run> audit_runs;
};

Planner::Planner(const SparsityConfig& config, const std::vector<HeadMap>* layers, int group,
                 int prefill_tile, bool tiles_by_chunk)
    : impl_(std::make_unique<Impl>(config, layers, group, prefill_tile, tiles_by_chunk)) {}
Planner::~Planner() = default;

Status Planner::Check(const SparsityConfig& c) {
  // Far beyond any context, and far enough below the largest int for sums of a few of them.
  constexpr int kMost = 1 << 28;
  struct Range {
    const char* flag;
    int value, least, multiple;
  };
  const Range ranges[] = {
      {"--prefill-sink", c.prefill_sink, 0, 1},
      {"--prefill-local", c.prefill_local, 1, 1},
      {"--decode-sink", c.decode_sink, 0, kBlockTokens},
      {"--decode-local", c.decode_local, kBlockTokens, kBlockTokens},
      {"--budget", c.budget, kBlockTokens, kBlockTokens},
      {"--selector-sink-pages", c.selector_sink_pages, 0, 1},
      {"--selector-local-pages", c.selector_local_pages, 1, 1},
      {"--reuse-interval", c.reuse_interval, 1, 1},
      {"--dense-below", c.dense_below, 0, 1},
      {"--audit-interval", c.audit_interval, 0, 1},
  };
  for (const Range& r : ranges) {
    if (r.value < r.least || r.value > kMost)
      return InvalidArgument("{}: {} (must be {} to {})", r.flag, r.value, r.least, kMost);
    if (r.value % r.multiple != 0)
      return InvalidArgument("{}: {} (must be a multiple of {})", r.flag, r.value, r.multiple);
  }
  if (c.prefill_sink < c.decode_sink)
    return InvalidArgument("--prefill-sink: {} (must not be less than --decode-sink {})",
                           c.prefill_sink, c.decode_sink);
  if (c.prefill_local < c.decode_local)
    return InvalidArgument("--prefill-local: {} (must not be less than --decode-local {})",
                           c.prefill_local, c.decode_local);
  if (c.logical_page != 16 && c.logical_page != 32 && c.logical_page != 64)
    return InvalidArgument("--logical-page: {} (must be 16, 32 or 64)", c.logical_page);
  if (c.budget / kBlockTokens <= c.selector_sink_pages + c.selector_local_pages)
    return InvalidArgument(
        "--budget: {} tokens leave no page to select beside {} sink and {} local pages", c.budget,
        c.selector_sink_pages, c.selector_local_pages);
  if (!(c.static_sparsity >= 0 && c.static_sparsity <= 1))
    return InvalidArgument("--static-sparsity: {} (must be between 0 and 1)", c.static_sparsity);
  return Ok();
}

int Planner::SinkBlocks() const {
  return (impl_->cfg.prefill_sink + kBlockTokens - 1) / kBlockTokens;
}

int Planner::FirstWindowBlock(int len, bool prefill) const {
  // The next query is at position `len` and sees keys after len - window.
  const int window = prefill ? impl_->cfg.prefill_local : impl_->cfg.decode_local;
  return std::max(0, len - window + 1) / kBlockTokens;
}

Planner::Impl::Selected Planner::Impl::Decide(const SeqStep& step) const {
  Selected s;
  const int len = step.pos + step.q_len, pages = (len + kBlockTokens - 1) / kBlockTokens;
  const int budget_pages = step.budget / kBlockTokens;
  if (!step.decode || step.mode == AttentionMode::kDense || len <= cfg.dense_below ||
      pages <= budget_pages)
    return s;
  s.on = true;
  s.sink_blocks = cfg.selector_sink_pages;
  s.k = std::max(1, budget_pages - cfg.selector_sink_pages - cfg.selector_local_pages);
  const SelectionState& state = *step.state;
  // The phase counts generated tokens; a step of several is due when it reaches or passes a
  // multiple of C.
  s.due = state.local_begin < 0 || (len - state.prompt_len) / cfg.reuse_interval >
                                       (step.pos - state.prompt_len) / cfg.reuse_interval;
  s.local_begin =
      s.due ? std::max(s.sink_blocks, step.pos / kBlockTokens - (cfg.selector_local_pages - 1))
            : state.local_begin;
  return s;
}

void Planner::Begin(std::span<const SeqStep> steps) {
  Impl& p = *impl_;
  p.steps.assign(steps.begin(), steps.end());
  p.visits.assign(steps.size(), {});
  p.missed.assign(steps.size(), {});
  p.selected.clear();
  for (const SeqStep& step : p.steps) {
    const Impl::Selected selected = p.Decide(step);
    if (selected.due) {
      SelectionState& state = *step.state;
      if (state.capacity < selected.k) {
        state.capacity = selected.k;
        const size_t lists = p.layers.size() * static_cast<size_t>(p.KvHeads() * p.ListsPerHead());
        state.lists.assign(lists * static_cast<size_t>(selected.k), 0);
        state.counts.assign(lists, 0);
      }
      state.local_begin = selected.local_begin;
    }
    p.selected.push_back(selected);
  }
}

std::span<const SelectJob> Planner::SelectJobs(int layer) {
  Impl& p = *impl_;
  p.jobs.clear();
  const HeadMap& map = p.layers[static_cast<size_t>(layer)];
  for (size_t i = 0; i < p.steps.size(); ++i) {
    const SeqStep& step = p.steps[i];
    const Impl::Selected& s = p.selected[i];
    if (!s.due) continue;
    const size_t before = p.jobs.size();
    const int lists = p.ListsPerHead(), heads = p.group / lists;
    for (int h = 0; h < map.num_heads(); ++h) {
      if (map.streaming(h)) continue;
      for (int list = 0; list < lists; ++list) {
        const int64_t index = p.ListIndex(layer, h, list);
        SelectionState& state = *step.state;
        p.jobs.push_back({step.slot, step.q_begin + step.q_len - 1, h * p.group + list * heads,
                          heads, s.sink_blocks, s.local_begin, s.k,
                          state.lists.data() + index * state.capacity,
                          state.counts.data() + index});
      }
    }
    p.selector_runs += p.jobs.size() > before;
  }
  return p.jobs;
}

void Planner::Impl::AddRetrievalRuns(int layer, int kv_head, int list, size_t index,
                                     const Tile& tile) {
  const Selected& s = selected[index];
  const SelectionState& state = *steps[index].state;
  blocks.clear();
  for (int b = 0; b < s.sink_blocks; ++b) blocks.push_back(b);
  const int64_t list_index = ListIndex(layer, kv_head, list);
  const int32_t* chosen = state.lists.data() + list_index * state.capacity;
  blocks.insert(blocks.end(), chosen, chosen + state.counts[static_cast<size_t>(list_index)]);
  const int newest = (tile.q_pos + tile.q_len - 1) / kBlockTokens;
  for (int b = s.local_begin; b <= newest; ++b) blocks.push_back(b);
  AppendRuns(blocks, (tile.q_pos + 1) / kBlockTokens, &runs);
}

// Tiles of one KV head for one sequence.
void Planner::Impl::AddTiles(int layer, int kv_head, size_t index) {
  const SeqStep& step = steps[index];
  const Selected& s = selected[index];
  const bool streaming =
      layers[static_cast<size_t>(layer)].streaming(kv_head) && step.mode == AttentionMode::kLserve;
  const int heads = cfg.shared_lists ? group : 1;
  VisitCount& count = visits[index];
  for (int q = 0; q < step.q_len;) {
    const int pos = step.pos + q, inside = tiles_by_chunk ? 0 : pos % prefill_tile;
    const int q_len = std::min(step.q_len - q, prefill_tile - inside);
    for (int h = 0; h < group; h += heads) {
      Tile tile{step.slot,
                kv_head * group + h,
                step.q_begin + q,
                q_len,
                pos,
                step.pos + step.q_len,
                static_cast<int32_t>(runs.size()),
                0,
                0,
                kNoWindow};
      if (streaming) {
        tile.sink_len = step.decode ? cfg.decode_sink : cfg.prefill_sink;
        tile.window_len = step.decode ? cfg.decode_local : cfg.prefill_local;
      }
      if (!streaming && s.on)
        AddRetrievalRuns(layer, kv_head, heads == group ? 0 : h, index, tile);
      else
        AppendWindowRuns(tile, &runs);
      tile.run_end = static_cast<int32_t>(runs.size());
      tiles.push_back(tile);
    }
    // Counted for the KV head: with lists for each query head, their mean.
    const int64_t all = (pos + q_len - 1) / kBlockTokens + 1;
    int64_t read = 0;
    const int tiles_here = group / heads;
    for (int t = 0; t < tiles_here; ++t) {
      const Tile& tile = tiles[tiles.size() - 1 - static_cast<size_t>(t)];
      for (int r = tile.run_begin; r < tile.run_end; ++r)
        read += runs[static_cast<size_t>(r)].count;
    }
    read /= tiles_here;
    if (step.decode)
      count.pages_total += all, count.pages_read += read;
    else
      count.prefill_blocks_total += all, count.prefill_blocks_read += read;
    q += q_len;
  }
}

AttnPlan Planner::Plan(int layer) {
  Impl& p = *impl_;
  p.tiles.clear();
  p.runs.clear();
  const HeadMap& map = p.layers[static_cast<size_t>(layer)];
  for (size_t i = 0; i < p.steps.size(); ++i)
    for (int h = 0; h < map.num_heads(); ++h) p.AddTiles(layer, h, i);
  AttnPlan plan;
  plan.shape = {map.num_heads() * p.group, map.num_heads(), p.cfg.shared_lists ? p.group : 1,
                p.prefill_tile};
  plan.tiles = p.tiles;
  plan.runs = p.runs;
  return plan;
}

bool Planner::Audits(int layer, int index) const {
  const Impl& p = *impl_;
  const SeqStep& step = p.steps[static_cast<size_t>(index)];
  return step.audit > 0 && p.selected[static_cast<size_t>(index)].on &&
         p.layers[static_cast<size_t>(layer)].count(HeadClass::kRetrieval) > 0 &&
         IsAudited(step.audit, static_cast<int>(p.layers.size()), layer,
                   step.pos + step.q_len - step.state->prompt_len);
}

AttnPlan Planner::AuditPlan(int layer) {
  Impl& p = *impl_;
  p.audit_tiles.clear();
  p.audit_runs.clear();
  const HeadMap& map = p.layers[static_cast<size_t>(layer)];
  for (size_t i = 0; i < p.steps.size(); ++i) {
    if (!Audits(layer, static_cast<int>(i))) continue;
    const SeqStep& step = p.steps[i];
    for (int h = 0; h < map.num_heads(); ++h) {
      for (int q = 0, q_len; q < step.q_len && !map.streaming(h); q += q_len) {
        q_len = std::min(step.q_len - q, p.prefill_tile);
        Tile tile{step.slot,
                  h * p.group,
                  step.q_begin + q,
                  q_len,
                  step.pos + q,
                  step.pos + step.q_len,
                  static_cast<int32_t>(p.audit_runs.size()),
                  0,
                  0,
                  kNoWindow};
        AppendWindowRuns(tile, &p.audit_runs);
        tile.run_end = static_cast<int32_t>(p.audit_runs.size());
        p.audit_tiles.push_back(tile);
      }
    }
  }
  AttnPlan plan;
  plan.shape = {map.num_heads() * p.group, map.num_heads(), p.group, p.prefill_tile};
  plan.tiles = p.audit_tiles;
  plan.runs = p.audit_runs;
  return plan;
}

void Planner::RecordAudit(int layer, int index, const float* lse_read, const float* lse_all) {
  Impl& p = *impl_;
  const HeadMap& map = p.layers[static_cast<size_t>(layer)];
  const int q_heads = map.num_heads() * p.group;
  const int64_t count = int64_t{p.steps[static_cast<size_t>(index)].q_len} * q_heads;
  MissedMass& missed = p.missed[static_cast<size_t>(index)];
  ++missed.layer_steps;
  for (int64_t at = 0; at < count; ++at)
    if (!map.streaming(static_cast<int>(at) % q_heads / p.group))
      missed.AddHead(lse_read[at], lse_all[at]);
}

const MissedMass& Planner::missed(int index) const {
  return impl_->missed[static_cast<size_t>(index)];
}

DecodeRow Planner::decode_row(int index) const {
  const size_t i = static_cast<size_t>(index);
  const SeqStep& step = impl_->steps[i];
  const Impl::Selected& s = impl_->selected[i];
  DecodeRow row{step.slot, step.q_begin,  step.q_len,    step.pos,      0,  kNoWindow,
                s.on,      s.on && s.due, s.sink_blocks, s.local_begin, s.k};
  if (step.mode == AttentionMode::kLserve) {
    row.sink_len = impl_->cfg.decode_sink;
    row.window_len = impl_->cfg.decode_local;
  }
  return row;
}

void Planner::AppendPromptTiles(int layer, int index, std::vector<Tile>* tiles,
                                std::vector<Run>* runs) {
  Impl& p = *impl_;
  p.tiles.swap(*tiles);
  p.runs.swap(*runs);
  const HeadMap& map = p.layers[static_cast<size_t>(layer)];
  for (int h = 0; h < map.num_heads(); ++h) p.AddTiles(layer, h, static_cast<size_t>(index));
  p.tiles.swap(*tiles);
  p.runs.swap(*runs);
}

void Planner::CountDecode(int index) {
  Impl& p = *impl_;
  const size_t i = static_cast<size_t>(index);
  const SeqStep& step = p.steps[i];
  const Impl::Selected& s = p.selected[i];
  VisitCount& count = p.visits[i];
  const int newest = (step.pos + step.q_len - 1) / kBlockTokens;
  int64_t streaming = newest + 1, retrieval = newest + 1;
  if (step.mode == AttentionMode::kLserve) {
    const Tile tile{step.slot,
                    0,
                    0,
                    step.q_len,
                    step.pos,
                    step.pos + step.q_len,
                    0,
                    0,
                    p.cfg.decode_sink,
                    p.cfg.decode_local};
    p.runs.clear();
    AppendWindowRuns(tile, &p.runs);
    streaming = 0;
    for (const Run& run : p.runs) streaming += run.count;
  }
  if (s.on)
    retrieval = s.sink_blocks + std::min(s.k, std::max(0, s.local_begin - s.sink_blocks)) + newest -
                s.local_begin + 1;
  for (const HeadMap& map : p.layers) {
    count.pages_total += static_cast<int64_t>(map.num_heads()) * (newest + 1);
    count.pages_read +=
        map.count(HeadClass::kStreaming) * streaming + map.count(HeadClass::kRetrieval) * retrieval;
    p.selector_runs += s.on && s.due && map.count(HeadClass::kRetrieval) > 0;
  }
}

const SparsityConfig& Planner::config() const { return impl_->cfg; }

const VisitCount& Planner::visits(int index) const {
  return impl_->visits[static_cast<size_t>(index)];
}
int64_t Planner::selector_runs() const { return impl_->selector_runs; }

}  // namespace lserve
