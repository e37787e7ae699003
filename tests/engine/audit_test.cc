// Audits in the engine, over a real model, if a tiny one: the missed mass that a request is told is
// the one that follows from the definition, and auditing changes no token.
#include <algorithm>
#include <cmath>
#include <filesystem>

#include "model/model.h"
#include "tests/engine/core_harness.h"

namespace lserve::testing {
namespace {

// A backend that works out, from queries, stored keys and the lists of what was chosen, what share
// of a decode step's softmax lies outside the pages that the policy lets each head read. It looks
// at no plan but for which rows there are, and at no log-sum-exp.
class WatchingOps : public Ops {
 public:
  explicit WatchingOps(std::unique_ptr<Ops> ops, const SparsityConfig& sparsity)
      : ops_(std::move(ops)), sparsity_(sparsity) {}

  std::vector<double> missed;  // by query head of retrieval heads, step and layer, in order
  int attentions = 0, with_sums = 0;

  void Forget() {
    missed.clear();
    chosen_.clear();
    attentions = with_sums = 0;
  }

  std::string_view name() const override { return ops_->name(); }
  Status SupportsKv(const KvCodec& codec, int group) const override {
    return ops_->SupportsKv(codec, group);
  }
  int PrefillTile(int group) const override { return ops_->PrefillTile(group); }
  Result<std::unique_ptr<Weight>> Prepare(const TensorView& tensor, bool to_bf16) override {
    return ops_->Prepare(tensor, to_bf16);
  }
  void Embed(const Weight& table, std::span<const int32_t> ids, Mat out) override {
    ops_->Embed(table, ids, out);
  }
  void RmsNorm(Mat x, const float* weight, float eps, Mat out) override {
    ops_->RmsNorm(x, weight, eps, out);
  }
  void Linear(Mat x, std::span<const LinearOutput> outputs) override { ops_->Linear(x, outputs); }
  void SiluMul(Mat gate, Mat up, Mat out) override { ops_->SiluMul(gate, up, out); }
  void Append(const AppendArgs& args) override {
    position_ = args.pos.back();
    tokens_ = static_cast<int>(args.pos.size());
    ops_->Append(args);
  }
  void Select(const SelectArgs& args) override {
    ops_->Select(args);
    for (const SelectJob& job : args.jobs) {
      Chosen& chosen = chosen_[{args.view.heads, job.head / job.heads}];
      chosen.end = job.end_block;
      chosen.first = job.first_block;
      chosen.blocks = {job.list, job.list + *job.count};
    }
  }
  void Attention(const AttentionArgs& args) override {
    ++attentions;
    with_sums += args.lse != nullptr;
    ops_->Attention(args);
    const AttnPlan& plan = *args.plan;
    // The step's own attention, not an audit's: streaming heads are in it.
    if (chosen_.empty() || tokens_ > 1 || position_ + 1 <= sparsity_.dense_below ||
        static_cast<int>(plan.tiles.size()) < plan.shape.num_kv_heads)
      return;
    const int group = plan.shape.num_q_heads / plan.shape.num_kv_heads, dim = args.view.codec.dim();
    std::vector<float> key(static_cast<size_t>(dim));
    for (int head = 0; head < plan.shape.num_q_heads; ++head) {
      const int kv_head = head / group;
      if (args.view.heads->streaming(kv_head)) continue;
      const Chosen& chosen = chosen_.at({args.view.heads, kv_head});
      double all = 0, outside = 0;
      for (int k = 0; k <= position_; ++k) {
        const int block = k / kBlockTokens;
        args.view.codec.DecodeK(args.view.Slice(plan.tiles[0].seq, kv_head, block),
                                k % kBlockTokens, key.data());
        double dot = 0;
        for (int c = 0; c < dim; ++c) dot += double{args.q.Row(0)[head * dim + c]} * key[c];
        const double weight = std::exp(dot * args.scale);
        all += weight;
        const bool read = block < chosen.first || block >= chosen.end ||
                          std::count(chosen.blocks.begin(), chosen.blocks.end(), block) > 0;
        if (!read) outside += weight;
      }
      missed.push_back(outside / all);
    }
  }

 private:
  struct Chosen {
    int first = 0, end = 0;
    std::vector<int32_t> blocks;
  };
  std::unique_ptr<Ops> ops_;
  const SparsityConfig sparsity_;
  std::map<std::pair<const HeadMap*, int>, Chosen> chosen_;  // by layer (its map) and KV head
  int position_ = 0, tokens_ = 0;
};

class AuditedAnswers : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const auto path =
        std::filesystem::path(LSERVE_SOURCE_DIR) / "tests/golden/tiny/llama-default.gguf";
    Result<ModelFiles> files = OpenModel(path.string());
    ASSERT_TRUE(files.ok()) << files.status().ToString();
    const ModelConfig& config = files->config;
    Result<std::unique_ptr<Ops>> ops = MakeOps(GetParam(), &pool_);
    ASSERT_TRUE(ops.ok());
    ops_ = std::make_unique<WatchingOps>(std::move(*ops), setup_.sparsity);
    ModelOptions options;
    options.max_context = 2048;
    Result<std::unique_ptr<Model>> model = Model::Load(*files, ops_.get(), options);
    ASSERT_TRUE(model.ok()) << model.status().ToString();
    model_ = std::move(*model);
    setup_.model = model_.get();
    setup_.codec = KvCodec(KvType::kKv16, KvType::kKv16, config.head_dim);
    setup_.group = config.group();
    setup_.prefill_tile = ops_->PrefillTile(config.group());
    setup_.prefix_cache = false;
  }

  Heard Answer(std::optional<int> audit, AttentionMode mode = AttentionMode::kLserve) {
    ops_->Forget();
    Request request = Make("a", 900, kTokens);
    request.sampling.logprobs = 0;
    request.attention = mode;
    request.audit = audit;
    CoreHarness harness(setup_);
    harness.Add(request);
    EXPECT_TRUE(harness.Finish(5000));
    audits_ = harness.core().stats().audits;
    return harness.heard("a");
  }

  static constexpr int kTokens = 41, kSteps = kTokens - 1, kLayers = 2;
  ThreadPool pool_{1};
  CoreSetup setup_;
  std::unique_ptr<WatchingOps> ops_;
  std::unique_ptr<Model> model_;
  int64_t audits_ = 0;
};

TEST_P(AuditedAnswers, MissedMassIsTheDefinitions) {
  const Heard heard = Answer(1);
  ASSERT_TRUE(heard.end.usage.missed);
  const MissedMass& missed = *heard.end.usage.missed;
  EXPECT_EQ(missed.layer_steps, kSteps * kLayers);
  EXPECT_EQ(audits_, missed.layer_steps);
  ASSERT_EQ(missed.heads, static_cast<int64_t>(ops_->missed.size()));
  double sum = 0;
  for (double m : ops_->missed) sum += m;
  // ref rounds its sums to float; cpu multiplies in bfloat16, queries' 2^-9 of a score of about 1.
  const double bar = GetParam() == std::string("ref") ? 1e-5 : 5e-3;
  const double mean = sum / static_cast<double>(ops_->missed.size());
  EXPECT_NEAR(missed.mean(), mean, bar);
  EXPECT_NEAR(missed.max, *std::max_element(ops_->missed.begin(), ops_->missed.end()), bar);
  EXPECT_GT(mean, 0.2) << "a budget of 256 of 900 tokens";
  EXPECT_LT(mean, 0.9);
}

TEST_P(AuditedAnswers, TokensAreTheSameAndOffCostsNothing) {
  const Heard off = Answer({});
  EXPECT_EQ(ops_->with_sums, 0);
  const int attentions = ops_->attentions;
  EXPECT_FALSE(off.end.usage.missed);
  for (const int interval : {1, 3, 64}) {
    const Heard on = Answer(interval);
    EXPECT_EQ(on.tokens, off.tokens);
    for (size_t i = 0; i < on.outputs.size(); ++i)
      ASSERT_EQ(on.outputs[i].logprob->logprob, off.outputs[i].logprob->logprob) << "token " << i;
    // One layer-step in `interval`, up to the run that the answer's end cuts.
    EXPECT_NEAR(static_cast<double>(audits_), double{kSteps * kLayers} / interval, 1);
    EXPECT_EQ(ops_->attentions, attentions + audits_);
    EXPECT_EQ(ops_->with_sums, 2 * audits_);
  }
}

TEST_P(AuditedAnswers, NothingIsMissedWhereNothingIsSelected) {
  const Heard heard = Answer(1, AttentionMode::kDense);
  ASSERT_TRUE(heard.end.usage.missed);
  EXPECT_EQ(heard.end.usage.missed->layer_steps, 0);
  EXPECT_EQ(heard.end.usage.missed->heads, 0);
}

INSTANTIATE_TEST_SUITE_P(Backends, AuditedAnswers, ::testing::Values("ref", "cpu"));

}  // namespace
}  // namespace lserve::testing
