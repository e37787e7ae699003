#include "kernels/device_ops.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <stdexcept>
#include <vector>

#include "kernels/device_pages.h"
#include "quant/block_formats.h"

namespace lserve {
namespace {

// A matrix [rows][cols] in bf16 on the device.
class DeviceWeight : public Weight {
 public:
  DeviceWeight(Device* device, const TensorView& tensor)
      : rows_(static_cast<int>(tensor.rows)),
        cols_(static_cast<int>(tensor.cols)),
        data_(device, static_cast<size_t>(tensor.rows * tensor.cols) * 2) {
    std::vector<float> row(static_cast<size_t>(cols_));
    std::vector<uint16_t> bits(row.size());
    for (int r = 0; r < rows_; ++r) {
      DequantizeRow(tensor.dtype, tensor.Row(r), cols_, row.data());
      std::transform(row.begin(), row.end(), bits.begin(), ToBf16);
      device->CopyIn(data_.data() + static_cast<size_t>(r) * bits.size() * 2, bits.data(),
                     bits.size() * 2);
    }
  }
  int rows() const override { return rows_; }
  int cols() const override { return cols_; }
  size_t bytes() const override { return data_.size(); }
  const uint16_t* data() const { return data_.as<uint16_t>(); }

 private:
  int rows_, cols_;
  Block data_;
};

class DeviceOps : public Ops {
 public:
  explicit DeviceOps(std::unique_ptr<Device> device) : device_(std::move(device)) {}

  std::string_view name() const override { return "cuda"; }
  Status SupportsKv(const KvCodec& codec, int group) const override {
    return device_->Supports(codec, group);
  }
  int PrefillTile(int group) const override { return device_->PrefillTile(128, group); }

  Result<std::unique_ptr<Weight>> Prepare(const TensorView& tensor, bool) override {
    return std::unique_ptr<Weight>(new DeviceWeight(device_.get(), tensor));
  }

  void Embed(const Weight& table, std::span<const int32_t> ids, Mat out) override {
    const Block on_device = Floats(out.rows, out.cols), names = In(ids.data(), ids.size() * 4);
    device_->Embed(static_cast<const DeviceWeight&>(table).data(), names.as<int32_t>(), out.rows,
                   out.cols, on_device.as<float>());
    Out(on_device, out);
  }

  void RmsNorm(Mat x, const float* weight, float eps, Mat out) override {
    const Block in = In(x), w = In(weight, static_cast<size_t>(x.cols) * 4);
    const Block result = Floats(x.rows, x.cols);
    device_->RmsNorm(in.as<float>(), nullptr, w.as<float>(), eps, x.rows, x.cols, result.data(),
                     true);
    Out(result, out);
  }

  void Linear(Mat x, std::span<const LinearOutput> outputs) override {
    const Block in = InBf16(x);
    for (const LinearOutput& o : outputs) {
      const DeviceWeight& w = static_cast<const DeviceWeight&>(*o.weight);
      const Block y = o.accumulate ? In(o.y) : Floats(x.rows, w.rows());
      device_->Matmul(
          {w.data(), w.rows(), w.cols(), in.as<uint16_t>(), x.rows, y.data(), true, o.accumulate});
      Out(y, o.y);
      if (o.bias == nullptr) continue;
      for (int r = 0; r < o.y.rows; ++r)
        for (int c = 0; c < o.y.cols; ++c) o.y.Row(r)[c] += o.bias[c];
    }
  }

  void SiluMul(Mat gate, Mat up, Mat out) override {
    const Block g = In(gate), u = In(up), result = Floats(out.rows, out.cols);
    device_->SiluMulWide(g.as<float>(), u.as<float>(), static_cast<int64_t>(out.rows) * out.cols,
                         result.as<float>());
    Out(result, out);
  }

  void Append(const AppendArgs& args) override;
  void Select(const SelectArgs& args) override;
  void Attention(const AttentionArgs& args) override;

 private:
  Block Floats(int rows, int cols) {
    return Block(device_.get(), static_cast<size_t>(rows) * static_cast<size_t>(cols) * 4 + 1);
  }
  Block In(const void* data, size_t bytes) {
    Block block(device_.get(), bytes + 1);
    device_->CopyIn(block.data(), data, bytes);
    return block;
  }
  Block In(Mat m) {
    Block block = Floats(m.rows, m.cols);
    for (int r = 0; r < m.rows; ++r)
      device_->CopyIn(block.data() + static_cast<int64_t>(r) * m.cols * 4, m.Row(r),
                      static_cast<size_t>(m.cols) * 4);
    return block;
  }
  Block InBf16(Mat m) {
    const Block wide = In(m);
    Block out(device_.get(), static_cast<size_t>(m.rows) * static_cast<size_t>(m.cols) * 2 + 1);
    device_->ToBf16(wide.as<float>(), static_cast<int64_t>(m.rows) * m.cols, out.as<uint16_t>());
    return out;
  }
  void Out(const Block& block, Mat m) {
    for (int r = 0; r < m.rows; ++r)
      device_->CopyOut(m.Row(r), block.data() + static_cast<int64_t>(r) * m.cols * 4,
                       static_cast<size_t>(m.cols) * 4);
    Wait();
  }
  void Wait() {
    const Status status = device_->Synchronize();
    if (!status.ok()) throw std::runtime_error(status.ToString());
  }

  void DecodeTiles(const AttentionArgs& args, const std::vector<Tile>& tiles,
                   const DevicePages& pages, const Block& q, const Block& out, float* lse);
  void PrefillTiles(const AttentionArgs& args, const std::vector<Tile>& tiles,
                    const DevicePages& pages, const Block& q, const Block& out, float* lse);

  std::unique_ptr<Device> device_;
};

void DeviceOps::Append(const AppendArgs& args) {
  const int rows = args.q.rows, dim = args.view.codec.dim(), width = args.q.cols + 2 * args.k.cols;
  std::vector<float> qkv(static_cast<size_t>(rows) * static_cast<size_t>(width));
  const Mat all(qkv.data(), rows, width);
  const Mat parts[] = {all.Cols(0, args.q.cols), all.Cols(args.q.cols, args.k.cols),
                       all.Cols(args.q.cols + args.k.cols, args.k.cols)};
  const Mat given[] = {args.q, args.k, args.v};
  for (int i = 0; i < 3; ++i)
    for (int r = 0; r < rows; ++r) std::copy_n(given[i].Row(r), given[i].cols, parts[i].Row(r));

  std::vector<DevicePages::Name> blocks;
  std::vector<int32_t> groups;
  int slots = 0;
  for (int r = 0; r < rows; ++r) {
    const size_t i = static_cast<size_t>(r);
    const int statistics = args.view.stats.logical_tokens,
              logical = statistics > 0 ? statistics : kBlockTokens;
    if (r == 0 || args.seq[i] != args.seq[i - 1] ||
        args.pos[i] / logical != args.pos[i - 1] / logical)
      groups.push_back(r);
    for (int h = 0; h < args.view.heads->num_heads(); ++h)
      blocks.push_back({args.seq[i], h, args.pos[i] / kBlockTokens});
    slots = std::max(slots, args.seq[i] + 1);
  }
  groups.push_back(rows);
  DevicePages pages(device_.get(), args.view, slots, blocks);
  const Block x = In(all), rope = In(args.rope), seq = In(args.seq.data(), args.seq.size() * 4),
              pos = In(args.pos.data(), args.pos.size() * 4),
              begins = In(groups.data(), groups.size() * 4);
  cuda::AppendLaunch launch{};
  launch.qkv = x.data();
  launch.stride = width;
  launch.wide = true;
  launch.rows = rows;
  launch.q_heads = args.q.cols / dim;
  launch.rope = rope.as<float>();
  launch.rope_by_row = true;
  launch.seq = seq.as<int32_t>();
  launch.pos = pos.as<int32_t>();
  launch.groups = begins.as<int32_t>();
  launch.num_groups = static_cast<int>(groups.size()) - 1;
  launch.view = pages.view();
  device_->Append(launch);
  Out(x, all);
  pages.CopyBack();
  for (int i = 0; i < 2; ++i)
    for (int r = 0; r < rows; ++r) std::copy_n(parts[i].Row(r), given[i].cols, given[i].Row(r));
}

// Every job is a decode row of its own, whose lists are one layer's.
void DeviceOps::Select(const SelectArgs& args) {
  const int dim = args.view.codec.dim(), q_heads = args.q.cols / dim;
  const int kv_heads = args.view.heads->num_heads(), group = q_heads / kv_heads;
  for (const SelectJob& job : args.jobs) {
    const bool shared = job.heads == group;
    const int kv_head = job.head / group;
    std::vector<DevicePages::Name> blocks;
    for (int b = job.first_block; b < job.end_block; ++b)
      for (int h = 0; h < kv_heads; ++h)
        if (!args.view.heads->streaming(h)) blocks.push_back({job.seq, h, b});
    const DevicePages pages(device_.get(), args.view, job.seq + 1, blocks);
    const Block q = InBf16(args.q.Rows(job.row, 1));
    DecodeRow row{};
    row.slot = job.seq;
    row.q_len = 1;
    row.pos = job.end_block * kBlockTokens;
    row.window_len = kNoWindow;
    row.selected = row.due = 1;
    row.sink_blocks = job.first_block;
    row.local_begin = job.end_block;
    row.k = job.k;
    const Block rows = In(&row, sizeof row);
    const int lists = shared ? kv_heads : q_heads;
    const int capacity = std::max(job.k, 1);
    const size_t places = static_cast<size_t>(job.seq + 1) * static_cast<size_t>(lists);
    const Block chosen(device_.get(), places * static_cast<size_t>(capacity) * 4);
    const Block counts(device_.get(), places * 4);
    const int max_blocks = std::max(1, job.end_block);
    const Block workspace(device_.get(),
                          device_->SelectWorkspace(1, q_heads, max_blocks, args.score) + 1);
    cuda::SelectLaunch launch{};
    launch.q = q.as<uint16_t>();
    launch.q_stride = args.q.cols;
    launch.rows = rows.as<DecodeRow>();
    launch.num_rows = 1;
    launch.max_blocks = max_blocks;
    launch.view = pages.view();
    launch.lists = {chosen.as<int32_t>(), counts.as<int32_t>(), capacity, 1, lists};
    launch.q_heads = q_heads;
    launch.shared = shared;
    launch.workspace = workspace.data();
    launch.score = args.score;
    launch.reach = args.reach;
    device_->Select(launch);
    const int64_t list = static_cast<int64_t>(job.seq) * lists + (shared ? kv_head : job.head);
    device_->CopyOut(job.count, counts.data() + list * 4, 4);
    device_->CopyOut(job.list, chosen.data() + list * capacity * 4,
                     static_cast<size_t>(std::min(*job.count, job.k)) * 4);
  }
}

// Prefill kernels have one sequence a launch, and its K and V gathered.
void DeviceOps::PrefillTiles(const AttentionArgs& args, const std::vector<Tile>& tiles,
                             const DevicePages& pages, const Block& q, const Block& out,
                             float* lse) {
  const PlanShape& shape = args.plan->shape;
  const int dim = args.view.codec.dim(), kv_heads = shape.num_kv_heads;
  int blocks = 1;
  for (const Tile& t : tiles) blocks = std::max(blocks, (t.kv_len - 1) / kBlockTokens + 1);
  std::vector<cuda::GatherRange> ranges;
  for (int h = 0; h < kv_heads; ++h) ranges.push_back({h, 0, blocks, h});
  const size_t head = static_cast<size_t>(blocks) * kBlockTokens * static_cast<size_t>(dim);
  const Block k(device_.get(), head * static_cast<size_t>(kv_heads) * 2);
  const Block v(device_.get(), head * static_cast<size_t>(kv_heads) * 2);
  const Block on_device = In(ranges.data(), ranges.size() * sizeof ranges[0]);
  device_->Gather({pages.view(), tiles[0].seq, on_device.as<cuda::GatherRange>(), kv_heads, blocks,
                   k.as<uint16_t>(), v.as<uint16_t>(), static_cast<int64_t>(head)});
  const Block tile_data = In(tiles.data(), tiles.size() * sizeof(Tile));
  const Block run_data = In(args.plan->runs.data(), args.plan->runs.size_bytes());
  const Block workspace(device_.get(),
                        device_->PrefillWorkspace(static_cast<int>(tiles.size()), shape) + 1);
  cuda::PrefillArgs launch{};
  launch.q = q.as<uint16_t>();
  launch.out = out.as<uint16_t>();
  launch.lse = lse;
  launch.q_stride = launch.out_stride = args.q.cols;
  launch.k = k.as<uint16_t>();
  launch.v = v.as<uint16_t>();
  launch.head_stride = static_cast<int64_t>(head);
  launch.kv_tokens = blocks * kBlockTokens;
  launch.tiles = tile_data.as<Tile>();
  launch.runs = run_data.as<Run>();
  launch.host_tiles = tiles.data();
  launch.host_runs = args.plan->runs.data();
  launch.num_tiles = static_cast<int>(tiles.size());
  launch.shape = shape;
  launch.dim = dim;
  launch.scale = args.scale;
  launch.workspace = workspace.data();
  device_->Prefill(launch);
  Wait();
}

void DeviceOps::DecodeTiles(const AttentionArgs& args, const std::vector<Tile>& tiles,
                            const DevicePages& pages, const Block& q, const Block& out,
                            float* lse) {
  const int num_tiles = static_cast<int>(tiles.size());
  int most_blocks = 1;
  PlanShape shape = args.plan->shape;
  shape.q_tile = 1;
  for (const Tile& t : tiles) {
    shape.q_tile = std::max(shape.q_tile, t.q_len);
    most_blocks = std::max(most_blocks, static_cast<int>(ListedBlocks(*args.plan, t)));
  }
  const Block on_device = In(tiles.data(), tiles.size() * sizeof(Tile));
  const Block runs = In(args.plan->runs.data(), args.plan->runs.size_bytes());
  const Block workspace(device_.get(),
                        device_->DecodeWorkspace(num_tiles, shape, args.view.codec.dim()) + 1);
  cuda::DecodeArgs launch{};
  launch.q = q.as<uint16_t>();
  launch.out = out.as<uint16_t>();
  launch.lse = lse;
  launch.q_stride = launch.out_stride = args.q.cols;
  launch.view = pages.view();
  launch.tiles = on_device.as<Tile>();
  launch.runs = runs.as<Run>();
  launch.num_tiles = num_tiles;
  launch.max_blocks = most_blocks;
  launch.shape = shape;
  launch.scale = args.scale;
  launch.deterministic = true;
  launch.workspace = workspace.data();
  device_->Decode(launch);
  Wait();
}

// A tile of few rows goes to the decode kernel, any other to that of prompts, so that a tile's
// kernel does not depend on the others of the plan.
void DeviceOps::Attention(const AttentionArgs& args) {
  constexpr int kDecodeRows = 16;
  const AttnPlan& plan = *args.plan;
  const int group = plan.shape.num_q_heads / plan.shape.num_kv_heads;
  std::vector<DevicePages::Name> blocks;
  std::vector<Tile> few;
  std::map<int, std::vector<Tile>> by_seq;
  int slots = 0;
  for (const Tile& t : plan.tiles) {
    for (const Run& run : plan.RunsOf(t))
      for (int b = run.first; b < run.first + run.count; ++b)
        blocks.push_back({t.seq, t.head / group, b});
    slots = std::max(slots, t.seq + 1);
    if (t.q_len * plan.shape.heads_per_tile <= kDecodeRows)
      few.push_back(t);
    else
      by_seq[t.seq].push_back(t);
  }
  const DevicePages pages(device_.get(), args.view, slots, blocks);
  const Block q = InBf16(args.q);
  const size_t count = static_cast<size_t>(args.q.rows) * static_cast<size_t>(args.q.cols);
  const Block out(device_.get(), count * 2 + 1);
  device_->Fill(out.data(), std::byte{0xff}, count * 2);
  const Block lse = Floats(args.q.rows, plan.shape.num_q_heads);
  device_->Fill(lse.data(), std::byte{0xff}, lse.size());
  if (!few.empty()) DecodeTiles(args, few, pages, q, out, lse.as<float>());
  for (const auto& [seq, tiles] : by_seq) PrefillTiles(args, tiles, pages, q, out, lse.as<float>());
  // Rows that no tile names stay as they are.
  const Block wide = Floats(args.q.rows, args.q.cols);
  device_->ToFloat(out.as<uint16_t>(), static_cast<int64_t>(count), wide.as<float>());
  std::vector<float> result(count),
      lse_result(static_cast<size_t>(args.q.rows) * static_cast<size_t>(plan.shape.num_q_heads));
  Out(wide, Mat(result.data(), args.q.rows, args.q.cols));
  device_->CopyOut(lse_result.data(), lse.data(), lse_result.size() * 4);
  const int dim = args.view.codec.dim(), heads = plan.shape.heads_per_tile;
  for (const Tile& t : plan.tiles) {
    for (int r = t.q_begin; r < t.q_begin + t.q_len; ++r) {
      std::copy_n(result.data() + static_cast<int64_t>(r) * args.q.cols + t.head * dim, heads * dim,
                  args.out.Row(r) + t.head * dim);
      const int64_t at = static_cast<int64_t>(r) * plan.shape.num_q_heads + t.head;
      if (args.lse) std::copy_n(lse_result.data() + at, heads, args.lse + at);
    }
  }
}

}  // namespace

std::unique_ptr<Ops> MakeDeviceOps(std::unique_ptr<Device> device) {
  return std::make_unique<DeviceOps>(std::move(device));
}

}  // namespace lserve
