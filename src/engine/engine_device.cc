#include "engine/engine_device.h"

#include <algorithm>
#include <new>

#include "model/device_model.h"

namespace lserve {
namespace {

double Gib(double bytes) { return bytes / (1 << 30); }

// Streaming pages that sequences need at most when they are sparse: windows of decode for
// `decoding` of them, windows of prefill for `prompts`.
int64_t StreamingPages(const EngineOptions& o, int64_t longest_pages, int decoding, int prompts) {
  const SparsityConfig& s = o.sparsity;
  const auto pages = [](int64_t tokens) { return (tokens + kBlockTokens - 1) / kBlockTokens + 2; };
  const int64_t decode = pages(s.prefill_sink) + pages(s.decode_local);
  const int64_t prefill = pages(s.prefill_sink) + pages(s.prefill_local) + pages(o.step_tokens);
  return decode * decoding + std::min(prefill, longest_pages) * prompts;
}

}  // namespace

Result<std::unique_ptr<Device>> OpenDeviceFor(const EngineOptions& options) {
  if (options.backend != "cuda" && options.backend != "auto") return std::unique_ptr<Device>();
  Result<std::unique_ptr<Device>> device = OpenDevice(options.gpu);
  if (device.ok() || options.backend == "cuda") return device;
  return std::unique_ptr<Device>();
}

Status LoadOnDevice(const ModelFiles& files, KvCacheConfig kv, EngineParts* parts,
                    size_t* weight_bytes) {
  const EngineOptions& o = parts->options;
  const ModelConfig& c = parts->config;
  Device* device = parts->device.get();
  if (Status s = device->Supports(kv.codec, c.group()); !s.ok()) return s;
  if (!(o.gpu_memory_utilization > 0 && o.gpu_memory_utilization <= 1))
    return InvalidArgument("--gpu-memory-utilization: {} (must be above 0 and at most 1)",
                           o.gpu_memory_utilization);
  Result<DeviceWeights> weights = o.random_weights.empty()
                                      ? UploadWeights(files, device, parts->pool.get())
                                      : RandomWeights(c, device, 1);
  if (!weights.ok()) return weights.status();
  *weight_bytes = weights->bytes();

  kv.memory = device;
  kv.stats = o.sparsity.statistics(kv.codec.dim());
  kv.max_slots = o.max_running;
  const int64_t page[2] = {PageBytes(kv, HeadClass::kRetrieval),
                           PageBytes(kv, HeadClass::kStreaming)};
  const int longest =
      c.sliding_window > 0 ? std::min(c.max_position, c.sliding_window) : c.max_position;
  if (o.max_context > longest)
    return InvalidArgument("--max-context {}: the model was made for {} tokens", o.max_context,
                           longest);
  int bucket = 1;
  while (bucket < o.max_running) bucket *= 2;
  DeviceModelOptions model;
  model.max_tokens = std::max(o.step_tokens, bucket);
  model.max_logit_rows = 64 + bucket;
  model.max_slots = o.max_running;
  model.max_budget = std::max(o.sparsity.budget, 16384);
  model.deterministic = o.deterministic;

  // The workspace grows with the context and the pools hold what is left: the longest context for
  // which both fit. A reserve stays for graphs and the libraries.
  constexpr double kReserve = 512.0 * (1 << 20);
  const DeviceInfo info = device->info();
  const double taken = static_cast<double>(info.total_bytes - info.free_bytes);
  const double budget =
      o.gpu_memory_utilization * static_cast<double>(info.total_bytes) - taken - kReserve;
  int64_t pages[2] = {0, 0};
  const auto fit = [&](int context) {  // tokens that the pools hold beside that context's workspace
    model.max_context = context;
    model.kept_heads.clear();
    double left =
        budget - static_cast<double>(DeviceModel::WorkspaceBytes(c, o.sparsity, *device, model));
    if (const double each = static_cast<double>(DeviceModel::KeptBytes(c, model)); each > 0) {
      double most = left * o.prompt_scratch;
      for (const HeadMap& layer : kv.layers) {
        const int heads = layer.count(HeadClass::kRetrieval);
        const bool fits = heads * each <= most;
        model.kept_heads.push_back(fits ? heads : 0);
        if (!fits) continue;
        most -= heads * each;
        left -= heads * each;
      }
    }
    if (o.kv_memory_gib > 0) left = std::min(left, o.kv_memory_gib * (1 << 30));
    const int64_t longest_pages = (context + kBlockTokens - 1) / kBlockTokens;
    if (o.sparsity.mode == AttentionMode::kDense || page[1] == 0) {
      pages[0] = pages[1] = static_cast<int64_t>(left / static_cast<double>(page[0] + page[1]));
    } else {
      // Half of the room or less, where memory is short: fewer sequences run together, but one can.
      constexpr int kPrefillsAtOnce = 4;
      pages[1] = std::clamp(static_cast<int64_t>(left / 2 / static_cast<double>(page[1])),
                            StreamingPages(o, longest_pages, 1, 1),
                            StreamingPages(o, longest_pages, o.max_running,
                                           std::min(kPrefillsAtOnce, o.max_running)));
      pages[0] = static_cast<int64_t>((left - static_cast<double>(pages[1] * page[1])) /
                                      static_cast<double>(std::max<int64_t>(page[0], 1)));
    }
    return left > 0 ? pages[0] * kBlockTokens : 0;
  };
  int64_t context = o.max_context > 0 ? o.max_context : longest;
  int64_t fits = fit(static_cast<int>(context));
  if (o.max_context > 0 && fits < context)
    return ResourceExhausted(
        "--max-context {}: {} has {:.1f} GiB of which the weights take {:.1f}; {} tokens of {} fit "
        "(--gpu-memory-utilization {}, --kv, --step-tokens)",
        context, info.name, Gib(static_cast<double>(info.total_bytes)),
        Gib(static_cast<double>(*weight_bytes)), std::max<int64_t>(fits, 0), kv.codec.name(),
        o.gpu_memory_utilization);
  while (fits < context) {
    context = std::max<int64_t>(std::max<int64_t>(fits, context / 2), 0);
    if (context < 2 * kBlockTokens)
      return ResourceExhausted(
          "{}: {:.1f} GiB are not enough for the weights ({:.1f} GiB) and any KV cache (a smaller "
          "--step-tokens or --max-running, or --backend cpu)",
          info.name, Gib(static_cast<double>(info.total_bytes)),
          Gib(static_cast<double>(*weight_bytes)));
    fits = fit(static_cast<int>(context));
  }
  parts->max_context = static_cast<int>(context);
  kv.max_blocks = (parts->max_context + kBlockTokens - 1) / kBlockTokens;
  for (int i : {0, 1}) kv.pages[i] = std::min(pages[i], int64_t{kv.max_blocks} * kv.max_slots);
  Result<std::unique_ptr<DeviceModel>> runner =
      DeviceModel::Create(c, o.sparsity, device, std::move(*weights), model);
  if (!runner.ok()) return runner.status();
  try {
    parts->cache = std::make_unique<KvCache>(std::move(kv));
  } catch (const std::bad_alloc&) {
    return ResourceExhausted(
        "{}: no room for the KV pools at --gpu-memory-utilization {} (something else uses the GPU)",
        info.name, o.gpu_memory_utilization);
  }
  parts->runner = std::move(*runner);
  parts->planner =
      std::make_unique<Planner>(o.sparsity, &parts->cache->config().layers, c.group(),
                                device->PrefillTile(c.head_dim, c.group()), !o.deterministic);
  return Ok();
}

}  // namespace lserve
