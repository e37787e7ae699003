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

void EngineFlags::AddTo(CLI::App* app) {
  SparsityConfig& s = engine.sparsity;
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
  app->add_option("--head-pattern", engine.head_pattern,
                  text("DuoAttention gate table (TSV); empty: by model; none: every head is a "
                       "retrieval head"))
      ->group("Sparse attention");
  app->add_option("--static-sparsity", s.static_sparsity, text("share of KV heads that stream"))
      ->capture_default_str()
      ->group("Sparse attention");
  app->add_option("--prefill-sink", s.prefill_sink,
                  text("streaming heads, prompt: first tokens they see"))
      ->capture_default_str()
      ->group("Sparse attention");
  app->add_option("--prefill-local", s.prefill_local,
                  text("streaming heads, prompt: newest tokens they see"))
      ->capture_default_str()
      ->group("Sparse attention");
  app->add_option("--decode-sink", s.decode_sink, text("streaming heads, answer: first tokens"))
      ->capture_default_str()
      ->group("Sparse attention");
  app->add_option("--decode-local", s.decode_local, text("streaming heads, answer: newest tokens"))
      ->capture_default_str()
      ->group("Sparse attention");
  app->add_option("--budget", s.budget, text("retrieval heads, answer: tokens read a step"))
      ->capture_default_str()
      ->group("Sparse attention");
  app->add_option("--selector-sink-pages", s.selector_sink_pages,
                  text("pages at the start that retrieval heads always read"))
      ->capture_default_str()
      ->group("Sparse attention");
  app->add_option("--selector-local-pages", s.selector_local_pages,
                  text("newest pages that retrieval heads always read"))
      ->capture_default_str()
      ->group("Sparse attention");
  app->add_option(
         "--page-score", page_score,
         text("what ranks the pages of retrieval heads: keys, the best stored key (exact); "
              "or bounds, the best bound by key statistics (reads less, finds less)"))
      ->check(CLI::IsMember({"keys", "bounds"}))
      ->capture_default_str()
      ->group("Sparse attention");
  app->add_option("--logical-page", s.logical_page,
                  text("tokens that share key statistics: 16, 32 or 64"))
      ->capture_default_str()
      ->group("Sparse attention");
  app->add_option("--reuse-interval", s.reuse_interval, text("steps that share one selection"))
      ->capture_default_str()
      ->group("Sparse attention");
  app->add_option("--dense-below", s.dense_below,
                  text("shorter contexts are read whole by retrieval heads"))
      ->capture_default_str()
      ->group("Sparse attention");
  app->add_option("--audit-interval", s.audit_interval,
                  text("one layer of a decode step in this many is computed dense as well, to "
                       "measure the attention mass that selection missed; 0: none, 64 is cheap"))
      ->capture_default_str()
      ->group("Sparse attention");
  app->add_flag("--shared-lists,!--no-shared-lists", s.shared_lists,
                text("one page list a KV head (default), or one a query head as in the paper"))
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
  app->add_option("--prefix-cache-dir", engine.prefix_cache_dir,
                  text("directory that keeps the prefix cache over restarts"))
      ->group("KV cache");
  app->add_option("--prefix-cache-dir-gb", engine.prefix_cache_dir_gib,
                  text("GiB that its files may take"))
      ->check(CLI::PositiveNumber)
      ->capture_default_str()
      ->group("KV cache");
  app->add_flag("--deterministic", engine.deterministic,
                text("answers do not depend on what else runs (on a CPU they never do; on a GPU "
                     "this costs speed)"))
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
  engine.sparsity.page_score = page_score == "keys" ? PageScore::kKeys : PageScore::kBounds;
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
