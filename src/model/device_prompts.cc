// The prompts of a step on a device: tiles of all layers, what is gathered for them, attention.
#include <algorithm>
#include <cmath>

#include "kernels/cuda/to_device.h"
#include "model/device_step.h"

namespace lserve {
namespace {

// The blocks that some tile of a KV head lists: what lies in the sinks, and from the first block
// behind them that is listed to the last.
void AppendGatherRanges(int kv_head, int to, std::span<const Tile> tiles, std::span<const Run> runs,
                        std::vector<cuda::GatherRange>* ranges) {
  int sinks = 0, sink_end = 0, rest = INT32_MAX, end = 0;
  for (const Tile& t : tiles) sinks = std::max(sinks, CeilDiv(t.sink_len, kBlockTokens));
  for (const Tile& t : tiles) {
    for (const Run& run : runs.subspan(Size(t.run_begin), Size(t.run_end - t.run_begin))) {
      const int run_end = run.first + run.count;
      if (run.first < sinks) sink_end = std::max(sink_end, std::min(run_end, sinks));
      if (run_end > sinks) rest = std::min(rest, std::max(run.first, sinks));
      end = std::max(end, run_end);
    }
  }
  if (sink_end > 0) ranges->push_back({kv_head, 0, sink_end, to});
  if (rest < end) ranges->push_back({kv_head, rest, end, to});
}

}  // namespace

// One prompt's gathered K and V stay where there is memory, so that its next chunk finds them: the
// longest's.
void DeviceModel::ChooseKept(const StepInput& input, Step* step) {
  if (scratch_heads_ == heads_at_once_) return;
  const SeqStep* chosen = nullptr;
  int prompt = -1;
  for (const SeqStep& s : input.sequences) {
    if (s.decode) continue;
    ++prompt;
    const bool longer = chosen == nullptr || s.pos + s.q_len > chosen->pos + chosen->q_len;
    if (s.id == 0 || !longer) continue;
    chosen = &s;
    step->kept_prompt = prompt;
  }
  if (chosen == nullptr) return;
  const bool goes_on = chosen->id == kept_.id && chosen->pos == kept_.tokens;
  step->kept_from = goes_on ? chosen->pos / kBlockTokens : 0;
  kept_ = {chosen->id, chosen->pos + chosen->q_len};
}

// Tiles and gather ranges of all layers and prompts, uploaded at once; cut by groups of KV heads
// that the scratch holds together.
void DeviceModel::PlanPrompts(const StepInput& input, Planner* planner, Step* step) {
  host_tiles_.clear();
  host_runs_.clear();
  ChooseKept(input, step);
  for (int layer = 0; layer < config_.layers; ++layer) {
    int prompt = -1, kept = 0;  // heads kept so far
    for (size_t i = 0; i < input.sequences.size(); ++i) {
      const SeqStep& s = input.sequences[i];
      if (s.decode) continue;
      const KeptHeads keeps =
          ++prompt == step->kept_prompt ? kept_heads_[Size(layer)] : KeptHeads{};
      size_t tile = host_tiles_.size();
      planner->AppendPromptTiles(layer, static_cast<int>(i), &host_tiles_, &host_runs_);
      for (int h0 = 0; h0 < config_.kv_heads; h0 += heads_at_once_) {
        const int h1 = std::min(config_.kv_heads, h0 + heads_at_once_);
        Step::Part part{};
        part.tile_begin = static_cast<int>(tile);
        part.range_begin = static_cast<int>(step->ranges.size());
        for (int h = h0; h < h1; ++h) {
          const size_t first = tile;
          while (tile < host_tiles_.size() && host_tiles_[tile].head / config_.group() == h) ++tile;
          if (keeps.heads >> h & 1) {  // all of it: what later chunks list is not known
            step->ranges.push_back(
                {h, step->kept_from, CeilDiv(s.pos + s.q_len, kBlockTokens), keeps.first + kept++});
          } else {
            AppendGatherRanges(h, h - h0, {host_tiles_.data() + first, tile - first}, host_runs_,
                               &step->ranges);
          }
        }
        part.tile_end = static_cast<int>(tile);
        part.range_end = static_cast<int>(step->ranges.size());
        for (int r = part.range_begin; r < part.range_end; ++r)
          part.max_range =
              std::max(part.max_range, step->ranges[Size(r)].end - step->ranges[Size(r)].first);
        step->parts.push_back(part);
      }
    }
  }
  Upload<Tile>(device_, host_tiles_, &tiles_);
  Upload<Run>(device_, host_runs_, &runs_);
  Upload<cuda::GatherRange>(device_, step->ranges, &ranges_);
}

void DeviceModel::PromptAttention(const Step& step, int layer, const KvView& view) {
  const cuda::DeviceView device_view = cuda::ToDevice(view);
  const int head_groups = CeilDiv(config_.kv_heads, heads_at_once_);
  const int64_t head_stride = int64_t{max_blocks_} * kBlockTokens * config_.head_dim;
  const size_t prompts = step.prompts.size();
  for (size_t p = 0; p < prompts; ++p) {
    for (int g = 0; g < head_groups; ++g) {
      const Step::Part& part =
          step.parts[(Size(layer) * prompts + p) * Size(head_groups) + Size(g)];
      const int first_head = g * heads_at_once_;
      device_->Gather({device_view, step.prompts[p].slot,
                       ranges_.as<cuda::GatherRange>() + part.range_begin,
                       part.range_end - part.range_begin, part.max_range, k_scratch_.as<uint16_t>(),
                       v_scratch_.as<uint16_t>(), head_stride});
      cuda::PrefillArgs args{};
      args.q = qkv_.as<uint16_t>();
      args.out = attended_.as<uint16_t>();
      args.q_stride = qkv_width();
      args.out_stride = int64_t{config_.q_heads} * config_.head_dim;
      args.k = k_scratch_.as<uint16_t>();
      args.v = v_scratch_.as<uint16_t>();
      args.head_stride = head_stride;
      args.kv_tokens = max_blocks_ * kBlockTokens;
      args.tiles = tiles_.as<Tile>() + part.tile_begin;
      args.runs = runs_.as<Run>();
      args.host_tiles = host_tiles_.data() + part.tile_begin;
      args.host_runs = host_runs_.data();
      args.num_tiles = part.tile_end - part.tile_begin;
      args.shape = {config_.q_heads, config_.kv_heads, shared_ ? config_.group() : 1,
                    device_->PrefillTile(config_.head_dim, config_.group())};
      args.dim = config_.head_dim;
      args.first_kv_head = first_head;
      args.scale = 1.0f / std::sqrt(static_cast<float>(config_.head_dim));
      args.deterministic = options_.deterministic;
      args.workspace = workspace_.data();
      args.scratch_heads = scratch_heads_;
      if (static_cast<int>(p) == step.kept_prompt) {
        args.kept_heads = kept_heads_[Size(layer)].heads;
        args.kept_first = kept_heads_[Size(layer)].first;
      }
      device_->Prefill(args);
    }
  }
}

}  // namespace lserve
