#include "engine/engine_thread.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <random>
#include <thread>
#include <unordered_set>

namespace lserve {
namespace {

constexpr std::chrono::milliseconds kPause{200};    // without requests, before housekeeping
constexpr int64_t kSaveBytes = int64_t{128} << 20;  // to the prefix cache's store at a time

class EngineThread : public Engine {
 public:
  explicit EngineThread(EngineParts parts) : parts_(std::move(parts)) {
    const EngineOptions& options = parts_.options;
    CoreOptions core;
    core.max_running = options.max_running;
    // Every running sequence can decode.
    core.step_tokens = std::max(options.step_tokens, options.max_running);
    if (parts_.device) {
      core.chunk_unit = parts_.device->PrefillTile(parts_.config.head_dim, parts_.config.group());
      core.fit_rows = !options.deterministic;
    }
    core.max_context = parts_.max_context;
    core.default_budget = options.sparsity.budget;
    core.dense_below = options.sparsity.dense_below;
    core.default_audit = options.sparsity.audit_interval;
    core.step_target_seconds = options.step_target_ms / 1000;
    core.default_mode = options.sparsity.mode;
    core.eos = parts_.config.eos;
    core.deterministic = options.deterministic;
    core.kv_identity = parts_.kv_identity;
    if (options.prefix_cache) {
      PrefixCacheConfig prefix;
      prefix.sink_blocks = parts_.planner->SinkBlocks();
      prefix.window_tokens = options.sparsity.prefill_local;
      prefix.checkpoint_blocks = std::max(64, 4 * prefix.window_tokens / kBlockTokens);
      prefix.share_decoded = !options.deterministic;
      prefix.host = parts_.host_pages.get();
      prefix.store = parts_.prefix_store.get();
      prefix_ = std::make_unique<PrefixCache>(prefix, parts_.cache.get());
    }
    core_ = std::make_unique<EngineCore>(core, parts_.runner.get(), parts_.tokenizer.get(),
                                         parts_.cache.get(), parts_.planner.get(), prefix_.get());
    for (const AttentionMode mode : {AttentionMode::kDense, AttentionMode::kLserve})
      longest_[static_cast<int>(mode)] = core_->LongestContext(mode);
    seed_ = options.seed != 0
                ? options.seed
                : (static_cast<uint64_t>(std::random_device()()) << 32) ^ std::random_device()();
    stats_ = core_->stats();
    thread_ = std::thread([this] { Loop(); });
  }

  ~EngineThread() override {
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    thread_.join();
  }

  Status Submit(Request request, EventSink sink) override {
    if (request.prompt.empty()) return InvalidArgument("prompt: empty");
    for (int32_t id : request.prompt)
      if (id < 0 || id >= parts_.config.vocab)
        return InvalidArgument("prompt: token id {} is outside the vocabulary of {}", id,
                               parts_.config.vocab);
    if (Status s = CheckSampling(request.sampling, parts_.config.vocab); !s.ok()) return s;
    const int prompt = static_cast<int>(std::min<size_t>(request.prompt.size(), INT32_MAX));
    if (const int most = longest(request.attention); prompt + 1 > most)
      return InvalidArgument(
          "prompt: {} tokens and one to generate do not fit the context of {} tokens{}", prompt,
          most,
          most < parts_.max_context
              ? fmt::format(" (dense attention; {} with lserve's)", parts_.max_context)
              : "");
    if (request.budget) {
      SparsityConfig config = parts_.options.sparsity;
      config.budget = *request.budget;
      if (Status s = Planner::Check(config); !s.ok())
        return InvalidArgument("lserve.budget: {}", s.message());
      if (const int most = parts_.runner->max_budget(); *request.budget > most)
        return InvalidArgument("lserve.budget: {} (at most {} here)", *request.budget, most);
    }
    if (request.audit) {
      SparsityConfig config = parts_.options.sparsity;
      config.audit_interval = *request.audit;
      if (Status s = Planner::Check(config); !s.ok())
        return InvalidArgument("lserve.audit: {}", s.message());
      if (*request.audit > 0 && !parts_.runner->audits())
        return InvalidArgument("lserve.audit: selections are not audited with --backend {}",
                               parts_.options.backend);
    }
    std::lock_guard lock(mutex_);
    if (!alive_) return Unavailable("the engine has stopped after an internal error");
    if (live_.size() >= static_cast<size_t>(parts_.options.max_running) +
                            static_cast<size_t>(parts_.options.max_queue))
      return ResourceExhausted(
          "the queue is full: {} requests run or wait (--max-running {}, --max-queue {})",
          live_.size(), parts_.options.max_running, parts_.options.max_queue);
    if (!live_.insert(request.id).second)
      return InvalidArgument("request id '{}' is in use", request.id);
    // The id is free again when the sink hears the end, so that it may be used anew at once.
    EventSink forget = [this, id = request.id, sink = std::move(sink)](Event event) {
      if (event.kind == Event::Kind::kFinish) {
        std::lock_guard forgetting(mutex_);
        live_.erase(id);
        cancelled_.erase(id);
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
    out.integrity_checks = integrity_checks_;
    out.waiting += static_cast<int>(inbox_.size());
    out.alive = alive_;
    return out;
  }

  const EngineOptions& options() const override { return parts_.options; }
  const ModelConfig& config() const override { return parts_.config; }
  const Tokenizer& tokenizer() const override { return *parts_.tokenizer; }
  const std::string& chat_template() const override { return parts_.chat_template; }
  int max_context() const override { return parts_.max_context; }
  int longest(std::optional<AttentionMode> attention) const override {
    return longest_[static_cast<int>(attention.value_or(parts_.options.sparsity.mode))];
  }
  std::string Describe() const override { return parts_.description; }

 private:
  struct Incoming {
    Request request;
    EventSink sink;
  };

  void Loop() {
    std::unique_lock lock(mutex_);
    while (true) {
      if (core_->idle() && inbox_.empty() && !stop_ && !Rest(&lock)) break;
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
        if (Status s = parts_.runner->Health(); !s.ok()) throw std::runtime_error(s.ToString());
      } catch (const std::exception& e) {  // memory ran out, or the device failed
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
    if (stop_) {  // in order: what was computed is worth keeping
      while (core_->SaveSome(kSaveBytes)) parts_.prefix_store->Flush();
    }
    core_.reset();
  }

  // Until somebody wants something. After a while it checks the pools; false: they are broken.
  bool Rest(std::unique_lock<std::mutex>* lock) {
    const auto wanted = [&] { return stop_ || !inbox_.empty(); };
    if (wake_.wait_for(*lock, kPause, wanted)) return true;
    lock->unlock();
    while (core_->SaveSome(kSaveBytes) && !Wanted()) parts_.prefix_store->Flush();
    Status s = parts_.cache->CheckIntegrity();
    if (s.ok() && prefix_) s = prefix_->CheckIntegrity();
    if (!s.ok()) spdlog::critical("KV cache: {}", s.ToString());
    lock->lock();
    ++integrity_checks_;
    if (s.ok()) wake_.wait(*lock, wanted);
    return s.ok();
  }
  bool Wanted() const {
    std::lock_guard lock(mutex_);
    return stop_ || !inbox_.empty();
  }

  EngineParts parts_;
  std::unique_ptr<PrefixCache> prefix_;  // the engine thread's, null when switched off
  std::unique_ptr<EngineCore> core_;     // the engine thread's
  uint64_t seed_ = 0, drawn_ = 0;
  int longest_[2] = {0, 0};  // tokens, by AttentionMode; immutable

  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable wake_;
  std::vector<Incoming> inbox_;
  std::unordered_set<std::string> cancelled_;
  std::unordered_set<std::string> live_;  // ids between Submit and finish
  EngineStats stats_;
  int64_t integrity_checks_ = 0;
  bool stop_ = false, alive_ = true;

  std::thread thread_;
};

}  // namespace

std::unique_ptr<Engine> StartEngine(EngineParts parts) {
  return std::make_unique<EngineThread>(std::move(parts));
}

}  // namespace lserve
