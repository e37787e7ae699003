// `lserve serve`: listens at once, loads the model meanwhile, and ends gracefully on SIGTERM or
// SIGINT; a second signal ends it at once.
#include <pthread.h>
#include <spdlog/spdlog.h>
#include <string.h>
#include <sys/resource.h>

#include <condition_variable>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <mutex>
#include <optional>
#include <sstream>
#include <thread>

#include "cli/commands.h"
#include "cli/options.h"
#include "core/mapped_file.h"
#include "server/server.h"

namespace lserve {
namespace {

using std::chrono::milliseconds;

struct Flags {
  EngineFlags engine;
  ServerOptions server;
  std::string chat_template_file, api_key_file;
  double shutdown_seconds = 30;
  bool quiet = false;
};

// What the main thread waits for.
class Mailbox {
 public:
  enum class News { kSignal, kLoaded, kFailed };
  void Post(News news) {
    std::lock_guard lock(mutex_);
    if (!news_ || news == News::kSignal) news_ = news;
    changed_.notify_all();
  }
  News Wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return news_.has_value(); });
    const News news = *news_;
    news_.reset();
    return news;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<News> news_;
};

sigset_t ShutdownSignals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  return set;
}

// Keys come from flags, a file with one a line, and LSERVE_API_KEY: all of them are good.
Status GatherKeys(const Flags& flags, std::vector<std::string>* keys) {
  if (!flags.api_key_file.empty()) {
    Result<std::string> text = ReadFile(flags.api_key_file, 1 << 20);
    if (!text.ok()) return text.status().Annotate("--api-key-file");
    std::istringstream lines(*text);
    const size_t before = keys->size();
    for (std::string line; std::getline(lines, line);) {
      while (!line.empty() && std::isspace(static_cast<unsigned char>(line.back())))
        line.pop_back();
      if (!line.empty() && line[0] != '#') keys->push_back(line);
    }
    if (keys->size() == before)
      return InvalidArgument("--api-key-file {}: holds no key", flags.api_key_file);
  }
  if (const char* key = std::getenv("LSERVE_API_KEY"); key && *key) keys->push_back(key);
  for (const std::string& key : *keys)
    if (key.empty()) return InvalidArgument("--api-key: an empty key");
  return Ok();
}

// A connection is an open file, of which many systems allow 1024 until a program asks for more.
void AllowConnections(int connections) {
  constexpr rlim_t kOthers = 64;  // model, log, libraries, prefix cache
  rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  if (limit.rlim_max < static_cast<rlim_t>(connections) + kOthers)
    spdlog::warn("--limit-connections {}: the system allows {} open files (ulimit -Hn)",
                 connections, limit.rlim_max);
}

int RunServe(Flags* flags) {
  ServerOptions& options = flags->server;
  AllowConnections(options.connections);
  options.log_requests = !flags->quiet;
  if (Status s = GatherKeys(*flags, &options.api_keys); !s.ok()) return Fail(s);
  if (!flags->chat_template_file.empty()) {
    Result<std::string> text = ReadFile(flags->chat_template_file, 1 << 20);
    if (!text.ok()) return Fail(text.status().Annotate("--chat-template"));
    options.chat_template = *text;
  }
  // A model that is named, not pointed at, answers to its name.
  if (const std::string& model = flags->engine.engine.model;
      options.model_names.empty() && !std::filesystem::exists(model))
    options.model_names.push_back(model);

  // Only the thread below takes these signals; threads inherit the mask, so it comes first.
  const sigset_t signals = ShutdownSignals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
  auto mailbox = std::make_shared<Mailbox>();
  std::thread([mailbox, signals] {
    int number = 0;
    sigwait(&signals, &number);
    spdlog::info("{}: shutting down; once more to end at once", strsignal(number));
    mailbox->Post(Mailbox::News::kSignal);
    sigwait(&signals, &number);
    std::_Exit(128 + number);
  }).detach();

  Result<std::unique_ptr<Server>> started = Server::Start(options, nullptr);
  if (!started.ok()) return Fail(started.status());
  std::unique_ptr<Server> server = std::move(*started);
  const std::string url = fmt::format("{}://{}:{}", options.tls_cert.empty() ? "http" : "https",
                                      options.host, server->port());
  spdlog::info("listening on {} (503 until the model is loaded)", url);

  std::unique_ptr<Engine> engine;
  Status error;
  std::thread loader([&] {
    Result<EngineOptions> engine_options = flags->engine.Finish();
    error = engine_options.status();
    if (error.ok()) {
      Result<std::unique_ptr<Engine>> created = Engine::Create(*engine_options);
      error = created.status();
      if (error.ok()) engine = std::move(*created);
    }
    mailbox->Post(error.ok() ? Mailbox::News::kLoaded : Mailbox::News::kFailed);
  });

  Mailbox::News news = mailbox->Wait();
  if (news == Mailbox::News::kSignal) {  // loading cannot be interrupted and has nothing to save
    server->Stop();
    std::_Exit(0);
  }
  loader.join();
  if (news == Mailbox::News::kFailed) {
    server->Stop();
    return Fail(error);
  }
  fmt::print(stderr, "{}\n", engine->Describe());
  if (Status s = server->SetEngine(engine.get()); !s.ok())
    spdlog::warn("chat requests will be refused: {}", s.message());
  spdlog::info("ready: {}/v1", url);

  mailbox->Wait();
  const milliseconds patience(static_cast<int64_t>(flags->shutdown_seconds * 1000));
  if (!server->Drain(patience))
    spdlog::warn("requests that ran longer than --shutdown-timeout were aborted");
  server.reset();  // before the engine it was given
  return 0;
}

void AddSeconds(CLI::App* app, const std::string& name, milliseconds* value,
                const std::string& help) {
  app->add_option_function<double>(
         name,
         [value](const double& seconds) {
           *value = milliseconds(static_cast<int64_t>(seconds * 1000));
         },
         help)
      ->check(CLI::Range(0.0, 1e7))
      ->default_str(fmt::format("{}", static_cast<double>(value->count()) / 1000))
      ->type_name("SECONDS");
}

void AddLimits(CLI::App* app, ServerOptions* o) {
  CLI::App* g = app->add_option_group("Limits", "What clients may ask for; errors name the limit");
  const auto add = [&](const char* name, auto* value, const char* help) {
    g->add_option(name, *value, help)->check(CLI::NonNegativeNumber)->capture_default_str();
  };
  add("--limit-n", &o->request.n, "answers a prompt");
  add("--limit-prompts", &o->request.prompts, "prompts a completion request");
  add("--limit-messages", &o->request.messages, "messages of a chat");
  add("--limit-prompt-tokens", &o->request.prompt_tokens, "tokens of a prompt; 0: the context");
  add("--limit-stop-strings", &o->request.stop_strings, "stop strings");
  add("--limit-stop-bytes", &o->request.stop_bytes, "bytes of a stop string");
  add("--limit-stop-token-ids", &o->request.stop_token_ids, "stop token ids");
  add("--limit-logit-bias", &o->request.logit_bias, "entries of logit_bias");
  add("--limit-top-logprobs", &o->request.top_logprobs, "alternatives a token");
  add("--limit-prompt-logprobs", &o->request.prompt_logprobs, "prompt tokens times alternatives");
  add("--limit-json-depth", &o->request.json.depth, "nesting of a body");
  add("--limit-json-values", &o->request.json.values, "values of a body");
  add("--limit-json-keys", &o->request.json.object_keys, "keys of one JSON object");
  add("--limit-body-bytes", &o->body_bytes, "bytes of a body");
  add("--limit-header-bytes", &o->header_bytes, "bytes of the headers");
  add("--limit-header-count", &o->header_count, "headers");
  add("--limit-connections", &o->connections,
      "connections at once; one more closes the longest idle");
  add("--limit-queue-tokens", &o->queue_tokens, "prompt tokens that may wait");
  add("--limit-template-steps", &o->template_limits.steps, "steps of rendering a chat template");
  add("--limit-template-bytes", &o->template_limits.output_bytes, "bytes of a rendered template");
  add("--stream-buffer", &o->stream_buffer, "bytes that wait for a client that does not read");
  AddSeconds(g, "--header-timeout", &o->header_time, "for the headers of a request");
  AddSeconds(g, "--body-timeout", &o->body_time, "for the body of a request");
  AddSeconds(g, "--idle-timeout", &o->idle_time, "for a connection without a request");
  AddSeconds(g, "--request-timeout", &o->request_time, "for the whole answer; 0: none");
  AddSeconds(g, "--write-timeout", &o->write_time, "for a client that reads nothing");
  AddSeconds(g, "--keepalive", &o->keepalive_time, "between comments on a silent stream");
}

}  // namespace

Command AddServe(CLI::App* app) {
  auto flags = std::make_shared<Flags>();
  ServerOptions& o = flags->server;
  const char* group = "Server";
  app->add_option("--host", o.host, "address to listen on; 0.0.0.0: every one")
      ->capture_default_str()
      ->group(group);
  app->add_option("-p,--port", o.port, "port; 0: any free one")
      ->check(CLI::Range(0, 65535))
      ->capture_default_str()
      ->group(group);
  app->add_option("--served-model-name", o.model_names,
                  "names the model answers to; the first is shown")
      ->group(group);
  app->add_option("--chat-template", flags->chat_template_file,
                  "Jinja file that replaces the model's template")
      ->group(group);
  app->add_option("--api-key", o.api_keys,
                  "key that requests must bear (repeatable; also LSERVE_API_KEY)")
      ->group(group);
  app->add_option("--api-key-file", flags->api_key_file, "file with one key a line")->group(group);
  app->add_option("--tls-cert", o.tls_cert, "PEM file of the certificate chain: serve https")
      ->group(group);
  app->add_option("--tls-key", o.tls_key, "PEM file of its private key")->group(group);
  app->add_option("--cors-origin", o.cors_origins, "origin that browsers may call from; *: any")
      ->group(group);
  app->add_option("--shutdown-timeout", flags->shutdown_seconds,
                  "seconds that running requests get on SIGTERM")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str()
      ->group(group);
  app->add_option("--network-threads", o.network_threads, "threads for sockets")
      ->check(CLI::Range(1, 64))
      ->capture_default_str()
      ->group(group);
  app->add_option("--worker-threads", o.worker_threads, "threads for JSON and tokenising")
      ->check(CLI::Range(1, 64))
      ->capture_default_str()
      ->group(group);
  app->add_flag("--quiet", flags->quiet, "no log line a request")->group(group);
  AddLimits(app, &o);
  flags->engine.AddTo(app);
  return [flags] { return RunServe(flags.get()); };
}

}  // namespace lserve
