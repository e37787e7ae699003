// Audits of page selection on a device: the log-sum-exp of what a decode row's retrieval heads read
// in a layer, and of all they could have read, by the decode kernel both times. What it writes
// beside them goes where nothing is kept between attention and MLP.
#include <algorithm>

#include "model/device_step.h"

namespace lserve {

void DeviceModel::PlanAudits(const StepInput& input, Planner* planner, Step* step) {
  const auto asks = [](const SeqStep& s) { return s.decode && s.audit > 0; };
  if (std::none_of(input.sequences.begin(), input.sequences.end(), asks)) return;
  std::vector<Tile> tiles;
  std::vector<Run> runs;
  for (int layer = 0; layer < config_.layers; ++layer) {
    const AttnPlan plan = planner->AuditPlan(layer);
    if (plan.tiles.empty()) continue;
    // A row's tiles stand together, rows as in the step.
    int next = static_cast<int>(tiles.size()), decode_row = 0;
    for (size_t i = 0; i < input.sequences.size(); ++i) {
      const SeqStep& s = input.sequences[i];
      if (!s.decode) continue;
      if (planner->Audits(layer, static_cast<int>(i))) {
        Step::Audited audit{layer, static_cast<int>(i),          decode_row, s.q_begin, next,
                            0,     static_cast<int>(runs.size())};
        for (const Tile& tile : plan.tiles) audit.tiles += tile.q_begin == s.q_begin;
        next += audit.tiles;
        step->audits.push_back(audit);
      }
      ++decode_row;
    }
    tiles.insert(tiles.end(), plan.tiles.begin(), plan.tiles.end());
    runs.insert(runs.end(), plan.runs.begin(), plan.runs.end());
  }
  Upload<Tile>(device_, tiles, &audit_tiles_);
  Upload<Run>(device_, runs, &audit_runs_);
}

// REQUIRES: the layer's decode plan, and its queries where Qkv says.
void DeviceModel::Audit(const Step& step, int layer, const KvView& view) {
  for (size_t k = 0; k < step.audits.size(); ++k) {
    const Step::Audited& audit = step.audits[k];
    if (audit.layer != layer) continue;
    cuda::DecodeArgs args = DecodeArgsOf(step, layer, view);
    args.out = gate_up_.as<uint16_t>();
    // Tiles name their row of the step; there is room for this one alone.
    args.lse = lse_.as<float>() + (2 * static_cast<int64_t>(k) - audit.row) * config_.q_heads;
    args.tiles += int64_t{audit.decode_row} * lists();
    args.tile_blocks += int64_t{audit.decode_row} * lists();
    args.num_tiles = lists();
    device_->Decode(args);
    args.lse += config_.q_heads;
    args.tiles = audit_tiles_.as<Tile>() + audit.first_tile;
    args.tile_blocks = nullptr;
    args.num_tiles = audit.tiles;
    args.runs = audit_runs_.as<Run>() + audit.first_run;
    args.shape.heads_per_tile = config_.group();
    device_->Decode(args);
  }
}

void DeviceModel::TakeAudits(const Step& step, Planner* planner) {
  if (step.audits.empty()) return;
  const size_t row = Size(config_.q_heads);
  host_lse_.resize(step.audits.size() * 2 * row);
  device_->CopyOut(host_lse_.data(), lse_.data(), host_lse_.size() * sizeof(float));
  for (size_t k = 0; k < step.audits.size(); ++k) {
    const float* read = host_lse_.data() + 2 * k * row;
    planner->RecordAudit(step.audits[k].layer, step.audits[k].index, read, read + row);
  }
}

}  // namespace lserve
