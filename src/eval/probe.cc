#include "eval/probe.h"

#include <algorithm>
#include <new>
#include <numeric>

#include "model/device_model.h"
#include "model/model.h"
#include "sparse/head_pattern.h"

namespace lserve {
namespace {

// Tokens of a step, and most rows with logits.
constexpr int kHostChunk = 512, kDeviceChunk = 8192, kLogitRows = 512;

}  // namespace

Probe::Probe(const ProbeOptions& options, const ModelConfig& config)
    : options_(options), config_(config), pool_(options.threads) {}

Result<std::unique_ptr<Probe>> Probe::Make(const ModelFiles& files, const ProbeOptions& options) {
  const ModelConfig& c = files.config;
  SparsityConfig sparsity;
  sparsity.prefill_sink = sparsity.decode_sink = options.sink;
  sparsity.prefill_local = sparsity.decode_local = options.window;
  sparsity.dense_below = 0;
  if (Status s = Planner::Check(sparsity); !s.ok()) return s;
  if (options.max_length > c.max_position)
    return InvalidArgument("{}: a sample of {} tokens, the model was made for {}", files.path,
                           options.max_length, c.max_position);
  std::unique_ptr<Probe> probe(new Probe(options, c));
  KvCacheConfig kv;
  kv.layers = AllRetrieval(c.layers, c.kv_heads).layers;
  kv.codec = KvCodec(options.kv.k, options.kv.v, c.head_dim);
  kv.stats = sparsity.statistics(c.head_dim);
  kv.max_slots = 1;
  kv.max_blocks = (options.max_length + kBlockTokens - 1) / kBlockTokens;
  kv.pages[0] = kv.pages[1] = kv.max_blocks + 1;
  probe->plan_ = kv.layers;

  if (options.backend == "cuda" || options.backend == "auto") {
    Result<std::unique_ptr<Device>> device = OpenDevice(options.gpu);
    if (!device.ok() && options.backend == "cuda") return device.status();
    if (device.ok()) probe->device_ = std::move(*device);
  }
  const Status loaded = probe->device_ ? probe->LoadOnDevice(files, std::move(kv), sparsity)
                                       : probe->LoadOnHost(files, std::move(kv), sparsity);
  if (!loaded.ok()) return loaded;
  return probe;
}

Status Probe::LoadOnHost(const ModelFiles& files, KvCacheConfig kv,
                         const SparsityConfig& sparsity) {
  Result<std::unique_ptr<Ops>> ops =
      MakeOps(options_.backend == "auto" ? "cpu" : options_.backend, &pool_);
  if (!ops.ok()) return ops.status();
  ops_ = std::move(*ops);
  if (Status s = ops_->SupportsKv(kv.codec, config_.group()); !s.ok()) return s;
  chunk_ = kHostChunk;
  ModelOptions options;
  options.max_tokens = chunk_;
  options.max_logit_rows = kLogitRows;
  options.max_context = options_.max_length;
  Result<std::unique_ptr<Model>> model = Model::Load(files, ops_.get(), options);
  if (!model.ok()) return model.status();
  runner_ = std::move(*model);
  cache_ = std::make_unique<KvCache>(std::move(kv));
  planner_ = std::make_unique<Planner>(sparsity, &plan_, config_.group(),
                                       ops_->PrefillTile(config_.group()));
  return Ok();
}

Status Probe::LoadOnDevice(const ModelFiles& files, KvCacheConfig kv,
                           const SparsityConfig& sparsity) {
  if (Status s = device_->Supports(kv.codec, config_.group()); !s.ok()) return s;
  Result<DeviceWeights> weights = UploadWeights(files, device_.get(), &pool_);
  if (!weights.ok()) return weights.status();
  chunk_ = kDeviceChunk;
  DeviceModelOptions options;
  options.max_tokens = chunk_;
  options.max_logit_rows = kLogitRows;
  options.max_context = options_.max_length;
  options.max_slots = kv.max_slots;
  options.max_budget = options_.max_budget;
  Result<std::unique_ptr<DeviceModel>> model =
      DeviceModel::Create(config_, sparsity, device_.get(), std::move(*weights), options);
  if (!model.ok()) return model.status();
  runner_ = std::move(*model);
  kv.memory = device_.get();
  try {
    cache_ = std::make_unique<KvCache>(std::move(kv));
  } catch (const std::bad_alloc&) {
    return ResourceExhausted("backend cuda: no room for the KV pages of {} tokens",
                             options_.max_length);
  }
  planner_ =
      std::make_unique<Planner>(sparsity, &plan_, config_.group(),
                                device_->PrefillTile(config_.head_dim, config_.group()), true);
  return Ok();
}

void Probe::SetPlan(const std::vector<HeadMap>& plan) {
  plan_ = plan;
  mode_ = AttentionMode::kLserve;
  runner_->PlanHeads(plan_);
}

void Probe::Step(std::span<const int32_t> ids, int position, bool decode,
                 std::span<const int32_t> rows, int budget, float* logits) {
  std::vector<int32_t> positions(ids.size()), slots(ids.size(), slot_);
  std::iota(positions.begin(), positions.end(), position);
  SeqStep step;
  step.slot = slot_;
  step.q_len = static_cast<int>(ids.size());
  step.pos = position;
  step.decode = decode;
  step.mode = mode_;
  step.budget = budget;
  step.state = &state_;
  StepInput input;
  input.tokens = ids;
  input.seq = slots;
  input.pos = positions;
  input.sequences = {&step, 1};
  input.logit_rows = rows;
  runner_->Forward(input, planner_.get(), cache_.get(),
                   Mat(logits, static_cast<int>(rows.size()), config_.vocab));
}

void Probe::Begin(std::span<const int32_t> ids) {
  CHECK(static_cast<int>(ids.size()) <= options_.max_length);
  if (slot_ >= 0) cache_->FreeSlot(slot_);
  slot_ = cache_->AllocateSlot();
  CHECK(cache_->Extend(slot_, options_.max_length));
  mode_ = AttentionMode::kDense;
  begun_ = static_cast<int>(ids.size());
  for (int at = 0; at < begun_; at += chunk_) {
    const auto piece =
        ids.subspan(static_cast<size_t>(at), static_cast<size_t>(std::min(chunk_, begun_ - at)));
    Step(piece, at, false, {}, 0, nullptr);
  }
}

LogitRows Probe::Continue(std::span<const int32_t> ids, const std::vector<HeadMap>& plan,
                          int rows) {
  const int count = static_cast<int>(ids.size());
  CHECK(rows <= count && rows <= kLogitRows && begun_ + count <= options_.max_length);
  SetPlan(plan);
  LogitRows out;
  out.rows = rows;
  out.vocab = config_.vocab;
  out.data = Buffer(static_cast<size_t>(rows) * static_cast<size_t>(out.vocab) * sizeof(float));
  float* next = out.data.as<float>();
  for (int at = 0; at < count; at += chunk_) {
    const int size = std::min(chunk_, count - at);
    std::vector<int32_t> wanted;
    for (int i = std::max(0, count - rows - at); i < size; ++i) wanted.push_back(i);
    Step(ids.subspan(static_cast<size_t>(at), static_cast<size_t>(size)), begun_ + at, false,
         wanted, 0, next);
    next += wanted.size() * static_cast<size_t>(out.vocab);
  }
  return out;
}

LogitRows Probe::Decode(std::span<const int32_t> ids, const std::vector<HeadMap>& plan, int budget,
                        PageReads* reads) {
  const ModelConfig& c = config();
  const int count = static_cast<int>(ids.size());
  CHECK(begun_ + count <= options_.max_length);
  SetPlan(plan);
  state_ = {};
  state_.prompt_len = begun_;
  LogitRows out;
  out.rows = count;
  out.vocab = config_.vocab;
  out.data = Buffer(static_cast<size_t>(count) * static_cast<size_t>(out.vocab) * sizeof(float));
  if (reads) {
    reads->steps = count;
    reads->blocks = (begun_ + count + kBlockTokens - 1) / kBlockTokens;
    reads->reads.assign(static_cast<size_t>(c.layers),
                        std::vector(static_cast<size_t>(c.kv_heads),
                                    std::vector<int>(static_cast<size_t>(reads->blocks), 0)));
  }
  const int32_t only_row = 0;
  for (int i = 0; i < count; ++i) {
    Step(ids.subspan(static_cast<size_t>(i), 1), begun_ + i, true, {&only_row, 1}, budget,
         out.data.as<float>() + static_cast<size_t>(i) * static_cast<size_t>(out.vocab));
    if (!reads) continue;
    runner_->SaveSelection(slot_, &state_);
    for (int layer = 0; layer < c.layers; ++layer) {
      const AttnPlan planned = planner_->Plan(layer);  // the step's plan once more
      for (const Tile& tile : planned.tiles) {
        std::vector<int>& of_head =
            reads->reads[static_cast<size_t>(layer)][static_cast<size_t>(tile.head / c.group())];
        for (const Run& run : planned.RunsOf(tile))
          for (int b = run.first; b < run.first + run.count; ++b) ++of_head[static_cast<size_t>(b)];
      }
    }
  }
  return out;
}

}  // namespace lserve
