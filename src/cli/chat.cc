#include <csignal>
#include <ctime>
#include <iostream>

#include "cli/blocking.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "text/chat_template.h"

namespace lserve {
namespace {

volatile std::sig_atomic_t interrupted = 0;

struct Flags {
  EngineFlags engine;
  std::string system;
  SamplingParams sampling;
};

int RunChat(Flags* flags) {
  Result<EngineOptions> options = flags->engine.Finish();
  if (!options.ok()) return Fail(options.status());
  Result<std::unique_ptr<Engine>> created = Engine::Create(*options);
  if (!created.ok()) return Fail(created.status());
  Engine& engine = **created;
  if (engine.chat_template().empty())
    return Fail(
        InvalidArgument("{}: the model has no chat template; use lserve generate", options->model));
  Result<std::unique_ptr<ChatTemplate>> chat = ChatTemplate::Parse(engine.chat_template());
  if (!chat.ok()) return Fail(chat.status().Annotate("chat template"));
  const Tokenizer& tokenizer = engine.tokenizer();
  fmt::print(
      stderr,
      "{}\n\nType a message; an empty line, Ctrl-D or Ctrl-C ends, Ctrl-C stops an answer.\n",
      engine.Describe());

  nlohmann::ordered_json messages = nlohmann::ordered_json::array();
  if (!flags->system.empty()) messages.push_back({{"role", "system"}, {"content", flags->system}});
  struct sigaction action = {};  // without SA_RESTART: reading a line ends too
  action.sa_handler = [](int) { interrupted = 1; };
  sigaction(SIGINT, &action, nullptr);
  int turn = 0;
  for (std::string line; fmt::print("\n> "), std::cout.flush(), std::fflush(stdout),
                         std::getline(std::cin, line) && !line.empty();) {
    messages.push_back({{"role", "user"}, {"content", line}});
    const nlohmann::ordered_json context{
        {"messages", messages},
        {"add_generation_prompt", true},
        {"bos_token", tokenizer.TokenBytes(tokenizer.bos(), true)},
        {"eos_token", tokenizer.TokenBytes(tokenizer.eos(), true)}};
    Result<std::string> text = (*chat)->Render(context, std::time(nullptr));
    if (!text.ok()) return Fail(text.status().Annotate("chat template"));
    Request request;
    request.id = fmt::format("turn-{}", ++turn);
    request.prompt = tokenizer.Encode(*text, false, true);
    request.sampling = flags->sampling;
    request.progress = true;
    interrupted = 0;
    Result<Answer> answer =
        Ask(&engine, std::move(request), PrintEvent, [] { return interrupted != 0; });
    if (!answer.ok()) {
      fmt::print(stderr, "lserve: {}\n", answer.status().message());
      messages.erase(messages.size() - 1);
      continue;
    }
    fmt::print("\n");
    messages.push_back({{"role", "assistant"}, {"content", answer->text}});
  }
  fmt::print("\n");
  return 0;
}

}  // namespace

Command AddChat(CLI::App* app) {
  auto flags = std::make_shared<Flags>();
  flags->sampling.max_tokens = 1024;
  flags->sampling.temperature = 0.7;
  app->add_option("--system", flags->system, "System message");
  app->add_option("-n,--max-tokens", flags->sampling.max_tokens, "Most tokens of an answer")
      ->capture_default_str();
  app->add_option("--temperature", flags->sampling.temperature, "0: always the most probable token")
      ->capture_default_str();
  app->add_option("--top-p", flags->sampling.top_p,
                  "Nucleus: smallest set of tokens with this probability")
      ->capture_default_str();
  flags->engine.AddTo(app);
  return [flags] { return RunChat(flags.get()); };
}

}  // namespace lserve
