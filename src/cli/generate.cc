#include <cstdio>
#include <iostream>
#include <iterator>

#include "cli/blocking.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "core/mapped_file.h"

namespace lserve {
namespace {

struct Flags {
  EngineFlags engine;
  std::string prompt, file;
  SamplingParams sampling;
  uint64_t request_seed = 0;
  bool stats = false, special = false;
};

void PrintStats(const Usage& u) {
  const auto rate = [](double n, double seconds) { return seconds > 0 ? n / seconds : 0.0; };
  fmt::print(stderr,
             "prompt    {} tokens in {:.2f} s ({:.1f} tokens/s); attention read {} of {} blocks\n",
             u.prompt_tokens, u.prefill_seconds, rate(u.prompt_tokens, u.prefill_seconds),
             u.prefill_blocks_read, u.prefill_blocks_total);
  fmt::print(stderr,
             "answer    {} tokens in {:.2f} s ({:.1f} tokens/s); attention read {} of {} pages\n",
             u.completion_tokens, u.decode_seconds, rate(u.completion_tokens - 1, u.decode_seconds),
             u.pages_read, u.pages_total);
}

int RunGenerate(Flags* flags) {
  std::string prompt = flags->prompt;
  if (!flags->file.empty()) {
    Result<std::string> text = ReadFile(flags->file, size_t{64} << 20);
    if (!text.ok()) return Fail(text.status().Annotate("--file"));
    prompt = *text + prompt;
  } else if (prompt.empty()) {
    prompt.assign(std::istreambuf_iterator<char>(std::cin), {});
  }
  Result<EngineOptions> options = flags->engine.Finish();
  if (!options.ok()) return Fail(options.status());
  Result<std::unique_ptr<Engine>> engine = Engine::Create(*options);
  if (!engine.ok()) return Fail(engine.status());
  if (flags->stats) fmt::print(stderr, "{}\n", (*engine)->Describe());
  Request request;
  request.id = "generate";
  request.prompt = (*engine)->tokenizer().Encode(prompt, true, flags->special);
  request.sampling = flags->sampling;
  if (flags->request_seed != 0) request.sampling.seed = flags->request_seed;
  request.progress = true;
  Result<Answer> answer = Ask(engine->get(), std::move(request), PrintEvent);
  if (!answer.ok()) return Fail(answer.status());
  fmt::print("\n");
  std::fflush(stdout);
  if (flags->stats) PrintStats(answer->usage);
  return 0;
}

}  // namespace

Command AddGenerate(CLI::App* app) {
  auto flags = std::make_shared<Flags>();
  flags->sampling.max_tokens = 128;
  flags->sampling.temperature = 0;
  app->add_option("prompt", flags->prompt, "The prompt; without it and --file, standard input");
  app->add_option("-f,--file", flags->file, "File whose text comes before the prompt");
  app->add_flag("--special", flags->special,
                "Recognise control tokens such as <|im_start|> in the prompt");
  app->add_option("-n,--max-tokens", flags->sampling.max_tokens, "Most tokens to generate")
      ->capture_default_str();
  app->add_option("--temperature", flags->sampling.temperature, "0: always the most probable token")
      ->capture_default_str();
  app->add_option("--top-p", flags->sampling.top_p,
                  "Nucleus: smallest set of tokens with this probability")
      ->capture_default_str();
  app->add_option("--top-k", flags->sampling.top_k, "Most probable tokens to draw from; 0: all")
      ->capture_default_str();
  app->add_option("--min-p", flags->sampling.min_p,
                  "Least probability, relative to the best token's")
      ->capture_default_str();
  app->add_option("--repetition-penalty", flags->sampling.repetition_penalty,
                  "Above 1: tokens that occurred become less probable")
      ->capture_default_str();
  app->add_option("--sampling-seed", flags->request_seed, "Seed of this answer; 0: drawn");
  app->add_option("--stop", flags->sampling.stop, "Text that ends the answer (may be repeated)")
      ->allow_extra_args(false);  // what follows is the prompt
  app->add_flag("--ignore-eos", flags->sampling.ignore_eos, "Go on after the end-of-text token");
  app->add_flag("--stats", flags->stats, "Print model, speeds and pages read to standard error");
  flags->engine.AddTo(app);
  return [flags] { return RunGenerate(flags.get()); };
}

}  // namespace lserve
