#include "engine/kv_identity.h"

#include <filesystem>

#include "model/fingerprint.h"

namespace lserve {
namespace {

constexpr int kFormat =
    2;  // of pages and statistics (docs/formats.md): counted up when they change

// Weights are told apart by their files: hashing them all would take longer than loading them.
std::string WeightsOf(const ModelFiles& files, const EngineOptions& options) {
  if (!options.random_weights.empty()) return "random " + options.random_weights;
  std::string out = Fingerprint(files);
  for (const auto& file : files.files) {
    std::error_code ignored;
    const auto path = std::filesystem::canonical(file->path(), ignored);
    const auto time = std::filesystem::last_write_time(path, ignored).time_since_epoch().count();
    out += fmt::format(" {}:{}:{}", path.string(), file->bytes().size(), time);
  }
  return out;
}

std::string RopeOf(const RopeConfig& r, int max_context) {
  std::string out =
      fmt::format("{} {} {} {} {} {} {} {} {} {} {} {} {}", static_cast<int>(r.kind), r.theta,
                  r.factor, r.original_max_position, r.low_freq_factor, r.high_freq_factor,
                  r.beta_fast, r.beta_slow, r.attention_factor, r.mscale, r.mscale_all_dim,
                  r.truncate, r.kind == RopeConfig::Kind::kDynamic ? max_context : 0);
  for (float factor : r.frequency_factors) out += fmt::format(" {}", factor);
  return out;
}

}  // namespace

std::string KvIdentity(const ModelFiles& files, const EngineOptions& options,
                       const KvCacheConfig& kv, int max_context) {
  std::string heads;
  for (const HeadMap& layer : kv.layers)
    for (int h = 0; h < layer.num_heads(); ++h) heads += layer.streaming(h) ? 's' : 'r';
  const SparsityConfig& s = options.sparsity;
  return fmt::format(
      "format {}; weights {}; {}; rope {}; kv {} statistics {}; heads {}; prefill {} {}; decode {} "
      "{}, selector {} {} {} {} {} {}; backend {}",
      kFormat, WeightsOf(files, options), options.weights_bf16 ? "bf16" : "stored",
      RopeOf(files.config.rope, max_context), kv.codec.name(), kv.stats.logical_tokens, heads,
      s.prefill_sink, s.prefill_local, s.decode_sink, s.decode_local, s.selector_sink_pages,
      s.selector_local_pages, s.reuse_interval, s.dense_below, s.shared_lists,
      static_cast<int>(s.page_score), options.backend);
}

}  // namespace lserve
