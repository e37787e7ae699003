// Engine::Create and the engine's thread.
#include <spdlog/spdlog.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <random>
#include <thread>
#include <unordered_set>

#include "engine/engine_core.h"
#include "kernels/ops.h"
#include "model/fingerprint.h"
#include "model/model.h"
#include "model/weights.h"
#include "sparse/head_pattern.h"

namespace lserve {
namespace {

double Gib(double bytes) { return bytes / (1 << 30); }

// The split and a line that says where it comes from.
struct Split {
  HeadSplit heads;
  std::string description;
};
Result<Split> ChooseSplit(const EngineOptions& options, const ModelFiles& files) {
  const ModelConfig& config = files.config;
  Split none{AllRetrieval(config.layers, config.kv_heads), ""};
  std::string path = options.head_pattern;
  if (path == "none" || options.sparsity.static_sparsity <= 0) {
    none.description = "every KV head is a retrieval head (asked for)";
    return none;
  }
  if (path.empty()) {
    Result<std::optional<std::string>> found = FindHeadPattern(files);
    if (!found.ok()) return found.status();
    if (!*found) {
      none.description =
          "no head pattern is known for this model: every KV head is a retrieval head. A "
          "DuoAttention gate table can be given with --head-pattern FILE";
      return none;
    }
    path = **found;
  }
  Result<HeadPattern> pattern = LoadHeadPattern(path);
  if (!pattern.ok()) return pattern.status().Annotate("--head-pattern");
  if (pattern->layers != config.layers || pattern->kv_heads != config.kv_heads) {
    return InvalidArgument("--head-pattern {}: {} layers of {} KV heads, the model has {} of {}",
                           path, pattern->layers, pattern->kv_heads, config.layers,
                           config.kv_heads);
  }
  Split split{SplitHeads(*pattern, options.sparsity.static_sparsity), ""};
  split.description = fmt::format(
      "{} of {} KV heads stream (pattern {}, static sparsity {}), {:.1f} % of the gate mass lost",
      split.heads.streaming, split.heads.total, path, options.sparsity.static_sparsity,
      100 * split.heads.lost_gate_mass);
  return split;
}

class EngineImpl : public Engine {
 public:
  ~EngineImpl() override {
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    if (thread_.joinable()) thread_.join();
  }

  Status Init(const EngineOptions& options) {
    options_ = options;
    if (Status s = Planner::Check(options.sparsity); !s.ok()) return s;
    if (options.max_running < 1)
      return InvalidArgument("--max-running: {} (must be at least 1)", options.max_running);
    if (options.step_tokens < 1)
      return InvalidArgument("--step-tokens: {} (must be at least 1)", options.step_tokens);
    if (options.threads < 0)
      return InvalidArgument("--threads: {} (must not be negative)", options.threads);
    Result<ModelFiles> files = OpenModel(options.model);
    if (!files.ok()) return files.status();
    config_ = files->config;
    chat_template_ = files->chat_template;
    Result<std::unique_ptr<Tokenizer>> tokenizer = Tokenizer::Create(files->tokenizer);
    if (!tokenizer.ok()) return tokenizer.status().Annotate(options.model);
    tokenizer_ = std::move(*tokenizer);

    pool_ = std::make_unique<ThreadPool>(options.threads);
    Result<std::unique_ptr<Ops>> ops = MakeOps(options.backend, pool_.get());
    if (!ops.ok()) return ops.status();
    ops_ = std::move(*ops);
    const KvCodec codec(options.kv.k, options.kv.v, config_.head_dim);
    if (Status s = ops_->SupportsKv(codec, config_.group()); !s.ok()) return s;
    Result<Split> split = ChooseSplit(options, *files);
    if (!split.ok()) return split.status();
    split_ = std::move(*split);
    if (Status s = InitPools(codec); !s.ok()) return s;

    ModelOptions model_options;
    model_options.weights_bf16 = options.weights_bf16;
    model_options.max_tokens = std::max(options.step_tokens, options.max_running);
    model_options.max_context = max_context_;
    Result<std::unique_ptr<Model>> model = Model::Load(*files, ops_.get(), model_options);
    if (!model.ok()) return model.status().Annotate(options.model);
    model_ = std::move(*model);

    planner_ = std::make_unique<Planner>(options.sparsity, &cache_->config().layers,
                                         config_.group(), ops_->PrefillTile(config_.group()));
    CoreOptions core;
    core.max_running = options.max_running;
    core.step_tokens =
        std::max(options.step_tokens, options.max_running);  // every running sequence can decode
    core.max_context = max_context_;
    core.default_budget = options.sparsity.budget;
    core.default_mode = options.sparsity.mode;
    core.eos = config_.eos;
    core_ = std::make_unique<EngineCore>(core, model_.get(), tokenizer_.get(), cache_.get(),
                                         planner_.get());
    seed_ = options.seed != 0
                ? options.seed
                : (static_cast<uint64_t>(std::random_device()()) << 32) ^ std::random_device()();
    stats_ = core_->stats();
    thread_ = std::thread([this] { Loop(); });
    return Ok();
  }

  Status Submit(Request request, EventSink sink) override {
    if (request.prompt.empty()) return InvalidArgument("prompt: empty");
    for (int32_t id : request.prompt)
      if (id < 0 || id >= config_.vocab)
        return InvalidArgument("prompt: token id {} is outside the vocabulary of {}", id,
                               config_.vocab);
    if (Status s = CheckSampling(request.sampling, config_.vocab); !s.ok()) return s;
    const int prompt = static_cast<int>(std::min<size_t>(request.prompt.size(), INT32_MAX));
    if (prompt + 1 > max_context_) {
      return InvalidArgument(
          "prompt: {} tokens and one to generate do not fit the context of {} tokens", prompt,
          max_context_);
    }
    if (request.budget) {
      SparsityConfig config = options_.sparsity;
      config.budget = *request.budget;
      if (Status s = Planner::Check(config); !s.ok())
        return InvalidArgument("lserve.budget: {}", s.message());
    }
    std::lock_guard lock(mutex_);
    if (!alive_) return Unavailable("the engine has stopped after an internal error");
    if (live_.size() >=
        static_cast<size_t>(options_.max_running) + static_cast<size_t>(options_.max_queue))
      return ResourceExhausted(
          "the queue is full: {} requests run or wait (--max-running {}, --max-queue {})",
          live_.size(), options_.max_running, options_.max_queue);
    if (!live_.insert(request.id).second)
      return InvalidArgument("request id '{}' is in use", request.id);
    // The id is free again when the sink hears the end, so that it may be used anew at once.
    EventSink forget = [this, id = request.id, sink = std::move(sink)](Event event) {
      if (event.kind == Event::Kind::kFinish) {
        std::lock_guard forgetting(mutex_);
        live_.erase(id);
      }
      sink(std::move(event));
    };
    inbox_.push_back({std::move(request), std::move(forget)});
    wake_.notify_all();
    return Ok();
  }

  void Cancel(const std::string& id) override {
    std::lock_guard lock(mutex_);
    if (live_.contains(id)) cancelled_.insert(id);
  }

  EngineStats stats() const override {
    std::lock_guard lock(mutex_);
    EngineStats out = stats_;
    out.waiting += static_cast<int>(inbox_.size());
    out.alive = alive_;
    return out;
  }

  const EngineOptions& options() const override { return options_; }
  const ModelConfig& config() const override { return config_; }
  const Tokenizer& tokenizer() const override { return *tokenizer_; }
  const std::string& chat_template() const override { return chat_template_; }
  int max_context() const override { return max_context_; }

  std::string Describe() const override {
    const KvCacheConfig& kv = cache_->config();
    const double token_bytes =
        static_cast<double>(PageBytes(kv, HeadClass::kRetrieval)) / kBlockTokens;
    return fmt::format(
        "model     {} ({}, {} layers, {} query / {} KV heads of {}, vocabulary {}), weights {:.2f} "
        "GiB\n"
        "backend   {}, {} threads\n"
        "attention {}, {}\n"
        "          budget {} tokens, logical page {}, reuse {}, dense below {}\n"
        "KV cache  {}, {:.1f} KiB a token in retrieval heads; {} pages a pool ({:.2f} GiB), "
        "longest context {} tokens",
        options_.model, ArchitectureName(config_.arch), config_.layers, config_.q_heads,
        config_.kv_heads, config_.head_dim, config_.vocab,
        Gib(static_cast<double>(model_->weight_bytes())), ops_->name(), pool_->size(),
        options_.sparsity.mode == AttentionMode::kLserve ? "lserve" : "dense", split_.description,
        options_.sparsity.budget, options_.sparsity.logical_page, options_.sparsity.reuse_interval,
        options_.sparsity.dense_below, kv.codec.name(), token_bytes / 1024, kv.pages[0],
        Gib(static_cast<double>(kv.pages[0]) *
            static_cast<double>(PageBytes(kv, HeadClass::kRetrieval) +
                                PageBytes(kv, HeadClass::kStreaming))),
        max_context_);
  }

 private:
  struct Incoming {
    Request request;
    EventSink sink;
  };

  // Both pools get the same number of pages, so that a request for dense attention, whose streaming
  // heads keep everything, fits where a sparse one does. Memory is committed when first used: what
  // sparse requests leave unused costs nothing.
  Status InitPools(const KvCodec& codec) {
    KvCacheConfig kv;
    kv.layers = split_.heads.layers;
    kv.codec = codec;
    kv.stats = {options_.sparsity.logical_page, codec.dim()};
    kv.max_slots = options_.max_running;
    const int64_t bytes =
        PageBytes(kv, HeadClass::kRetrieval) + PageBytes(kv, HeadClass::kStreaming);
    const double budget = options_.kv_memory_gib * (1 << 30);
    const int64_t pages = static_cast<int64_t>(budget / static_cast<double>(bytes));
    const int64_t fits = pages * kBlockTokens;
    if (pages < 2)
      return InvalidArgument("--kv-memory {} GiB: one page of 64 tokens takes {} bytes",
                             options_.kv_memory_gib, bytes);
    const int64_t wanted = options_.max_context > 0 ? options_.max_context : config_.max_position;
    if (options_.max_context > fits) {
      return InvalidArgument(
          "--max-context {}: --kv-memory {} GiB holds {} tokens of {}; {:.1f} GiB would be needed",
          options_.max_context, options_.kv_memory_gib, fits, codec.name(),
          Gib(static_cast<double>(options_.max_context) / kBlockTokens *
              static_cast<double>(bytes)));
    }
    if (options_.max_context > config_.max_position)
      return InvalidArgument("--max-context {}: the model was made for {} tokens",
                             options_.max_context, config_.max_position);
    max_context_ = static_cast<int>(std::min<int64_t>({wanted, fits, INT32_MAX / 2}));
    kv.max_blocks = (max_context_ + kBlockTokens - 1) / kBlockTokens;
    kv.pages[0] = kv.pages[1] =
        std::min<int64_t>(pages, static_cast<int64_t>(kv.max_blocks) * kv.max_slots);
    cache_ = std::make_unique<KvCache>(std::move(kv));
    return Ok();
  }

  void Loop() {
    std::unique_lock lock(mutex_);
    while (true) {
      if (core_->idle() && inbox_.empty() && !stop_) {
        if (Status s = cache_->CheckIntegrity(); !s.ok()) {
          spdlog::critical("KV cache: {}", s.ToString());
          alive_ = false;
          break;
        }
        wake_.wait(lock, [&] { return stop_ || !inbox_.empty(); });
      }
      if (stop_) break;
      std::vector<Incoming> incoming;
      incoming.swap(inbox_);
      std::unordered_set<std::string> cancelled;
      cancelled.swap(cancelled_);
      lock.unlock();
      for (Incoming& in : incoming) {
        const uint64_t seed =
            in.request.sampling.seed.value_or(seed_ + 0x9e3779b97f4a7c15ull * ++drawn_);
        core_->Add(std::move(in.request), std::move(in.sink), seed);
      }
      for (const std::string& id : cancelled) core_->Cancel(id);
      try {
        if (!core_->idle()) core_->Step();
      } catch (const std::exception& e) {  // memory ran out
        spdlog::critical("engine: {}", e.what());
        core_->FailAll(Internal("the engine has stopped: {}", e.what()));
        lock.lock();
        alive_ = false;
        break;
      }
      const EngineStats stats = core_->stats();
      lock.lock();
      stats_ = stats;
    }
    // Nobody is left waiting for an answer.
    alive_ = false;
    std::vector<Incoming> incoming;
    incoming.swap(inbox_);
    lock.unlock();
    for (Incoming& in : incoming) core_->Add(std::move(in.request), std::move(in.sink), 0);
    core_.reset();
  }

  EngineOptions options_;
  ModelConfig config_;
  std::string chat_template_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<ThreadPool> pool_;
  std::unique_ptr<Ops> ops_;
  Split split_;
  std::unique_ptr<KvCache> cache_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<Planner> planner_;
  std::unique_ptr<EngineCore> core_;  // the engine thread's
  int max_context_ = 0;
  uint64_t seed_ = 0, drawn_ = 0;

  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable wake_;
  std::vector<Incoming> inbox_;
  std::unordered_set<std::string> cancelled_;
  std::unordered_set<std::string> live_;  // ids between Submit and finish
  EngineStats stats_;
  bool stop_ = false, alive_ = true;

  std::thread thread_;
};

}  // namespace

Result<std::unique_ptr<Engine>> Engine::Create(const EngineOptions& options) {
  auto engine = std::make_unique<EngineImpl>();
  if (Status s = engine->Init(options); !s.ok()) return s;
  return std::unique_ptr<Engine>(std::move(engine));
}

}  // namespace lserve
