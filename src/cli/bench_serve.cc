// `lserve bench serve`: load on any OpenAI-compatible server, with the flags and figures of
// `vllm bench serve`. The data set "mixed" is the question of fairness: what happens to short chats
// while one long prompt is read, and to it.
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <iostream>
#include <mutex>
#include <thread>

#include "cli/bench_client.h"
#include "cli/bench_report.h"
#include "cli/commands.h"
#include "cli/options.h"

namespace lserve {
namespace {

using Clock = std::chrono::steady_clock;
using nlohmann::json;

struct Flags {
  std::string base_url = "http://127.0.0.1:8080", endpoint = "/v1/completions";
  BenchTarget target;
  WorkloadOptions work;
  ReportOptions report;
  int max_concurrency = 0, num_warmups = 1;
  int long_len = 16384, long_output = 1, chats = 2;
  std::vector<std::string> goodput;
  std::string result_filename;
  bool quiet = false;
};

double Since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

Status Prepare(Flags* f) {
  Result<Url> url = ParseUrl(f->base_url + f->endpoint);
  if (!url.ok()) return url.status().Annotate("--base-url");
  if (url->tls) return InvalidArgument("--base-url {}: only http", f->base_url);
  f->target.url = *url;
  if (const char* key = std::getenv("OPENAI_API_KEY")) f->target.api_key = key;
  if (!f->target.extra_body.empty()) {
    const json body = json::parse(f->target.extra_body, nullptr, false);
    if (!body.is_object()) return InvalidArgument("--extra-body: must be a JSON object");
  }
  for (const std::string& bound : f->goodput) {
    const size_t colon = bound.find(':');
    const std::string name = bound.substr(0, colon);
    char* end = nullptr;
    const double ms =
        colon == std::string::npos ? -1 : std::strtod(bound.c_str() + colon + 1, &end);
    if ((name != "ttft" && name != "tpot" && name != "e2el") || !(ms >= 0) || *end != 0)
      return InvalidArgument("--goodput {}: must be ttft, tpot or e2el, a colon, milliseconds",
                             bound);
    f->report.goodput.emplace_back(name, ms);
  }
  return Ok();
}

json Describe(const Flags& f) {
  char date[32];
  const std::time_t now = std::time(nullptr);
  std::strftime(date, sizeof(date), "%Y%m%d-%H%M%S", std::gmtime(&now));
  json out = {{"date", date},
              {"backend", "openai"},
              {"base_url", f.base_url},
              {"model_id", f.target.model},
              {"dataset", f.work.dataset},
              {"num_prompts", f.work.num_prompts},
              {"burstiness", f.work.burstiness}};
  out["request_rate"] = f.work.request_rate > 0 ? json(f.work.request_rate) : json("inf");
  out["max_concurrency"] = f.max_concurrency > 0 ? json(f.max_concurrency) : json();
  return out;
}

int Save(const Flags& f, const json& result) {
  if (f.result_filename.empty()) return 0;
  std::ofstream file(f.result_filename);
  file << result.dump(2) << "\n";
  file.close();
  return file ? 0 : Fail(Unavailable("--result-filename {}: cannot be written", f.result_filename));
}

Status WarmUp(const Flags& f) {
  for (int i = 0; i < f.num_warmups; ++i) {
    const BenchResult result =
        SendOne(f.target, {RandomTokens(f.work, 1'000'003 + static_cast<uint64_t>(i), 32), 4, 0});
    if (!result.error.empty()) return Unavailable("{}: {}", f.base_url, result.error);
  }
  return Ok();
}

int RunLoadTest(const Flags& f) {
  Result<std::vector<BenchRequest>> requests = MakeWorkload(f.work);
  if (!requests.ok()) return Fail(requests.status());
  const size_t count = requests->size();
  size_t done = 0;
  const Clock::time_point start = Clock::now();
  const std::vector<BenchResult> results = RunLoad(f.target, *requests, f.max_concurrency, [&] {
    if (++done % 10 == 0 && !f.quiet) fmt::print(stderr, "{} of {}\n", done, count);
  });
  json report = MakeReport(results, Since(start), f.report);
  std::cout << ReportText(report, f.report);
  report.update(Describe(f));
  json ttfts = json::array(), itls = json::array();
  for (const BenchResult& r : results) {
    ttfts.push_back(r.ttft);
    itls.push_back(r.itl);
  }
  report["ttfts"] = ttfts;
  report["itls"] = itls;
  if (const int status = Save(f, report); status != 0) return status;
  return report.at("failed").get<int>() == 0 ? 0 : 1;
}

// A phase of the mixed scenario: chats, one after the other on each of `chats` connections, until
// `stop` says so or, without a long prompt, num_prompts are done.
struct Phase {
  std::vector<BenchResult> chats, prompt;
  double seconds = 0;
};

Phase RunPhase(const Flags& f, bool with_chats, bool with_prompt, uint64_t salt) {
  Phase phase;
  std::atomic<bool> stop{false};
  std::mutex mutex;
  const Clock::time_point start = Clock::now();
  std::vector<std::thread> threads;
  std::atomic<int> sent{0};
  for (int c = 0; with_chats && c < f.chats; ++c)
    threads.emplace_back([&] {
      while (with_prompt ? !stop.load() : sent.load() < f.work.num_prompts) {
        const uint64_t number = static_cast<uint64_t>(sent++);
        BenchResult r = SendOne(f.target, {RandomTokens(f.work, salt + number, f.work.input_len),
                                           f.work.output_len, 0});
        std::lock_guard lock(mutex);
        // Chats that end after the long prompt's first token ran beside it for a part only.
        if (!stop) phase.chats.push_back(std::move(r));
      }
    });
  if (with_prompt) {
    if (with_chats) std::this_thread::sleep_for(std::chrono::seconds(2));  // chats are under way
    phase.prompt.push_back(
        SendOne(f.target, {RandomTokens(f.work, salt + 500'000, f.long_len), f.long_output, 0}));
    stop = true;
  }
  for (std::thread& thread : threads) thread.join();
  phase.seconds = Since(start);
  return phase;
}

int RunMixed(const Flags& f) {
  const Phase alone = RunPhase(f, false, true, 1'000'000);
  const Phase idle = RunPhase(f, true, false, 2'000'000);
  const Phase both = RunPhase(f, true, true, 3'000'000);
  for (const Phase* phase : {&alone, &idle, &both})
    for (const auto* results : {&phase->chats, &phase->prompt})
      for (const BenchResult& r : *results)
        if (!r.error.empty()) return Fail(Unavailable("{}: {}", f.base_url, r.error));
  if (idle.chats.empty() || both.chats.empty())
    return Fail(
        InvalidArgument("no chat ended while the long prompt was read: --mixed-long-len "
                        "{} is too short",
                        f.long_len));
  const json a = MakeReport(idle.chats, idle.seconds, f.report);
  const json b = MakeReport(both.chats, both.seconds, f.report);
  const double long_alone = alone.prompt[0].ttft, long_both = both.prompt[0].ttft;
  fmt::print(
      "{} chats at a time of {} + {} tokens; one prompt of {} tokens\n\n{:<28}{:>12}{:>14}"
      "{:>8}\n",
      f.chats, f.work.input_len, f.work.output_len, f.long_len, "", "alone", "together", "ratio");
  json ratios;
  const auto row = [&](const char* name, const char* field, double x, double y) {
    fmt::print("{:<28}{:>9.1f} ms{:>11.1f} ms{:>8.2f}\n", name, x, y, y / x);
    ratios[field] = y / x;
  };
  const auto chat = [&](const char* name, const char* field) {
    row(name, field, a.at(field).get<double>(), b.at(field).get<double>());
  };
  chat("chat TTFT, median", "median_ttft_ms");
  chat("chat TTFT, p99", "p99_ttft_ms");
  chat("chat ITL, median", "median_itl_ms");
  chat("chat ITL, p99", "p99_itl_ms");
  row("long prompt TTFT", "long_ttft_ms", long_alone * 1000, long_both * 1000);
  json result = Describe(f);
  result["chats_alone"] = a;
  result["chats_together"] = b;
  result["long_ttft_ms"] = {{"alone", long_alone * 1000}, {"together", long_both * 1000}};
  result["ratios"] = ratios;
  return Save(f, result);
}

int RunBenchServe(Flags* f) {
  Status s = Prepare(f);
  if (s.ok()) s = WarmUp(*f);
  if (!s.ok()) return Fail(s);
  return f->work.dataset == "mixed" ? RunMixed(*f) : RunLoadTest(*f);
}

}  // namespace

Command AddBenchServe(CLI::App* app) {
  auto flags = std::make_shared<Flags>();
  Flags& f = *flags;
  const auto add = [&](const char* group, const char* name, auto* value, const char* help) {
    return app->add_option(name, *value, help)->capture_default_str()->group(group);
  };
  const char* server = "Server";
  add(server, "--base-url", &f.base_url, "http://host:port");
  add(server, "--endpoint", &f.endpoint, "of completions, which take token ids");
  add(server, "--model", &f.target.model, "name to send; empty: none");
  add(server, "--extra-body", &f.target.extra_body, "JSON object to merge into requests");

  const char* load = "Load";
  add(load, "--dataset-name", &f.work.dataset, "what is sent")
      ->check(CLI::IsMember({"random", "prefix_repetition", "trace", "mixed"}));
  add(load, "--num-prompts", &f.work.num_prompts, "requests (mixed: chats without long prompt)")
      ->check(CLI::PositiveNumber);
  add(load, "--request-rate", &f.work.request_rate, "requests a second; 0: all at once")
      ->check(CLI::NonNegativeNumber);
  add(load, "--burstiness", &f.work.burstiness, "1: Poisson; below: bursts; above: regular")
      ->check(CLI::PositiveNumber);
  add(load, "--max-concurrency", &f.max_concurrency, "requests at a time; 0: no limit")
      ->check(CLI::NonNegativeNumber);
  add(load, "--num-warmups", &f.num_warmups, "requests before the measurement")
      ->check(CLI::NonNegativeNumber);
  add(load, "--seed", &f.work.seed, "of prompts, lengths and times");

  const char* data = "Data sets";
  add(data, "--random-input-len", &f.work.input_len, "tokens after the prefix; mixed: of a chat")
      ->check(CLI::PositiveNumber);
  add(data, "--random-output-len", &f.work.output_len, "tokens of an answer")
      ->check(CLI::PositiveNumber);
  add(data, "--random-prefix-len", &f.work.prefix_len, "tokens that all prompts begin with")
      ->check(CLI::NonNegativeNumber);
  add(data, "--random-range-ratio", &f.work.range_ratio, "lengths vary by this share")
      ->check(CLI::Range(0.0, 1.0));
  app->add_option("--prefix-repetition-prefix-len", f.work.prefix_len, "tokens of a prefix")
      ->group(data);
  add(data, "--prefix-repetition-suffix-len", &f.work.suffix_len, "tokens after it")
      ->check(CLI::PositiveNumber);
  add(data, "--prefix-repetition-num-prefixes", &f.work.num_prefixes, "different prefixes")
      ->check(CLI::PositiveNumber);
  app->add_option("--prefix-repetition-output-len", f.work.output_len, "tokens of an answer")
      ->group(data);
  add(data, "--dataset-path", &f.work.trace_path,
      "trace: JSON lines with timestamp (ms), input_length, output_length, hash_ids");
  add(data, "--mixed-long-len", &f.long_len, "mixed: tokens of the long prompt")
      ->check(CLI::PositiveNumber);
  add(data, "--mixed-chats", &f.chats, "mixed: chats at a time")->check(CLI::PositiveNumber);

  const char* report = "Report";
  add(report, "--metric-percentiles", &f.report.percentiles, "beside mean and median")
      ->delimiter(',')
      ->check(CLI::Range(0.0, 100.0));
  add(report, "--goodput", &f.goodput, "ttft:MS, tpot:MS, e2el:MS that a good request keeps");
  add(report, "--result-filename", &f.result_filename, "JSON file to write");
  app->add_flag("--quiet", f.quiet, "no progress")->group(report);
  return [flags] { return RunBenchServe(flags.get()); };
}

}  // namespace lserve
