#include "model/device_model.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>
#include <numeric>

#include "kernels/cuda/to_device.h"
#include "model/device_step.h"

namespace lserve {
namespace {

constexpr size_t kMostScratch = size_t{1} << 30;  // of gathered K and V each
constexpr int kMostGraphRows = 64;

// Rows that a graph is recorded for.
int Bucket(int rows) {
  int bucket = 1;
  while (bucket < rows) bucket *= 2;
  return bucket;
}

// Rows that a step with a prompt computes: lengths of products that were met before have their
// algorithm, a new one costs a step tens of milliseconds.
int PaddedRows(int rows) {
  if (rows <= kMostGraphRows) return Bucket(rows);
  const int unit = rows <= 1024 ? 64 : rows <= 2048 ? 128 : 256;
  return CeilDiv(rows, unit) * unit;
}

// Of one head's gathered K or V.
size_t HeadBytes(const ModelConfig& c, const DeviceModelOptions& o) {
  return Size(int64_t{CeilDiv(o.max_context, kBlockTokens)} * kBlockTokens * c.head_dim * 2);
}

// KV heads whose K and V are gathered together.
int HeadsAtOnce(const ModelConfig& c, const DeviceModelOptions& o) {
  const size_t most = kMostScratch / std::max<size_t>(HeadBytes(c, o), 1);
  return static_cast<int>(std::clamp<size_t>(most, 1, Size(c.kv_heads)));
}

}  // namespace

struct DeviceModel::Sizes {
  size_t x, normed, qkv, attended, gate_up, activated, logits, rope, step, rows;
  size_t decode_tiles, decode_runs, decode_blocks, lists, counts, scratch, workspace, lse;
  size_t asks, wanted, answers, parts;
  int list_capacity, run_capacity, max_blocks, heads_at_once, scratch_heads, most_picks;
  size_t total() const {
    return x + normed + qkv + attended + gate_up + activated + logits + rope + 5 * step + rows +
           decode_tiles + decode_runs + decode_blocks + lists + counts + 2 * scratch + workspace +
           asks + wanted + answers + parts + lse;
  }
};

DeviceModel::Sizes DeviceModel::SizesOf(const ModelConfig& c, const SparsityConfig& sparsity,
                                        const Device& device, const DeviceModelOptions& o) {
  Sizes s{};
  const int64_t n = PaddedRows(o.max_tokens), q = int64_t{c.q_heads} * c.head_dim,
                kv = int64_t{c.kv_heads} * c.head_dim;
  s.x = Size(n * c.hidden * 4);
  s.normed = Size(n * c.hidden * 2);
  s.qkv = Size(std::max<int64_t>(n, int64_t{c.layers} * kMostGraphRows) * (q + 2 * kv) * 2);
  s.attended = Size(n * q * 2);
  s.gate_up = Size(n * std::max<int64_t>(2 * c.intermediate, q) * 2);  // audits write there
  s.activated = Size(n * c.intermediate * 2);
  s.logits = Size(int64_t{o.max_logit_rows} * c.vocab * 4);
  s.most_picks = c.vocab <= cuda::kMostCandidateCols ? o.max_slots : 0;
  s.asks = Size(s.most_picks) * sizeof(CandidateAsk);
  s.wanted = Size(s.most_picks) * kMostWanted * sizeof(int32_t);
  s.answers = Size(s.most_picks) * sizeof(CandidateRow) + s.wanted;
  s.parts = device.CandidateWorkspace(s.most_picks, c.vocab);
  s.rope = Size(int64_t{o.max_context} * c.head_dim * 4);
  s.step = Size(n + 1) * 4;
  s.rows = Size(o.max_slots) * 2 * sizeof(DecodeRow);
  s.max_blocks = CeilDiv(o.max_context, kBlockTokens);
  s.list_capacity = std::max(1, std::min(o.max_budget / kBlockTokens, s.max_blocks));
  s.run_capacity = s.list_capacity + 8;
  const int lists = sparsity.shared_lists ? c.kv_heads : c.q_heads;
  const int rows = Bucket(o.max_slots);
  const int64_t tiles = int64_t{c.layers} * rows * lists;
  s.decode_tiles = Size(tiles) * sizeof(Tile);
  s.decode_runs = Size(tiles * s.run_capacity) * sizeof(Run);
  s.decode_blocks = Size(tiles) * sizeof(int32_t);
  s.counts = Size(int64_t{o.max_slots} * c.layers * lists) * 4;
  s.lists = s.counts * Size(s.list_capacity);
  s.heads_at_once = HeadsAtOnce(c, o);
  s.scratch_heads = std::accumulate(o.kept_heads.begin(), o.kept_heads.end(), s.heads_at_once);
  s.scratch = HeadBytes(c, o) * Size(s.scratch_heads);
  const PlanShape decode{c.q_heads, c.kv_heads, sparsity.shared_lists ? c.group() : 1, 1};
  const PlanShape audit{c.q_heads, c.kv_heads, c.group(), 1};
  s.lse = Size(int64_t{o.max_slots} * c.layers * 2 * c.q_heads) * 4;
  PlanShape prompt = decode;
  prompt.q_tile = device.PrefillTile(c.head_dim, c.group());
  const int prompt_tiles = (CeilDiv(o.max_tokens, prompt.q_tile) + 2) * lists;
  s.workspace =
      std::max({device.DecodeWorkspace(rows * lists, decode, c.head_dim),
                device.DecodeWorkspace(c.kv_heads, audit, c.head_dim),
                device.SelectWorkspace(rows, c.q_heads, s.max_blocks, sparsity.page_score),
                device.PrefillWorkspace(prompt_tiles, prompt)});
  return s;
}

size_t DeviceModel::KeptBytes(const ModelConfig& c, const DeviceModelOptions& o) {
  return HeadsAtOnce(c, o) == c.kv_heads && c.kv_heads <= 64 ? 2 * HeadBytes(c, o) : 0;
}

size_t DeviceModel::WorkspaceBytes(const ModelConfig& config, const SparsityConfig& sparsity,
                                   const Device& device, const DeviceModelOptions& options) {
  return SizesOf(config, sparsity, device, options).total();
}

DeviceModel::DeviceModel(const ModelConfig& config, const SparsityConfig& sparsity, Device* device,
                         DeviceWeights weights, const DeviceModelOptions& options)
    : config_(config),
      shared_(sparsity.shared_lists),
      score_(sparsity.page_score),
      reach_(sparsity.reach()),
      device_(device),
      options_(options),
      weights_(std::move(weights)),
      frequencies_(RopeFrequencies::Make(config.rope, config.head_dim, options.max_context)) {}

Result<std::unique_ptr<DeviceModel>> DeviceModel::Create(const ModelConfig& config,
                                                         const SparsityConfig& sparsity,
                                                         Device* device, DeviceWeights weights,
                                                         const DeviceModelOptions& options) {
  const Sizes s = SizesOf(config, sparsity, *device, options);
  try {
    std::unique_ptr<DeviceModel> m(
        new DeviceModel(config, sparsity, device, std::move(weights), options));
    const auto make = [&](Block* block, size_t bytes) { *block = Block(device, bytes + 256); };
    make(&m->x_, s.x);
    make(&m->normed_, s.normed);
    make(&m->qkv_, s.qkv);
    make(&m->attended_, s.attended);
    make(&m->gate_up_, s.gate_up);
    make(&m->activated_, s.activated);
    make(&m->logits_, s.logits);
    make(&m->best_, Size(options.max_logit_rows) * 4);
    make(&m->asks_, s.asks);
    make(&m->wanted_, s.wanted);
    make(&m->answers_, s.answers);
    make(&m->parts_, s.parts);
    make(&m->rope_, s.rope);
    for (Block* b : {&m->ids_, &m->seq_, &m->pos_, &m->groups_, &m->from_}) make(b, s.step);
    make(&m->rows_, s.rows);
    make(&m->decode_tiles_, s.decode_tiles);
    make(&m->decode_runs_, s.decode_runs);
    make(&m->decode_blocks_, s.decode_blocks);
    make(&m->lists_, s.lists);
    make(&m->counts_, s.counts);
    make(&m->head_class_, Size(int64_t{config.layers} * config.kv_heads));
    make(&m->k_scratch_, s.scratch);
    make(&m->v_scratch_, s.scratch);
    make(&m->workspace_, s.workspace);
    m->most_picks_ = s.most_picks;
    make(&m->lse_, s.lse);
    m->list_capacity_ = s.list_capacity;
    m->run_capacity_ = s.run_capacity;
    m->max_blocks_ = s.max_blocks;
    m->heads_at_once_ = s.heads_at_once;
    m->scratch_heads_ = s.scratch_heads;
    m->UploadRope();
    m->MeasureProducts();
    if (Status status = device->Synchronize(); !status.ok()) return status;
    return m;
  } catch (const std::bad_alloc&) {
    return ResourceExhausted(
        "backend cuda: the workspace of {} tokens a step and {} of context takes {:.2f} GiB, "
        "{:.2f} "
        "are free (a smaller --step-tokens or --max-context helps)",
        options.max_tokens, options.max_context, static_cast<double>(s.total()) / (1 << 30),
        static_cast<double>(device->info().free_bytes) / (1 << 30));
  }
}

void DeviceModel::UploadRope() {
  constexpr int kRows = 4096;
  std::vector<float> angles(Size(int64_t{kRows} * config_.head_dim));
  std::vector<int32_t> positions;
  for (int begin = 0; begin < options_.max_context; begin += kRows) {
    const int count = std::min(kRows, options_.max_context - begin);
    positions.resize(Size(count));
    for (int i = 0; i < count; ++i) positions[Size(i)] = begin + i;
    frequencies_.Angles(positions, Mat(angles.data(), count, config_.head_dim));
    device_->CopyIn(rope_.data() + int64_t{begin} * config_.head_dim * 4, angles.data(),
                    Size(int64_t{count} * config_.head_dim * 4));
  }
}

// The first product of a shape chooses its algorithm, which is not to happen while somebody waits
// for a token.
void DeviceModel::MeasureProducts() {
  constexpr int kMostRows = 2048;  // beyond, its multiples are measured
  const DeviceWeights::Layer& w = weights_.layers[0];
  for (const Block* b : {&normed_, &attended_})
    device_->FillNormal(b->as<uint16_t>(), static_cast<int64_t>(b->size() / 2), 1, 1);
  for (int n = 1; n <= std::min(kMostRows, options_.max_tokens); n = PaddedRows(n + 1)) {
    MultiplyQkv(w, n, qkv_.as<uint16_t>());
    MultiplyOut(w, n);
    Mlp(w, n);
    if (n <= std::min(kMostGraphRows, options_.max_logit_rows)) MultiplyLogits(n);
  }
  for (int n = 2 * kMostRows; n <= options_.max_tokens; n += kMostRows) {
    MultiplyQkv(w, n, qkv_.as<uint16_t>());
    MultiplyOut(w, n);
    Mlp(w, n);
  }
}

void DeviceModel::UploadStep(const StepInput& input, Planner* planner, Step* step) {
  std::vector<DecodeRow> rows;
  int single = 0;
  for (size_t i = 0; i < input.sequences.size(); ++i) {
    const SeqStep& s = input.sequences[i];
    if (!s.decode) {
      step->prompts.push_back({s.slot, s.pos + s.q_len});
      continue;
    }
    CHECK(s.q_len == 1);
    ++single;
    rows.push_back(planner->decode_row(static_cast<int>(i)));
    CHECK(rows.back().k <= list_capacity_);
    step->due = step->due || rows.back().due != 0;
    planner->CountDecode(static_cast<int>(i));
  }
  const int n = static_cast<int>(input.tokens.size());
  step->rows = n;
  step->decode_rows = single;
  step->logit_rows = static_cast<int>(input.logit_rows.size());
  // Padding rows belong to nobody; a step of decode rows alone has as many as its graph.
  std::vector<int32_t> ids(input.tokens.begin(), input.tokens.end()),
      seq(input.seq.begin(), input.seq.end()), pos(input.pos.begin(), input.pos.end()),
      from(input.logit_rows.begin(), input.logit_rows.end());
  step->pure = step->prompts.empty() && n <= kMostGraphRows && step->logit_rows == n;
  step->all_logits = step->logit_rows == n;
  if (step->logit_rows <= kMostGraphRows && step->logit_rows > 0) {
    step->logit_rows = std::min(Bucket(step->logit_rows), options_.max_logit_rows);
    from.resize(Size(step->logit_rows), 0);
  }
  if (options_.graphs) {
    step->rows = PaddedRows(n);
    ids.resize(Size(step->rows), 0);
    seq.resize(Size(step->rows), -1);
    pos.resize(Size(step->rows), 0);
    if (step->pure) {
      step->decode_rows = step->logit_rows = step->rows;
      rows.resize(Size(step->rows), DecodeRow{-1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0});
    }
  }
  device_->CopyIn(ids_.data(), ids.data(), ids.size() * 4);
  device_->CopyIn(seq_.data(), seq.data(), seq.size() * 4);
  device_->CopyIn(pos_.data(), pos.data(), pos.size() * 4);
  device_->CopyIn(rows_.data(), rows.data(), rows.size() * sizeof(DecodeRow));
  if (!step->all_logits) device_->CopyIn(from_.data(), from.data(), from.size() * 4);
  if (step->prompts.empty()) return;

  // Append works on the tokens of a logical page together.
  const int logical = planner->config().logical_page;
  std::vector<int32_t> groups;
  for (int r = 0; r < n; ++r) {
    const size_t i = Size(r);
    if (r == 0 || seq[i] != seq[i - 1] || pos[i] / logical != pos[i - 1] / logical)
      groups.push_back(r);
  }
  step->num_groups = static_cast<int>(groups.size());
  groups.push_back(n);
  device_->CopyIn(groups_.data(), groups.data(), groups.size() * 4);
  PlanPrompts(input, planner, step);
}

void DeviceModel::DecodeAttention(const Step& step, int layer, const KvView& view) {
  const cuda::SelectionLists lists{lists_.as<int32_t>(), counts_.as<int32_t>(), list_capacity_,
                                   config_.layers, this->lists()};
  if (step.due) {
    device_->Select({Qkv(step, layer), qkv_width(), rows_.as<DecodeRow>(), step.decode_rows,
                     max_blocks_, cuda::ToDevice(view), lists, layer, config_.q_heads, shared_,
                     workspace_.data(), true, score_, reach_});
  }
  // Without a selection the plans of all layers are known at the first.
  if (step.due || layer == 0) {
    device_->DecodePlan({rows_.as<DecodeRow>(), step.decode_rows, lists, head_class_.as<uint8_t>(),
                         layer, step.due ? layer + 1 : config_.layers, config_.q_heads,
                         config_.kv_heads, shared_, decode_tiles_.as<Tile>(),
                         decode_runs_.as<Run>(), run_capacity_, decode_blocks_.as<int32_t>()});
  }
  cuda::DecodeArgs args = DecodeArgsOf(step, layer, view);
  args.settled = !step.due && layer > 0;  // the plan was not made just now
  device_->Decode(args);
}

cuda::DecodeArgs DeviceModel::DecodeArgsOf(const Step& step, int layer, const KvView& view) const {
  const int64_t tile0 = int64_t{layer} * step.decode_rows * lists();
  cuda::DecodeArgs args{};
  args.q = Qkv(step, layer);
  args.out = attended_.as<uint16_t>();
  args.q_stride = qkv_width();
  args.out_stride = int64_t{config_.q_heads} * config_.head_dim;
  args.view = cuda::ToDevice(view);
  args.tiles = decode_tiles_.as<Tile>() + tile0;
  args.runs = decode_runs_.as<Run>();
  args.num_tiles = step.decode_rows * lists();
  args.max_blocks = max_blocks_;
  args.shape = {config_.q_heads, config_.kv_heads, shared_ ? config_.group() : 1, 1};
  args.scale = 1.0f / std::sqrt(static_cast<float>(config_.head_dim));
  args.deterministic = options_.deterministic;
  args.workspace = workspace_.data();
  args.tile_blocks = decode_blocks_.as<int32_t>() + tile0;
  return args;
}

// Queries, keys and values of a layer. Those of a step of decode rows stay until it is over.
uint16_t* DeviceModel::Qkv(const Step& step, int layer) const {
  return qkv_.as<uint16_t>() + (step.pure ? int64_t{layer} * step.rows * qkv_width() : 0);
}

// Of the first n rows: normed -> qkv; x += attended W; x += MLP(normed); normed -> logits.
void DeviceModel::MultiplyQkv(const DeviceWeights::Layer& w, int n, uint16_t* qkv) {
  device_->Matmul({w.qkv.as<uint16_t>(), qkv_width(), config_.hidden, normed_.as<uint16_t>(), n,
                   qkv, false, false, options_.deterministic});
}
void DeviceModel::MultiplyOut(const DeviceWeights::Layer& w, int n) {
  device_->Matmul({w.o.as<uint16_t>(), config_.hidden, config_.q_heads * config_.head_dim,
                   attended_.as<uint16_t>(), n, x_.data(), true, true, options_.deterministic});
}
void DeviceModel::Mlp(const DeviceWeights::Layer& w, int n) {
  const ModelConfig& c = config_;
  device_->SwiGlu({w.gate_up.as<uint16_t>(), 2 * c.intermediate, c.hidden, normed_.as<uint16_t>(),
                   n, gate_up_.data(), false, false, options_.deterministic},
                  activated_.as<uint16_t>());
  device_->Matmul({w.down.as<uint16_t>(), c.hidden, c.intermediate, activated_.as<uint16_t>(), n,
                   x_.data(), true, true, options_.deterministic});
}
void DeviceModel::MultiplyLogits(int n) {
  const Block& output = weights_.output.size() > 0 ? weights_.output : weights_.embedding;
  device_->Matmul({output.as<uint16_t>(), config_.vocab, config_.hidden, normed_.as<uint16_t>(), n,
                   logits_.data(), true, false, options_.deterministic});
}

void DeviceModel::Layers(const Step& step, KvCache* cache) {
  const ModelConfig& c = config_;
  const int n = step.rows;
  float* x = x_.as<float>();
  uint16_t* normed = normed_.as<uint16_t>();
  const auto vector = [](const Block& b) { return b.size() > 0 ? b.as<float>() : nullptr; };

  device_->Embed(weights_.embedding.as<uint16_t>(), ids_.as<int32_t>(), n, c.hidden, x);
  for (int i = 0; i < c.layers; ++i) {
    const DeviceWeights::Layer& w = weights_.layers[Size(i)];
    const KvView view = cache->View(i);
    uint16_t* qkv = Qkv(step, i);
    device_->RmsNorm(x, nullptr, w.attn_norm.as<float>(), c.rms_eps, n, c.hidden, normed, false);
    MultiplyQkv(w, n, qkv);
    device_->Append({qkv, qkv_width(), false, n, c.q_heads, vector(w.qkv_bias), vector(w.q_norm),
                     vector(w.k_norm), c.rms_eps, rope_.as<float>(), false, seq_.as<int32_t>(),
                     pos_.as<int32_t>(), step.num_groups > 0 ? groups_.as<int32_t>() : nullptr,
                     step.num_groups, cuda::ToDevice(view)});
    if (step.decode_rows > 0) DecodeAttention(step, i, view);
    if (!step.pure) Audit(step, i, view);
    if (!step.prompts.empty()) PromptAttention(step, i, view);
    MultiplyOut(w, n);
    device_->RmsNorm(x, nullptr, w.ffn_norm.as<float>(), c.rms_eps, n, c.hidden, normed, false);
    Mlp(w, n);
  }
  Head(step);
}

// Only the rows whose logits are wanted meet the output matrix.
void DeviceModel::Head(const Step& step) {
  const ModelConfig& c = config_;
  if (step.logit_rows == 0) return;
  device_->RmsNorm(x_.as<float>(), step.all_logits ? nullptr : from_.as<int32_t>(),
                   weights_.output_norm.as<float>(), c.rms_eps, step.logit_rows, c.hidden,
                   normed_.data(), false);
  MultiplyLogits(step.logit_rows);
  device_->Argmax(logits_.as<float>(), step.logit_rows, c.vocab, best_.as<int32_t>());
}

void DeviceModel::PlanHeads(const std::vector<HeadMap>& layers) {
  std::vector<uint8_t> classes;
  for (const HeadMap& layer : layers)
    for (int h = 0; h < layer.num_heads(); ++h)
      classes.push_back(static_cast<uint8_t>(layer[h].cls));
  device_->CopyIn(head_class_.data(), classes.data(), classes.size());
  knows_heads_ = true;
}

// Heads are planned as they are stored, unless somebody says otherwise.
void DeviceModel::LearnHeads(const KvCache& cache) {
  int next = heads_at_once_;
  for (size_t l = 0; l < cache.config().layers.size(); ++l) {
    const HeadMap& layer = cache.config().layers[l];
    const int most = l < options_.kept_heads.size() ? options_.kept_heads[l] : 0;
    KeptHeads kept{0, next};
    for (int h = 0; h < layer.num_heads(); ++h) {
      if (layer[h].cls != HeadClass::kRetrieval || next - kept.first >= most) continue;
      kept.heads |= uint64_t{1} << h;
      ++next;
    }
    kept_heads_.push_back(kept);
  }
  if (!knows_heads_) PlanHeads(cache.config().layers);
}

void DeviceModel::Forward(const StepInput& input, Planner* planner, KvCache* cache, Mat logits) {
  CHECK(static_cast<int>(input.tokens.size()) <= options_.max_tokens);
  CHECK(static_cast<int>(input.logit_rows.size()) <= options_.max_logit_rows);
  if (kept_heads_.empty()) LearnHeads(*cache);
  planner->Begin(input.sequences);
  cache->UploadTables();
  Step step;
  UploadStep(input, planner, &step);
  PlanAudits(input, planner, &step);

  device_->Mark(0);
  if (!options_.graphs || !step.pure) {
    Layers(step, cache);
  } else {
    // The first step of a kind runs plainly, which lets products of new shapes be measured; the
    // second is recorded.
    const auto [graph, first] = graphs_.try_emplace({step.rows, step.due}, -1);
    if (first) {
      Layers(step, cache);
    } else {
      if (graph->second < 0) {
        device_->BeginGraph();
        Layers(step, cache);
        graph->second = device_->EndGraph();
      }
      if (graph->second >= 0) device_->RunGraph(graph->second);
    }
  }
  if (step.pure) {
    for (int l = 0; l < config_.layers && !step.audits.empty(); ++l) Audit(step, l, cache->View(l));
  }
  device_->Mark(1);
  TakeAudits(step, planner);
  if (input.picks != nullptr) return Answer(input);
  for (int r = 0; r < logits.rows; ++r) ReadLogits(r, {logits.Row(r), Size(config_.vocab)});
}

void DeviceModel::ReadLogits(int row, std::span<float> logits) {
  device_->CopyOut(logits.data(), logits_.data() + int64_t{row} * config_.vocab * 4,
                   logits.size_bytes());
}

// Everything comes in one copy: the step waits for the device once.
void DeviceModel::Answer(const StepInput& input) {
  if (input.logit_rows.empty()) return;
  Picks& p = *input.picks;
  const size_t asks = p.asks.size();
  CHECK(asks <= Size(most_picks_) && p.wanted.size() * 4 <= wanted_.size());
  CandidateRow* rows = answers_.as<CandidateRow>();
  float* wanted_logits = reinterpret_cast<float*>(rows + asks);
  device_->CopyIn(asks_.data(), p.asks.data(), asks * sizeof(CandidateAsk));
  device_->CopyIn(wanted_.data(), p.wanted.data(), p.wanted.size() * 4);
  device_->Candidates({logits_.as<float>(), config_.vocab, best_.as<int32_t>(),
                       asks_.as<CandidateAsk>(), static_cast<int>(asks), wanted_.as<int32_t>(),
                       wanted_logits, rows, parts_.data()});
  const size_t best = input.logit_rows.size() * 4,
               answers = asks * sizeof(CandidateRow) + p.wanted.size() * 4;
  host_answers_.assign(best + answers, std::byte{0});
  const Memory::Piece pieces[] = {{best_.data(), best}, {answers_.data(), answers}};
  device_->CopyOut(host_answers_.data(), pieces);
  p.best.resize(input.logit_rows.size());
  p.answers.resize(asks);
  p.wanted_logits.resize(p.wanted.size());
  const std::byte* from = host_answers_.data();
  const auto take = [&](void* to, size_t bytes) {
    if (bytes > 0) std::memcpy(to, from, bytes);
    from += bytes;
  };
  take(p.best.data(), best);
  take(p.answers.data(), asks * sizeof(CandidateRow));
  take(p.wanted_logits.data(), p.wanted.size() * 4);
}

}  // namespace lserve
