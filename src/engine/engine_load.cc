// Engine::Create: from a path and options to the parts of an engine.
#include <algorithm>

#include "engine/engine_device.h"
#include "engine/engine_thread.h"
#include "engine/kv_identity.h"
#include "engine/sparsity_choice.h"
#include "model/model.h"
#include "model/shapes.h"
#include "model/weights.h"

namespace lserve {
namespace {

double Gib(double bytes) { return bytes / (1 << 30); }

constexpr double kHostKvGib = 4;  // without --kv-memory

// Sizes both pools for a cache whose layers and codec are set. Both get the same number of pages,
// so that a request for dense attention, whose streaming heads keep everything, fits where a sparse
// one does. Memory is committed when first used: what sparse requests leave unused costs nothing.
Status SizePools(const EngineOptions& options, const ModelConfig& config, KvCacheConfig* out,
                 int* max_context) {
  KvCacheConfig& kv = *out;
  kv.stats = options.sparsity.statistics(kv.codec.dim());
  kv.max_slots = options.max_running;
  const int64_t bytes = PageBytes(kv, HeadClass::kRetrieval) + PageBytes(kv, HeadClass::kStreaming);
  const double gib = options.kv_memory_gib > 0 ? options.kv_memory_gib : kHostKvGib;
  const double budget = gib * (1 << 30);
  const int64_t pages = static_cast<int64_t>(budget / static_cast<double>(bytes));
  const int64_t fits = pages * kBlockTokens;
  if (pages < 2)
    return InvalidArgument("--kv-memory {} GiB: one page of 64 tokens takes {} bytes", gib, bytes);
  // A sliding window is no plan here yet: within the window full attention is the same thing.
  const int longest = config.sliding_window > 0
                          ? std::min(config.max_position, config.sliding_window)
                          : config.max_position;
  const int64_t wanted = options.max_context > 0 ? options.max_context : longest;
  if (options.max_context > fits) {
    return InvalidArgument(
        "--max-context {}: --kv-memory {} GiB holds {} tokens of {}; {:.1f} GiB would be needed",
        options.max_context, gib, fits, kv.codec.name(),
        Gib(static_cast<double>(options.max_context) / kBlockTokens * static_cast<double>(bytes)));
  }
  if (options.max_context > longest)
    return InvalidArgument("--max-context {}: the model was made for {} tokens{}",
                           options.max_context, longest,
                           longest < config.max_position ? " (its sliding window)" : "");
  *max_context = static_cast<int>(std::min<int64_t>({wanted, fits, INT32_MAX / 2}));
  kv.max_blocks = (*max_context + kBlockTokens - 1) / kBlockTokens;
  kv.pages[0] = kv.pages[1] =
      std::min<int64_t>(pages, static_cast<int64_t>(kv.max_blocks) * kv.max_slots);
  return Ok();
}

std::string Description(const EngineParts& parts, size_t weight_bytes,
                        const SparsityChoice& choice) {
  const EngineOptions& o = parts.options;
  const ModelConfig& c = parts.config;
  const KvCacheConfig& kv = parts.cache->config();
  const double token_bytes =
      static_cast<double>(PageBytes(kv, HeadClass::kRetrieval)) / kBlockTokens;
  return fmt::format(
      "model     {} ({}, {} layers, {} query / {} KV heads of {}, vocabulary {}), weights {:.2f} "
      "GiB\n"
      "backend   {}\n"
      "attention {}, {}\n"
      "          budget {} tokens, pages by {}, reuse {}, dense below {}\n"
      "          profile {}\n"
      "KV cache  {}, {:.1f} KiB a token in retrieval heads; {} and {} pages ({:.2f} GiB), "
      "longest context {} tokens",
      o.model, ArchitectureName(c.arch), c.layers, c.q_heads, c.kv_heads, c.head_dim, c.vocab,
      Gib(static_cast<double>(weight_bytes)),
      parts.device ? "cuda on " + parts.device->info().name
                   : fmt::format("{}, {} threads", parts.ops->name(), parts.pool->size()),
      o.sparsity.mode == AttentionMode::kLserve ? "lserve" : "dense", choice.heads_line,
      o.sparsity.budget,
      o.sparsity.page_score == PageScore::kKeys
          ? "their best key"
          : fmt::format("{} of {} tokens", PageScoreName(o.sparsity.page_score),
                        o.sparsity.logical_page),
      o.sparsity.reuse_interval, o.sparsity.dense_below, choice.profile_line, kv.codec.name(),
      token_bytes / 1024, kv.pages[0], kv.pages[1],
      Gib(static_cast<double>(kv.pages[0] * PageBytes(kv, HeadClass::kRetrieval) +
                              kv.pages[1] * PageBytes(kv, HeadClass::kStreaming))),
      parts.max_context);
}

Status LoadOnHost(const ModelFiles& files, KvCacheConfig kv, EngineParts* parts,
                  size_t* weight_bytes) {
  const EngineOptions& options = parts->options;
  const ModelConfig& config = parts->config;
  Result<std::unique_ptr<Ops>> ops = MakeOps(options.backend, parts->pool.get());
  if (!ops.ok()) return ops.status();
  parts->ops = std::move(*ops);
  if (Status s = parts->ops->SupportsKv(kv.codec, config.group()); !s.ok()) return s;
  if (Status s = SizePools(options, config, &kv, &parts->max_context); !s.ok()) return s;
  parts->cache = std::make_unique<KvCache>(std::move(kv));
  ModelOptions model_options;
  model_options.weights_bf16 = options.weights_bf16;
  model_options.max_tokens = std::max(options.step_tokens, options.max_running);
  model_options.max_context = parts->max_context;
  Result<std::unique_ptr<Model>> model = Model::Load(files, parts->ops.get(), model_options);
  if (!model.ok()) return model.status().Annotate(options.model);
  *weight_bytes = (*model)->weight_bytes();
  parts->runner = std::move(*model);
  parts->planner =
      std::make_unique<Planner>(options.sparsity, &parts->cache->config().layers, config.group(),
                                parts->ops->PrefillTile(config.group()));
  return Ok();
}

// Where the prefix cache keeps more than the pools hold.
Status OpenTiers(EngineParts* parts) {
  const EngineOptions& options = parts->options;
  if (!options.prefix_cache) return Ok();
  const auto bytes = [](double gib) { return static_cast<int64_t>(gib * (1 << 30)); };
  const KvCacheConfig& pools = parts->cache->config();
  const int64_t pages[2] = {PageBytes(pools, HeadClass::kRetrieval),
                            PageBytes(pools, HeadClass::kStreaming)};
  if (options.prefix_cache_host_gib > 0) {
    Result<std::unique_ptr<HostPages>> host =
        HostPages::Create(bytes(options.prefix_cache_host_gib), pages, pools.memory);
    if (!host.ok()) return host.status();
    parts->host_pages = std::move(*host);
  }
  if (!options.prefix_cache_dir.empty()) {
    Result<std::unique_ptr<PrefixStore>> store =
        PrefixStore::Open(options.prefix_cache_dir, bytes(options.prefix_cache_dir_gib), pages);
    if (!store.ok()) return store.status();
    parts->prefix_store = std::move(*store);
  }
  return Ok();
}

Status CheckOptions(const EngineOptions& options) {
  if (options.max_running < 1)
    return InvalidArgument("--max-running: {} (must be at least 1)", options.max_running);
  if (options.max_queue < 0)
    return InvalidArgument("--max-queue: {} (must not be negative)", options.max_queue);
  if (options.step_tokens < 0)
    return InvalidArgument("--step-tokens: {} (must not be negative)", options.step_tokens);
  if (options.threads < 0)
    return InvalidArgument("--threads: {} (must not be negative)", options.threads);
  if (options.threads > 1024)
    return InvalidArgument("--threads: {} (must be at most 1024)", options.threads);
  return Ok();
}

}  // namespace

Result<std::unique_ptr<Engine>> Engine::Create(const EngineOptions& given) {
  if (Status s = CheckOptions(given); !s.ok()) return s;
  Result<ModelFiles> files =
      given.random_weights.empty() ? OpenModel(given.model) : ModelOfShape(given.random_weights);
  if (!files.ok()) return files.status();
  EngineParts parts;
  parts.options = given;
  EngineOptions& options = parts.options;
  if (!options.random_weights.empty()) options.model = files->path;
  parts.config = files->config;
  parts.chat_template = files->chat_template;
  const ModelConfig& config = parts.config;
  Result<std::unique_ptr<Tokenizer>> tokenizer = Tokenizer::Create(files->tokenizer);
  if (!tokenizer.ok()) return tokenizer.status().Annotate(options.model);
  parts.tokenizer = std::move(*tokenizer);

  Result<SparsityChoice> choice = ChooseSparsity(options, *files);
  if (!choice.ok()) return choice.status();
  options.sparsity = choice->config;
  KvCacheConfig kv;
  kv.layers = choice->heads.layers;
  kv.codec = KvCodec(options.kv.k, options.kv.v, config.head_dim);

  Result<std::unique_ptr<Device>> device = OpenDeviceFor(options);
  if (!device.ok()) return device.status();
  parts.device = std::move(*device);
  parts.pool = std::make_unique<ThreadPool>(options.threads);
  if (options.step_tokens == 0) options.step_tokens = parts.device ? 8192 : 512;
  size_t weight_bytes = 0;
  if (parts.device) {
    options.backend = "cuda";
    if (Status s = LoadOnDevice(*files, std::move(kv), &parts, &weight_bytes); !s.ok())
      return s.Annotate(options.model);
  } else {
    if (options.backend == "auto") options.backend = "cpu";
    if (!options.random_weights.empty())
      return InvalidArgument("--random-weights {}: weights are made on a GPU only (--backend {})",
                             options.random_weights, options.backend);
    if (Status s = LoadOnHost(*files, std::move(kv), &parts, &weight_bytes); !s.ok()) return s;
  }
  if (options.sparsity.audit_interval > 0 && !parts.runner->audits())
    return InvalidArgument("--audit-interval {}: selections are not audited with --backend {}",
                           options.sparsity.audit_interval, options.backend);
  parts.kv_identity = KvIdentity(*files, options, parts.cache->config(), parts.max_context);
  if (Status s = OpenTiers(&parts); !s.ok()) return s;
  parts.description = Description(parts, weight_bytes, *choice);
  return StartEngine(std::move(parts));
}

}  // namespace lserve
