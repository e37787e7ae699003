#include <sstream>

#include "cli/commands.h"
#include "cli/options.h"
#include "engine/sparsity_choice.h"
#include "kv/kv_cache.h"
#include "model/fingerprint.h"
#include "model/weights.h"

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

void PrintMemory(const ModelConfig& c, const SparsityChoice& choice, double gib) {
  fmt::print(
      "\nKV cache, bytes a token over all layers:    dense        retrieval heads only     dense "
      "tokens in {} GiB\n",
      gib);
  for (const char* name : {"kv16", "kv8", "kv4", "k8v4"}) {
    const KvTypes types = *ParseKvTypes(name);
    KvCacheConfig kv;
    kv.layers = choice.heads.layers;
    kv.codec = KvCodec(types.k, types.v, c.head_dim);
    kv.stats = choice.config.statistics(c.head_dim);
    const int64_t retrieval = PageBytes(kv, HeadClass::kRetrieval),
                  streaming = PageBytes(kv, HeadClass::kStreaming);
    fmt::print("  {:<6} {:>42} {:>31} {:>22}\n", name, (retrieval + streaming) / kBlockTokens,
               retrieval / kBlockTokens,
               static_cast<int64_t>(gib * (1 << 30) / static_cast<double>(retrieval + streaming)) *
                   kBlockTokens);
  }
}

// Every setting in force, and whose it is.
void PrintSettings(const EngineOptions& options, const SparsityChoice& choice) {
  fmt::print("profile       {}\n", choice.profile_line);
  if (choice.profile) {
    std::istringstream lines(choice.profile->provenance);
    for (std::string line; std::getline(lines, line);) fmt::print("              {}\n", line);
  }
  ForEachSetting([&](const char* name, auto given, auto member) {
    const char* source = "default";
    if (choice.profile && choice.profile->settings.*given) source = "profile";
    if (options.given.*given) source = "flag";
    const auto& value = choice.config.*member;
    if constexpr (std::is_same_v<std::decay_t<decltype(value)>, PageScore>)
      fmt::print("  {:<21} {:<8} {}\n", name, PageScoreName(value), source);
    else
      fmt::print("  {:<21} {:<8} {}\n", name, value, source);
  });
}

struct Flags {
  EngineOptions engine;
  double gib = 4;
};

int RunInspect(const Flags& flags) {
  Result<std::string> path = FindModel(flags.engine.model);
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
  const EngineOptions& options = flags.engine;
  Result<SparsityChoice> choice = ChooseSparsity(options, *files);
  if (!choice.ok()) return Fail(choice.status());
  const HeadSplit& split = choice->heads;
  PrintSettings(options, *choice);
  fmt::print("heads         {}\n", choice->heads_line);
  fmt::print("              retrieval heads a layer:");
  for (const HeadMap& layer : split.layers) fmt::print(" {}", layer.count(HeadClass::kRetrieval));
  fmt::print("\n");
  PrintMemory(c, *choice, flags.gib);
  return 0;
}

}  // namespace

Command AddInspect(CLI::App* app) {
  auto flags = std::make_shared<Flags>();
  flags->engine.model = kDefaultModel;
  app->add_option("model", flags->engine.model,
                  "GGUF file, Hugging Face directory or default model")
      ->capture_default_str();
  AddSparsityFlags(app, &flags->engine);
  app->add_option("--kv-memory", flags->gib, "GiB for KV pages")->capture_default_str();
  return [flags] { return RunInspect(*flags); };
}

}  // namespace lserve
