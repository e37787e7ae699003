#include "model/model.h"

#include <algorithm>
#include <cmath>

#include "quant/block_formats.h"

namespace lserve {
namespace {

// A stored vector as floats; empty when the model has none.
std::vector<float> LoadVector(const ModelFiles& files, const std::string& name) {
  std::vector<float> out;
  if (const TensorView* t = files.Find(name)) {
    out.resize(static_cast<size_t>(t->rows * t->cols));
    // A bias of a permuted matrix has its values in the same order as the rows: one element a row.
    TensorView rows = *t;
    std::vector<float> stored(out.size());
    DequantizeRow(t->dtype, t->data, t->rows * t->cols, stored.data());
    rows.rows = static_cast<int64_t>(out.size());
    for (size_t i = 0; i < out.size(); ++i)
      out[i] = stored[static_cast<size_t>(rows.SourceRow(static_cast<int64_t>(i)))];
  }
  return out;
}

}  // namespace

struct Model::Layer {
  std::vector<float> attn_norm, q_norm, k_norm, ffn_norm, q_bias, k_bias, v_bias;
  std::unique_ptr<Weight> q, k, v, o, gate, up, down;
};

Model::Model(const ModelConfig& config, Ops* ops, const ModelOptions& options)
    : config_(config), ops_(ops), options_(options) {}
Model::~Model() = default;

Result<std::unique_ptr<Model>> Model::Load(const ModelFiles& files, Ops* ops,
                                           const ModelOptions& options) {
  std::unique_ptr<Model> model(new Model(files.config, ops, options));
  const ModelConfig& c = files.config;
  Status failed;
  const auto matrix = [&](const std::string& name) -> std::unique_ptr<Weight> {
    const TensorView* t = files.Find(name);
    CHECK(t != nullptr);  // OpenModel has seen to it
    Result<std::unique_ptr<Weight>> weight = ops->Prepare(*t, options.weights_bf16);
    if (!weight.ok()) {
      failed = weight.status().Annotate(name);
      return nullptr;
    }
    const size_t bytes = static_cast<size_t>(t->rows * RowBytes(t->dtype, t->cols));
    for (const auto& file : files.files) {  // the packed copy is what is used from now on
      const std::span<const std::byte> all = file->bytes();
      if (t->data >= all.data() && t->data < all.data() + all.size())
        file->Release({t->data, bytes});
    }
    return std::move(*weight);
  };
  model->rope_ = RopeFrequencies::Make(c.rope, c.head_dim, options.max_context);
  model->embedding_ = matrix("token_embd.weight");
  if (!c.tied_embeddings) model->output_ = matrix("output.weight");
  model->output_norm_ = LoadVector(files, "output_norm.weight");
  for (int i = 0; i < c.layers && failed.ok(); ++i) {
    const std::string prefix = fmt::format("blk.{}.", i);
    auto layer = std::make_unique<Layer>();
    layer->attn_norm = LoadVector(files, prefix + "attn_norm.weight");
    layer->ffn_norm = LoadVector(files, prefix + "ffn_norm.weight");
    if (c.qkv_bias) {
      layer->q_bias = LoadVector(files, prefix + "attn_q.bias");
      layer->k_bias = LoadVector(files, prefix + "attn_k.bias");
      layer->v_bias = LoadVector(files, prefix + "attn_v.bias");
    }
    if (c.qk_norm) {
      layer->q_norm = LoadVector(files, prefix + "attn_q_norm.weight");
      layer->k_norm = LoadVector(files, prefix + "attn_k_norm.weight");
    }
    layer->q = matrix(prefix + "attn_q.weight");
    layer->k = matrix(prefix + "attn_k.weight");
    layer->v = matrix(prefix + "attn_v.weight");
    layer->o = matrix(prefix + "attn_output.weight");
    layer->gate = matrix(prefix + "ffn_gate.weight");
    layer->up = matrix(prefix + "ffn_up.weight");
    layer->down = matrix(prefix + "ffn_down.weight");
    model->layers_.push_back(std::move(layer));
  }
  if (!failed.ok()) return failed;
  return model;
}

size_t Model::weight_bytes() const {
  size_t bytes = embedding_->bytes() + (output_ ? output_->bytes() : 0);
  for (const auto& l : layers_)
    bytes += l->q->bytes() + l->k->bytes() + l->v->bytes() + l->o->bytes() + l->gate->bytes() +
             l->up->bytes() + l->down->bytes();
  return bytes;
}

void Model::Forward(const StepInput& input, Planner* planner, KvCache* cache, Mat logits) {
  const ModelConfig& c = config_;
  const int n = static_cast<int>(input.tokens.size());
  CHECK(n <= options_.max_tokens);
  const int q_width = c.q_heads * c.head_dim, kv_width = c.kv_heads * c.head_dim;

  // Scratch, carved anew each step: everything is as long as the step.
  const int64_t widths[] = {c.hidden, c.hidden,   q_width,        kv_width,      kv_width,
                            q_width,  c.head_dim, c.intermediate, c.intermediate};
  int64_t row = 0;
  for (int64_t w : widths) row += w;
  const size_t needed =
      static_cast<size_t>(row) * static_cast<size_t>(options_.max_tokens) * sizeof(float);
  if (scratch_.size() < needed) scratch_ = Buffer(needed);
  float* next = scratch_.as<float>();
  const auto carve = [&](int width) {
    Mat m(next, n, width);
    next += static_cast<int64_t>(n) * width;
    return m;
  };
  const Mat x = carve(c.hidden), normed = carve(c.hidden), q = carve(q_width), k = carve(kv_width),
            v = carve(kv_width);
  const Mat attended = carve(q_width), rope = carve(c.head_dim), gate = carve(c.intermediate),
            up = carve(c.intermediate);
  const auto heads_of = [&](Mat m) { return Mat(m.data, n * m.cols / c.head_dim, c.head_dim); };
  const float scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim));
  const auto bias = [](const std::vector<float>& b) { return b.empty() ? nullptr : b.data(); };

  ops_->Embed(*embedding_, input.tokens, x);
  rope_.Angles(input.pos, rope);
  planner->Begin(input.sequences);

  for (int i = 0; i < c.layers; ++i) {
    const Layer& layer = *layers_[static_cast<size_t>(i)];
    const KvView view = cache->View(i);

    ops_->RmsNorm(x, layer.attn_norm.data(), c.rms_eps, normed);
    const LinearOutput qkv[] = {{layer.q.get(), bias(layer.q_bias), q},
                                {layer.k.get(), bias(layer.k_bias), k},
                                {layer.v.get(), bias(layer.v_bias), v}};
    ops_->Linear(normed, qkv);
    if (c.qk_norm) {
      ops_->RmsNorm(heads_of(q), layer.q_norm.data(), c.rms_eps, heads_of(q));
      ops_->RmsNorm(heads_of(k), layer.k_norm.data(), c.rms_eps, heads_of(k));
    }
    ops_->Append({q, k, v, rope, input.seq, input.pos, view});
    if (const auto jobs = planner->SelectJobs(i); !jobs.empty())
      ops_->Select({q, jobs, view, planner->config().page_score, planner->config().reach()});
    const AttnPlan plan = planner->Plan(i), audit = planner->AuditPlan(i);
    const bool audited = !audit.tiles.empty();
    if (audited) {  // what it writes to `attended` is overwritten: only the sums are wanted
      lse_read_.resize(static_cast<size_t>(n * c.q_heads));
      lse_all_.resize(lse_read_.size());
      ops_->Attention({q, attended, &audit, view, scale, lse_all_.data()});
    }
    ops_->Attention({q, attended, &plan, view, scale, audited ? lse_read_.data() : nullptr});
    for (size_t s = 0; audited && s < input.sequences.size(); ++s) {
      const int64_t first = int64_t{input.sequences[s].q_begin} * c.q_heads;
      if (planner->Audits(i, static_cast<int>(s)))
        planner->RecordAudit(i, static_cast<int>(s), lse_read_.data() + first,
                             lse_all_.data() + first);
    }
    const LinearOutput output[] = {{layer.o.get(), nullptr, x, true}};
    ops_->Linear(attended, output);

    ops_->RmsNorm(x, layer.ffn_norm.data(), c.rms_eps, normed);
    const LinearOutput gate_up[] = {{layer.gate.get(), nullptr, gate},
                                    {layer.up.get(), nullptr, up}};
    ops_->Linear(normed, gate_up);
    ops_->SiluMul(gate, up, gate);
    const LinearOutput down[] = {{layer.down.get(), nullptr, x, true}};
    ops_->Linear(gate, down);
  }

  // Only the rows whose logits are wanted meet the output matrix.
  const int wanted = static_cast<int>(input.logit_rows.size());
  if (wanted == 0) return;
  for (int r = 0; r < wanted; ++r) {
    const int from = input.logit_rows[static_cast<size_t>(r)];
    if (from != r)
      std::copy_n(x.Row(from), c.hidden,
                  x.Row(r));  // ascending: never overwrites a row still needed
  }
  const Mat last = x.Rows(0, wanted);
  ops_->RmsNorm(last, output_norm_.data(), c.rms_eps, last);
  const LinearOutput head[] = {{output_ ? output_.get() : embedding_.get(), nullptr, logits}};
  ops_->Linear(last, head);
}

}  // namespace lserve
