// `lserve bench`: real forward passes through the engine, timed. Prompts are random tokens; speed
// does not depend on which.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <random>

#include "cli/blocking.h"
#include "cli/commands.h"
#include "cli/options.h"

namespace lserve {
namespace {

struct Flags {
  EngineFlags engine;
  std::vector<int> prompts{512}, generated{64}, depths{0};
  std::vector<std::string> attention{"lserve"};
  int repetitions = 3;
  bool json = false;
};

struct Figure {
  double mean = 0, deviation = 0;
  Usage usage;  // of the last repetition
};

// One request of `prompt` random tokens and `generated` answers. Requests of equal `salt` share
// their prompts' pages.
Result<Usage> Once(Engine* engine, AttentionMode mode, int prompt, int generated, uint64_t seed,
                   const std::string& salt) {
  Request request;
  request.cache_salt = salt;
  request.id = "bench";
  request.attention = mode;
  std::mt19937_64 random(seed);
  for (int i = 0; i < prompt; ++i)
    request.prompt.push_back(
        static_cast<int32_t>(random() % static_cast<uint64_t>(engine->config().vocab)));
  request.sampling.max_tokens = generated;
  request.sampling.temperature = 0;
  request.sampling.ignore_eos = true;
  Result<Answer> answer = Ask(engine, std::move(request));
  if (!answer.ok()) return answer.status();
  return answer->usage;
}

template <typename Speed>
Result<Figure> Repeat(Engine* engine, const Flags& flags, AttentionMode mode, int prompt,
                      int generated, Speed speed) {
  std::vector<double> values;
  Figure figure;
  for (int r = 0; r < flags.repetitions; ++r) {
    // A prompt that is measured may not come out of the prefix cache; one that only leads up to
    // decoding should.
    static int measured = 0;
    const std::string salt = generated == 1 ? fmt::format("prefill {}", ++measured) : "decode";
    Result<Usage> usage = Once(engine, mode, prompt, generated, static_cast<uint64_t>(r) + 1, salt);
    if (!usage.ok()) return usage.status();
    values.push_back(speed(*usage));
    figure.usage = *usage;
  }
  for (double v : values) figure.mean += v / static_cast<double>(values.size());
  for (double v : values) figure.deviation += (v - figure.mean) * (v - figure.mean);
  figure.deviation =
      values.size() > 1 ? std::sqrt(figure.deviation / static_cast<double>(values.size() - 1)) : 0;
  return figure;
}

void Report(const Flags& flags, const EngineOptions& options, int threads,
            const std::string& attention, const char* test, int tokens, int depth,
            const Figure& f) {
  if (flags.json) {
    const nlohmann::ordered_json line{{"model", options.model},
                                      {"threads", threads},
                                      {"kv", flags.engine.kv},
                                      {"attention", attention},
                                      {"test", test},
                                      {"tokens", tokens},
                                      {"depth", depth},
                                      {"tokens_per_second", f.mean},
                                      {"stddev", f.deviation},
                                      {"repetitions", flags.repetitions},
                                      {"pages_read", f.usage.pages_read},
                                      {"pages_total", f.usage.pages_total},
                                      {"prefill_blocks_read", f.usage.prefill_blocks_read},
                                      {"prefill_blocks_total", f.usage.prefill_blocks_total}};
    fmt::print("{}\n", line.dump());
  } else {
    const bool prefill = std::string_view(test) == "prefill";
    const int64_t read = prefill ? f.usage.prefill_blocks_read : f.usage.pages_read,
                  total = prefill ? f.usage.prefill_blocks_total : f.usage.pages_total;
    fmt::print("| {:<8} | {:<6} | {:<7} | {:>7} | {:>7} | {:>10.2f} ± {:>6.2f} | {:>9.1f} % |\n",
               attention, flags.engine.kv, test, tokens, depth, f.mean, f.deviation,
               total > 0 ? 100.0 * static_cast<double>(read) / static_cast<double>(total) : 0.0);
  }
  std::fflush(stdout);
}

int RunBench(Flags* flags) {
  const int longest = *std::max_element(flags->prompts.begin(), flags->prompts.end());
  const int deepest = *std::max_element(flags->depths.begin(), flags->depths.end());
  if (flags->repetitions < 1)
    return Fail(InvalidArgument("--repetitions: {} (must be at least 1)", flags->repetitions));
  for (const auto& [flag, values] : {std::pair("--prompt", &flags->prompts),
                                     {"--generate", &flags->generated},
                                     {"--depth", &flags->depths}})
    for (const int value : *values)
      if (value < 0) return Fail(InvalidArgument("{}: {} (must not be negative)", flag, value));
  for (const std::string& mode : flags->attention)
    if (mode != "lserve" && mode != "dense")
      return Fail(InvalidArgument("--modes: '{}' (must be lserve or dense)", mode));
  Result<EngineOptions> options = flags->engine.Finish();
  if (!options.ok()) return Fail(options.status());
  options->max_running = 1;
  Result<std::unique_ptr<Engine>> engine = Engine::Create(*options);
  if (!engine.ok()) return Fail(engine.status());
  fmt::print(stderr, "{}\n", (*engine)->Describe());
  const int needed = std::max(longest, deepest) +
                     *std::max_element(flags->generated.begin(), flags->generated.end()) + 1;
  if (needed > (*engine)->max_context())
    return Fail(InvalidArgument(
        "the longest test needs {} tokens, the context holds {} (--max-context, --kv-memory)",
        needed, (*engine)->max_context()));
  if (!flags->json) {
    fmt::print(
        "| attention | KV    | test    |  tokens |   depth |        tokens/s     |  pages read "
        "|\n");
    fmt::print(
        "|----------|--------|---------|---------|---------|---------------------|-------------|"
        "\n");
  }
  Result<Usage> warm = Once(engine->get(), AttentionMode::kDense, 64, 4, 0,
                            "warm");  // first touches of memory are not what is measured
  if (!warm.ok()) return Fail(warm.status());
  for (const std::string& attention : flags->attention) {
    const AttentionMode mode =
        attention == "dense" ? AttentionMode::kDense : AttentionMode::kLserve;
    for (int prompt : flags->prompts) {
      if (prompt <= 0) continue;
      Result<Figure> f = Repeat(engine->get(), *flags, mode, prompt, 1,
                                [](const Usage& u) { return u.prompt_tokens / u.prefill_seconds; });
      if (!f.ok()) return Fail(f.status());
      Report(*flags, *options, options->threads, attention, "prefill", prompt, 0, *f);
    }
    for (int depth : flags->depths)
      for (int generated : flags->generated) {
        if (generated <= 0) continue;
        // The first token comes with the prompt; the others are decode steps.
        Result<Figure> f =
            Repeat(engine->get(), *flags, mode, std::max(depth, 1), generated + 1,
                   [](const Usage& u) { return (u.completion_tokens - 1) / u.decode_seconds; });
        if (!f.ok()) return Fail(f.status());
        Report(*flags, *options, options->threads, attention, "decode", generated, depth, *f);
      }
  }
  return 0;
}

}  // namespace

Command AddBench(CLI::App* app) {
  auto flags = std::make_shared<Flags>();
  app->add_option("-p,--prompt", flags->prompts,
                  "Prompt lengths for prefill (whole prompt, from empty), comma separated; 0: none")
      ->delimiter(',')
      ->capture_default_str();
  app->add_option("-n,--generate", flags->generated, "Tokens to generate for decode; 0: none")
      ->delimiter(',')
      ->capture_default_str();
  app->add_option("-d,--depth", flags->depths, "Context lengths at which decode is measured")
      ->delimiter(',')
      ->capture_default_str();
  app->add_option("--modes", flags->attention, "Attention modes to measure: lserve, dense")
      ->delimiter(',')
      ->capture_default_str();
  app->add_option("-r,--repetitions", flags->repetitions, "Runs of each test")
      ->capture_default_str();
  app->add_flag("--json", flags->json, "One JSON object a line instead of a table");
  flags->engine.AddTo(app);
  CLI::App* serve = app->add_subcommand("serve", "Load on a running server of OpenAI's API");
  const Command run_serve = AddBenchServe(serve);
  return
      [flags, serve, run_serve] { return serve->parsed() ? run_serve() : RunBench(flags.get()); };
}

}  // namespace lserve
