#include "cli/options.h"

#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "cli/pull.h"
#include "core/data_dir.h"

namespace lserve {
namespace {

namespace fs = std::filesystem;

constexpr const char* kNamed[] = {"smollm2-135m-longctx", "smollm2-135m", "qwen2.5-coder-0.5b",
                                  "qwen2.5-coder-1.5b"};

// The Python that has pip and numpy: the distribution's own, which ./quickstart equips, whatever
// else PATH holds.
std::string Python() {
  if (const char* named = std::getenv("LSERVE_PYTHON"); named && *named) return named;
  return fs::exists("/usr/bin/python3") ? "/usr/bin/python3" : "python3";
}

// Runs the script that builds default models from the package index; its last line is the path.
Result<std::string> Fetch(const std::string& name) {
  const std::string script =
      (fs::path(DataDir()).parent_path() / "tools" / "fetch_model.py").string();
  if (!fs::exists(script))
    return NotFound("model '{}' is not here, and {} that would fetch it is not either", name,
                    script);
  std::FILE* pipe = popen(("'" + Python() + "' '" + script + "' " + name).c_str(), "r");
  if (pipe == nullptr) return Internal("{} could not be started", script);
  std::string output;
  std::array<char, 4096> buffer;
  while (const size_t n = fread(buffer.data(), 1, buffer.size(), pipe))
    output.append(buffer.data(), n);
  const int status = pclose(pipe);
  while (!output.empty() && output.back() == '\n') output.pop_back();
  const std::string path = output.substr(output.rfind('\n') + 1);
  if (status != 0 || path.empty())
    return Unavailable(
        "fetching model '{}' failed: {} {} (needs pip and numpy; LSERVE_PYTHON names another "
        "Python)",
        name, Python(), script);
  return path;
}

}  // namespace

Result<std::string> FindModel(const std::string& model) {
  if (model.empty()) return InvalidArgument("--model: empty");
  if (fs::exists(model)) return model;
  for (const char* name : kNamed)
    if (model == name) return Fetch(model);
  std::string folder = model;
  if (const size_t slash = folder.find('/'); slash != std::string::npos)
    folder.replace(slash, 1, "--");
  const fs::path pulled = fs::path(DefaultModelFolder()) / folder;
  if (fs::exists(pulled)) return pulled.string();
  return NotFound(
      "--model {}: neither a file or directory, nor a default model ({}), nor pulled (lserve pull "
      "ORG/NAME)",
      model, fmt::join(kNamed, ", "));
}

void AddSparsityFlags(CLI::App* app, EngineOptions* engine) {
  using S = SparsitySettings;
  const char* const group = "Sparse attention";
  const auto text = [](const char* t) { return std::string(t); };
  app->add_option("--profile", engine->profile,
                  text("settings found for the model (lserve calibrate writes them); flags beside "
                       "it win. Empty: by model; none"))
      ->group(group);
  app->add_flag("--force-profile", engine->force_profile,
                text("take a profile that was made for another model"))
      ->group(group);
  app->add_option("--head-pattern", engine->head_pattern,
                  text("DuoAttention gate table (TSV); empty: by profile or model; none: every "
                       "head is a retrieval head"))
      ->group(group);
  const SparsitySettings defaults = AllSettings(SparsityConfig());
  const auto setting = [&](const char* flag, auto member, const char* help) {
    app->add_option(flag, engine->given.*member, text(help))
        ->default_str(fmt::format("{}", *(defaults.*member)))
        ->group(group);
  };
  setting("--static-sparsity", &S::static_sparsity, "share of KV heads that stream");
  setting("--prefill-sink", &S::prefill_sink, "streaming heads, prompt: first tokens they see");
  setting("--prefill-local", &S::prefill_local, "streaming heads, prompt: newest tokens they see");
  setting("--decode-sink", &S::decode_sink, "streaming heads, answer: first tokens");
  setting("--decode-local", &S::decode_local, "streaming heads, answer: newest tokens");
  setting("--budget", &S::budget, "retrieval heads, answer: tokens read a step");
  setting("--selector-sink-pages", &S::selector_sink_pages,
          "pages at the start that retrieval heads always read");
  setting("--selector-local-pages", &S::selector_local_pages,
          "newest pages that retrieval heads always read");
  app->add_option_function<std::string>(
         "--page-score",
         [engine](const std::string& name) {
           for (const PageScore score : kPageScores)
             if (name == PageScoreName(score)) engine->given.page_score = score;
         },
         text("what ranks the pages of retrieval heads: keys, the best stored key (exact); "
              "bounds, the best bound by key statistics (reads less, finds less); "
              "or bounds8, the same by statistics in 8 bits (half of those bytes)"))
      ->check(CLI::IsMember({"keys", "bounds", "bounds8"}))
      ->default_str("keys")
      ->group(group);
  setting("--logical-page", &S::logical_page, "tokens that share key statistics: 16, 32 or 64");
  setting("--reuse-interval", &S::reuse_interval, "steps that share one selection");
  setting("--dense-below", &S::dense_below, "shorter contexts are read whole by retrieval heads");
  app->add_flag_function(
         "--shared-lists,!--no-shared-lists",
         [engine](int64_t count) { engine->given.shared_lists = count > 0; },
         text("one page list a KV head (default), or one a query head as in the paper"))
      ->group(group);
}

void EngineFlags::AddTo(CLI::App* app) {
  engine.model = kDefaultModel;
  const auto text = [](const char* t) { return std::string(t); };
  app->add_option("-m,--model", engine.model,
                  text("GGUF file, Hugging Face directory, or the name of a default model"))
      ->capture_default_str()
      ->group("Model");
  app->add_option("--weights", weights,
                  text("keep weights as stored, or convert them to bf16 (for comparisons)"))
      ->check(CLI::IsMember({"stored", "bf16"}))
      ->capture_default_str()
      ->group("Model");
  app->add_option(
         "--backend,--device", engine.backend,
         text("auto (cuda where there is a GPU, else cpu), cuda, cpu, or ref (plain loops, "
              "slow: the reference)"))
      ->check(CLI::IsMember({"auto", "cuda", "cpu", "ref"}))
      ->capture_default_str()
      ->group("Model");
  app->add_option("--gpu", engine.gpu, text("which GPU"))->capture_default_str()->group("Model");
  app->add_option("--gpu-memory-utilization", engine.gpu_memory_utilization,
                  text("share of the GPU's memory for weights, workspace and KV pages"))
      ->capture_default_str()
      ->group("KV cache");
  app->add_option("--prompt-scratch", engine.prompt_scratch,
                  text("GPU: share of the memory for KV pages that keeps the longest prompt being "
                       "read in the form its next chunk needs; without, each chunk converts it "
                       "again"))
      ->check(CLI::Range(0.0, 0.5))
      ->capture_default_str()
      ->group("KV cache");
  app->add_option("--random-weights", engine.random_weights,
                  text("run a shape with random weights on a GPU, for speed work: llama-3-8b, "
                       "qwen3-8b, qwen2.5-7b, llama-2-7b, minitron-4b"))
      ->capture_default_str()
      ->group("Model");
  app->add_option("-t,--threads", engine.threads, text("compute threads; 0: one a core"))
      ->capture_default_str()
      ->group("Model");

  app->add_option("--kv", kv, text("KV cache type: kv16, kv8, kv4, or K and V apart as in k8v4"))
      ->capture_default_str()
      ->group("KV cache");
  app->add_option("--kv-memory", engine.kv_memory_gib,
                  text("GiB for KV pages; 0: 4 on a CPU, on a GPU what weights and workspace leave "
                       "of --gpu-memory-utilization"))
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str()
      ->group("KV cache");
  app->add_option(
         "-c,--max-context", engine.max_context,
         text(
             "longest prompt and answer together, tokens; 0: what the model and --kv-memory allow"))
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str()
      ->group("KV cache");

  app->add_option("--attention", attention,
                  text("lserve (sparse) or dense, for requests that do not say"))
      ->check(CLI::IsMember({"lserve", "dense"}))
      ->capture_default_str()
      ->group("Sparse attention");
  AddSparsityFlags(app, &engine);
  app->add_option("--audit-interval", engine.sparsity.audit_interval,
                  text("one layer of a decode step in this many is computed dense as well, to "
                       "measure the attention mass that selection missed; 0: none, 64 is cheap"))
      ->capture_default_str()
      ->group("Sparse attention");

  app->add_option("--max-running", engine.max_running, text("sequences that run together"))
      ->capture_default_str()
      ->group("Scheduling");
  app->add_option("--max-queue", engine.max_queue, text("requests that may wait"))
      ->capture_default_str()
      ->group("Scheduling");
  app->add_option(
         "--step-tokens", engine.step_tokens,
         text("tokens a step computes at most, prompt chunks included; 0: 512 on a CPU, 8192 "
              "on a GPU"))
      ->capture_default_str()
      ->group("Scheduling");
  app->add_option("--step-target-ms", engine.step_target_ms,
                  text("longest step while somebody's answer is being written; prompts are cut "
                       "accordingly. 0: 2.5 times what the step takes without prompts, 45 to 250"))
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str()
      ->group("Scheduling");
  app->add_flag("--prefix-cache,!--no-prefix-cache", engine.prefix_cache,
                text("keep what was computed of prompts and answers for requests that begin alike "
                     "(default)"))
      ->group("KV cache");
  app->add_option("--prefix-cache-host-gb", engine.prefix_cache_host_gib,
                  text("GiB of host memory for what the prefix cache's pages in --kv-memory give "
                       "away; pays where those are a GPU's: on a CPU a larger --kv-memory does the "
                       "same at once"))
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str()
      ->group("KV cache");
  app->add_option("--prefix-cache-dir", engine.prefix_cache_dir,
                  text("directory that keeps the prefix cache over restarts"))
      ->group("KV cache");
  app->add_option("--prefix-cache-dir-gb", engine.prefix_cache_dir_gib,
                  text("GiB that its files may take"))
      ->check(CLI::PositiveNumber)
      ->capture_default_str()
      ->group("KV cache");
  app->add_flag(
         "--deterministic", engine.deterministic,
         text("answers do not depend on what else runs (on a CPU they never do; on a GPU this "
              "costs speed, and how a prompt is cut into chunks still shows in last bits)"))
      ->group("Scheduling");
  app->add_option("--seed", engine.seed, text("for requests without one; 0: from the system"))
      ->capture_default_str()
      ->group("Scheduling");
}

Result<EngineOptions> EngineFlags::Finish() {
  Result<KvTypes> types = ParseKvTypes(kv);
  if (!types.ok()) return InvalidArgument("--kv: {}", types.status().message());
  engine.kv = *types;
  engine.sparsity.mode = attention == "dense" ? AttentionMode::kDense : AttentionMode::kLserve;
  Apply(engine.given, &engine.sparsity);  // for those who read no profile
  engine.weights_bf16 = weights == "bf16";
  if (!engine.random_weights.empty()) return engine;  // no model is read
  Result<std::string> path = FindModel(engine.model);
  if (!path.ok()) return path.status();
  engine.model = *path;
  return engine;
}

int Fail(const Status& status) {
  fmt::print(stderr, "lserve: {}\n", status.message());
  return status.code() == Code::kInvalidArgument ? 2 : 1;
}

}  // namespace lserve
