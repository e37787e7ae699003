#include <fmt/format.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cstdio>
#include <utility>
#include <vector>

#include "cli/commands.h"

int main(int argc, char** argv) {
  spdlog::set_default_logger(
      spdlog::stderr_color_mt("lserve"));  // standard output belongs to answers
  CLI::App app(
      "lserve: a server for language models with long inputs. Half of the attention heads keep "
      "only the first and the newest tokens, the others read a constant number of "
      "pages a step.\n\nStart with:  lserve serve            (the default model, "
      "http://127.0.0.1:8080/v1)\n             lserve generate \"...\"");
  app.require_subcommand(1);
  app.set_version_flag("--version", "lserve 0.1.0");
  app.set_config("--config", "",
                 "TOML or INI file with flags, one section a command: [serve] port = 8080");
  std::vector<std::pair<CLI::App*, lserve::Command>> commands;
  const auto add = [&](const char* name, const char* help, lserve::Command (*make)(CLI::App*)) {
    CLI::App* command = app.add_subcommand(name, help)->fallthrough();  // --config after it too
    commands.emplace_back(command, make(command));
  };
  add("serve", "Serve a model through the OpenAI API", lserve::AddServe);
  add("generate", "Continue a prompt from the command line, a file or standard input",
      lserve::AddGenerate);
  add("chat", "Talk with a model in the terminal", lserve::AddChat);
  add("pull", "Download a model from the Hugging Face Hub", lserve::AddPull);
  add("bench", "Measure prefill and decode speed over lengths", lserve::AddBench);
  add("inspect", "Show a model's architecture, head split and memory", lserve::AddInspect);
  add("eval", "Long-context tasks, and paired comparisons of attention settings", lserve::AddEval);
  add("calibrate", "Measure which heads of a model need the whole context", lserve::AddCalibrate);
  // CLI11 would only say that a command is missing.
  if (argc > 1 && argv[1][0] != '-' &&
      std::none_of(commands.begin(), commands.end(),
                   [&](const auto& c) { return c.first->get_name() == argv[1]; })) {
    fmt::print(stderr, "lserve: no command \"{}\"; there are:", argv[1]);
    for (const auto& [command, run] : commands) fmt::print(stderr, " {}", command->get_name());
    fmt::print(stderr, "\n");
    return 2;
  }
  CLI11_PARSE(app, argc, argv);
  for (const auto& [command, run] : commands)
    if (command->parsed()) return run();
  return 2;
}
