#include "cli/commands.h"
#include "cli/options.h"
#include "kv/kv_cache.h"
#include "model/fingerprint.h"
#include "model/weights.h"
#include "sparse/head_pattern.h"

namespace lserve {
namespace {

const char* RopeName(RopeConfig::Kind kind) {
  switch (kind) {
    case RopeConfig::Kind::kDefault:
      return "default";
    case RopeConfig::Kind::kLinear:
      return "linear";
    case RopeConfig::Kind::kLlama3:
      return "llama3";
    case RopeConfig::Kind::kYarn:
      return "yarn";
    case RopeConfig::Kind::kDynamic:
      return "dynamic";
  }
  return "";
}

void PrintMemory(const ModelConfig& c, const HeadSplit& split, double gib) {
  fmt::print(
      "\nKV cache, bytes a token over all layers:    dense        retrieval heads only     dense "
      "tokens in {} GiB\n",
      gib);
  for (const char* name : {"kv16", "kv8", "kv4", "k8v4"}) {
    const KvTypes types = *ParseKvTypes(name);
    KvCacheConfig kv;
    kv.layers = split.layers;
    kv.codec = KvCodec(types.k, types.v, c.head_dim);
    kv.stats = {16, c.head_dim};
    const int64_t retrieval = PageBytes(kv, HeadClass::kRetrieval),
                  streaming = PageBytes(kv, HeadClass::kStreaming);
    fmt::print("  {:<6} {:>42} {:>31} {:>22}\n", name, (retrieval + streaming) / kBlockTokens,
               retrieval / kBlockTokens,
               static_cast<int64_t>(gib * (1 << 30) / static_cast<double>(retrieval + streaming)) *
                   kBlockTokens);
  }
}

int RunInspect(const std::string& name, const std::string& pattern_path, double sparsity,
               double gib) {
  Result<std::string> path = FindModel(name);
  if (!path.ok()) return Fail(path.status());
  Result<ModelFiles> files = OpenModel(*path);
  if (!files.ok()) return Fail(files.status());
  const ModelConfig& c = files->config;
  double weights = 0;
  for (const auto& [tensor, view] : files->tensors)
    weights += static_cast<double>(view.rows * RowBytes(view.dtype, view.cols));
  fmt::print("{}\n", *path);
  fmt::print("architecture  {} ({})\n", ArchitectureName(c.arch), c.name);
  fmt::print("layers        {}, hidden {}, intermediate {}, vocabulary {}{}\n", c.layers, c.hidden,
             c.intermediate, c.vocab, c.tied_embeddings ? ", tied output matrix" : "");
  fmt::print("attention     {} query / {} KV heads of {}{}{}\n", c.q_heads, c.kv_heads, c.head_dim,
             c.qkv_bias ? ", QKV bias" : "", c.qk_norm ? ", q and k norm" : "");
  fmt::print("rope          {}, base {}, longest context {}{}\n", RopeName(c.rope.kind),
             c.rope.theta, c.max_position,
             c.sliding_window > 0 ? fmt::format(", sliding window {}", c.sliding_window) : "");
  fmt::print("weights       {:.1f} MiB in {} tensors\n", weights / (1 << 20),
             files->tensors.size());
  fmt::print("fingerprint   {}\n", Fingerprint(*files));
  std::optional<std::string> found;
  if (!pattern_path.empty()) {
    found = pattern_path;
  } else {
    Result<std::optional<std::string>> known = FindHeadPattern(*files);
    if (!known.ok()) return Fail(known.status());
    found = *known;
  }
  HeadSplit split = AllRetrieval(c.layers, c.kv_heads);
  if (found) {
    Result<HeadPattern> pattern = LoadHeadPattern(*found);
    if (!pattern.ok()) return Fail(pattern.status());
    if (pattern->layers != c.layers || pattern->kv_heads != c.kv_heads)
      return Fail(InvalidArgument("{}: {} layers of {} KV heads, the model has {} of {}", *found,
                                  pattern->layers, pattern->kv_heads, c.layers, c.kv_heads));
    split = SplitHeads(*pattern, sparsity);
    fmt::print("head pattern  {}\n", *found);
    fmt::print(
        "              static sparsity {}: {} of {} KV heads stream, {:.1f} % of the gate mass "
        "lost\n",
        sparsity, split.streaming, split.total, 100 * split.lost_gate_mass);
  } else {
    fmt::print("head pattern  none known: every KV head is a retrieval head\n");
  }
  fmt::print("              retrieval heads a layer:");
  for (const HeadMap& layer : split.layers) fmt::print(" {}", layer.count(HeadClass::kRetrieval));
  fmt::print("\n");
  PrintMemory(c, split, gib);
  return 0;
}

}  // namespace

Command AddInspect(CLI::App* app) {
  struct Flags {
    std::string model = kDefaultModel, pattern;
    double sparsity = 0.5, gib = 4;
  };
  auto flags = std::make_shared<Flags>();
  app->add_option("model", flags->model, "GGUF file, Hugging Face directory or default model")
      ->capture_default_str();
  app->add_option("--head-pattern", flags->pattern, "DuoAttention gate table; empty: by model");
  app->add_option("--static-sparsity", flags->sparsity, "Share of KV heads that stream")
      ->capture_default_str();
  app->add_option("--kv-memory", flags->gib, "GiB for KV pages")->capture_default_str();
  return [flags] { return RunInspect(flags->model, flags->pattern, flags->sparsity, flags->gib); };
}

}  // namespace lserve
