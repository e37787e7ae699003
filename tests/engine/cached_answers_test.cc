// A real model, if a tiny one (tests/golden/tiny), on the CPU: answers with a cached prefix equal
// answers without, to the last bit of their logprobs, for every codec and both attention modes;
// likewise after preemption, and whoever else shares the prefix.
#include <unistd.h>

#include <filesystem>

#include "model/model.h"
#include "tests/engine/core_harness.h"

namespace lserve::testing {
namespace {

struct Case {
  KvType kv;
  AttentionMode mode;
};

class CachedAnswers : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    const auto path =
        std::filesystem::path(LSERVE_SOURCE_DIR) / "tests/golden/tiny/llama-default.gguf";
    Result<ModelFiles> files = OpenModel(path.string());
    ASSERT_TRUE(files.ok()) << files.status().ToString();
    files->config.max_position = 2048;  // plain rope does not mind
    const ModelConfig& config = files->config;
    ASSERT_EQ(config.layers, 2);
    ASSERT_EQ(config.kv_heads, 2);
    Result<std::unique_ptr<Ops>> ops = MakeOps("cpu", &pool_);
    ASSERT_TRUE(ops.ok());
    ops_ = std::move(*ops);
    ModelOptions options;
    options.max_tokens = 512;
    options.max_context = config.max_position;
    Result<std::unique_ptr<Model>> model = Model::Load(*files, ops_.get(), options);
    ASSERT_TRUE(model.ok()) << model.status().ToString();
    model_ = std::move(*model);
    setup_.model = model_.get();
    setup_.codec = KvCodec(GetParam().kv, GetParam().kv, config.head_dim);
    setup_.group = config.group();
    setup_.prefill_tile = ops_->PrefillTile(config.group());
    vocab_ = config.vocab;
  }

  Request Ask(const std::string& id, std::vector<int32_t> prompt, int max_tokens) {
    Request r = Make(id, 1, max_tokens);
    r.prompt = std::move(prompt);
    r.sampling.logprobs = 0;
    r.attention = GetParam().mode;
    return r;
  }
  std::vector<int32_t> Text(uint64_t seed, int length) {
    std::vector<int32_t> ids;
    for (int i = 0; i < length; ++i)
      ids.push_back(3 + static_cast<int32_t>(Mix(seed, static_cast<uint64_t>(i)) %
                                             static_cast<uint64_t>(vocab_ - 3)));
    return ids;
  }
  // What the request hears from an engine that has seen nothing else, in one piece.
  Heard Fresh(const Request& request) {
    CoreSetup setup = setup_;
    setup.prefix_cache = false;
    setup.step_tokens = 512;
    CoreHarness harness(setup);
    harness.Add(request);
    EXPECT_TRUE(harness.Finish(5000));
    return harness.heard(request.id);
  }
  static void ExpectEqual(const Heard& a, const Heard& b) {
    EXPECT_EQ(a.tokens, b.tokens);
    ASSERT_EQ(a.outputs.size(), b.outputs.size());
    for (size_t i = 0; i < a.outputs.size(); ++i)
      ASSERT_EQ(a.outputs[i].logprob->logprob, b.outputs[i].logprob->logprob) << "token " << i;
  }

  ThreadPool pool_{1};
  std::unique_ptr<Ops> ops_;
  std::unique_ptr<Model> model_;
  CoreSetup setup_;
  int vocab_ = 0;
};

TEST_P(CachedAnswers, EqualFreshOnes) {
  CoreHarness harness(setup_);
  std::vector<Request> requests = {Ask("first", Text(1, 700), 90)};
  std::vector<int32_t> cached;
  for (int turn = 0; turn < 4; ++turn) {
    SCOPED_TRACE(turn);
    const Request& request = requests.back();
    harness.Add(request);
    ASSERT_TRUE(harness.Finish(5000));
    const Heard& heard = harness.heard(request.id);
    cached.push_back(heard.end.usage.cached_tokens);
    ExpectEqual(heard, Fresh(request));
    std::vector<int32_t> next = request.prompt;
    if (turn == 1) next.resize(500);  // trims its last turns
    if (turn != 1) next.insert(next.end(), heard.tokens.begin(), heard.tokens.end());
    const std::vector<int32_t> more = Text(static_cast<uint64_t>(turn) + 2, 77);
    next.insert(next.end(), more.begin(), more.end());
    requests.push_back(Ask("turn" + std::to_string(turn), next, 40));
  }
  EXPECT_EQ(cached, (std::vector<int32_t>{0, 640, 448, 576}));
}

TEST_P(CachedAnswers, SaltsComputeTheSameApart) {
  CoreHarness harness(setup_);
  Request request = Ask("plain", Text(5, 400), 20);
  harness.Add(request);
  ASSERT_TRUE(harness.Finish(1000));
  request.id = "salted";
  request.cache_salt = "s";
  harness.Add(request);
  ASSERT_TRUE(harness.Finish(1000));
  EXPECT_EQ(harness.heard("salted").end.usage.cached_tokens, 0);
  ExpectEqual(harness.heard("salted"), harness.heard("plain"));
}

TEST_P(CachedAnswers, EqualAfterPreemption) {
  CoreSetup setup = setup_;
  setup.max_context = 832;
  setup.pages = 15;
  CoreHarness harness(setup);
  std::vector<Request> requests;
  for (int i = 0; i < 4; ++i) {
    std::vector<int32_t> prompt = Text(9, 100);  // begin alike
    const std::vector<int32_t> more = Text(static_cast<uint64_t>(i) + 20, 150);
    prompt.insert(prompt.end(), more.begin(), more.end());
    requests.push_back(Ask(std::to_string(i), prompt, 420));
    harness.Add(requests.back());
  }
  ASSERT_TRUE(harness.Finish(20000));
  EXPECT_GT(harness.core().stats().preemptions, 2);
  EXPECT_GT(harness.core().stats().replays, 0);
  for (const Request& request : requests) ExpectEqual(harness.heard(request.id), Fresh(request));
}

// What a server that has been restarted finds in the store's files: all of it, and equal answers.
TEST_P(CachedAnswers, EqualAfterARestart) {
  const auto directory =
      std::filesystem::path(::testing::TempDir()) / ("lserve-restart-" + std::to_string(getpid()));
  const Request first = Ask("first", Text(1, 700), 90), second = [&] {
    std::vector<int32_t> prompt = first.prompt;
    const std::vector<int32_t> more = Text(2, 50);
    prompt.insert(prompt.end(), more.begin(), more.end());
    return Ask("second", prompt, 40);
  }();
  for (const Request& request : {first, second}) {
    CoreSetup setup = setup_;
    CoreHarness sizes(setup);
    const int64_t pages[2] = {PageBytes(sizes.cache().config(), HeadClass::kRetrieval),
                              PageBytes(sizes.cache().config(), HeadClass::kStreaming)};
    auto store = PrefixStore::Open(directory.string(), int64_t{1} << 30, pages);
    ASSERT_TRUE(store.ok()) << store.status().ToString();
    setup.store = store->get();
    CoreHarness harness(setup);
    harness.Add(request);
    ASSERT_TRUE(harness.Finish(5000));
    while (harness.core().SaveSome(1 << 20)) (*store)->Flush();
    ExpectEqual(harness.heard(request.id), Fresh(request));
    EXPECT_EQ(harness.heard(request.id).end.usage.cached_tokens, request.id == "first" ? 0 : 640);
  }
  std::filesystem::remove_all(directory);
}

// What the pools had to give away for another conversation comes back from host memory: all of it,
// and the answer is the same.
TEST_P(CachedAnswers, EqualFromHostMemory) {
  CoreSetup setup = setup_;
  setup.max_context = 832;
  setup.pages = 15;  // one conversation
  setup.host_bytes = int64_t{64} << 20;
  CoreHarness harness(setup);
  std::vector<Request> requests;
  for (int i = 0; i < 3; ++i)
    requests.push_back(Ask(std::to_string(i), Text(static_cast<uint64_t>(i) + 30, 700), 40));
  for (int round = 0; round < 3; ++round) {
    for (const Request& request : requests) {
      SCOPED_TRACE(request.id);
      Request again = request;
      again.id += "-" + std::to_string(round);
      harness.Add(again);
      ASSERT_TRUE(harness.Finish(5000));
      harness.ExpectWhole();
      const Heard& heard = harness.heard(again.id);
      ExpectEqual(heard, Fresh(request));
      EXPECT_EQ(heard.end.usage.cached_tokens, round == 0 ? 0 : 640);
      if (round > 0) {
        EXPECT_EQ(heard.end.usage.cached_from_host, 640);
      }
    }
  }
  EXPECT_EQ(harness.core().stats().prefix_host_restored, 60);
}

std::string Name(const ::testing::TestParamInfo<Case>& info) {
  return "kv" + std::to_string(KvBits(info.param.kv)) +
         (info.param.mode == AttentionMode::kDense ? "dense" : "lserve");
}

INSTANTIATE_TEST_SUITE_P(All, CachedAnswers,
                         ::testing::Values(Case{KvType::kKv16, AttentionMode::kLserve},
                                           Case{KvType::kKv8, AttentionMode::kLserve},
                                           Case{KvType::kKv4, AttentionMode::kLserve},
                                           Case{KvType::kKv16, AttentionMode::kDense},
                                           Case{KvType::kKv8, AttentionMode::kDense},
                                           Case{KvType::kKv4, AttentionMode::kDense}),
                         Name);

}  // namespace
}  // namespace lserve::testing
