// Everything at once, for as long as LSERVE_SOAK_SECONDS says (3 without): a real engine over a
// tiny model, pools so small that it preempts all the time, and clients that ask, leave, send
// rubbish, ask for too much, abort each other and come in bursts beyond the queue. Nothing crashes,
// every request that was accepted is answered once or ends with an error object, and afterwards
// every page is free. LSERVE_SOAK_SEED goes on where another seed left off.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>
#include <thread>

#include "engine/engine_thread.h"
#include "model/model.h"
#include "tests/engine/core_harness.h"
#include "tests/server/test_client.h"

namespace lserve {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kContext = 1024;

std::unique_ptr<Engine> TinyEngine(bool deterministic) {
  const auto path =
      std::filesystem::path(LSERVE_SOURCE_DIR) / "tests/golden/tiny/llama-default.gguf";
  Result<ModelFiles> files = OpenModel(path.string());
  CHECK(files.ok());
  const testing::CoreSetup setup;
  EngineParts parts;
  parts.options.sparsity = setup.sparsity;
  parts.options.max_running = 4;
  parts.options.max_queue = 6;
  parts.options.step_tokens = 96;
  parts.options.deterministic = deterministic;
  parts.config = files->config;
  parts.config.name = "tiny";
  parts.config.max_position = kContext;
  parts.config.eos = {2};
  parts.max_context = kContext;
  parts.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}";
  parts.tokenizer = std::make_unique<testing::LetterTokenizer>();
  parts.pool = std::make_unique<ThreadPool>(1);
  parts.ops = std::move(*MakeOps("cpu", parts.pool.get()));
  KvCacheConfig kv;
  const HeadClass r = HeadClass::kRetrieval, s = HeadClass::kStreaming;
  kv.layers = {HeadMap(std::vector<HeadClass>{r, s}), HeadMap(std::vector<HeadClass>{s, r})};
  kv.codec = KvCodec(KvType::kKv8, KvType::kKv8, parts.config.head_dim);
  kv.stats = parts.options.sparsity.statistics(parts.config.head_dim);
  kv.max_slots = parts.options.max_running;
  kv.max_blocks = kContext / kBlockTokens;
  kv.pages[0] = kv.pages[1] = kv.max_blocks + 3;
  kv.poison_freed = true;
  parts.cache = std::make_unique<KvCache>(std::move(kv));
  ModelOptions options;
  options.max_tokens = parts.options.step_tokens;
  options.max_context = kContext;
  parts.runner = std::move(*Model::Load(*files, parts.ops.get(), options));
  parts.planner =
      std::make_unique<Planner>(setup.sparsity, &parts.cache->config().layers, parts.config.group(),
                                parts.ops->PrefillTile(parts.config.group()));
  return StartEngine(std::move(parts));
}

struct Tally {
  std::atomic<int64_t> answered{0}, refused{0}, aborted{0}, left{0}, rubbish{0};
};

class Client {
 public:
  Client(int port, uint64_t seed, Tally* tally) : port_(port), random_(seed), tally_(tally) {}

  void Run(Clock::time_point end) {
    while (Clock::now() < end && !::testing::Test::HasFailure()) {
      const int what = Number(0, 19);
      if (what < 11) {
        Ask(false);
      } else if (what < 15) {
        Ask(true);
      } else if (what < 17) {
        Rubbish();
      } else if (what < 18) {
        TooLong();
      } else {
        Look();
      }
    }
  }

 private:
  int Number(int low, int high) { return std::uniform_int_distribution<int>(low, high)(random_); }

  // One of a few documents, cut anywhere, and something new.
  Json Prompt(int most) {
    std::mt19937 document(static_cast<unsigned>(Number(0, 3)));
    Json ids = Json::array();
    for (int n = Number(0, most); n > 0; --n) ids.push_back(3 + document() % 120);
    for (int n = Number(1, 40); n > 0; --n) ids.push_back(Number(3, 122));
    return ids;
  }

  void Ask(bool leave) {
    Json body = {{"prompt", Prompt(600)},
                 {"max_tokens", Number(1, 3) == 1 ? Number(1, 300) : Number(1, 40)},
                 {"ignore_eos", Number(0, 1) == 1},
                 {"stream", leave || Number(0, 1) == 1},
                 {"priority", Number(0, 5) == 0 ? Number(-1, 1) : 0}};
    if (Number(0, 3) == 0) body["n"] = Number(1, 3);
    if (Number(0, 3) == 0) body["lserve"] = {{"attention", "dense"}};
    if (Number(0, 5) == 0) body["cache_salt"] = "salt";
    if (Number(0, 5) == 0 && !body["stream"]) body["prompt_logprobs"] = 1;
    TestClient client(port_);
    const std::string id = "r" + std::to_string(Number(0, 30));
    client.Send(RequestText("POST", kCompletions, Dump(body),
                            "Connection: close\r\nX-Request-Id: " + id + "\r\n"));
    if (leave) {
      if (Number(0, 1)) client.ReadUntil("data:");
      ++tally_->left;
      return;
    }
    const TestResponse response = client.Read();
    if (response.status == 429) {
      ++tally_->refused;
    } else if (response.status == 499) {
      ++tally_->aborted;
    } else if (response.status == 200) {
      const std::string text = response.body;
      const bool stream = body["stream"];
      EXPECT_TRUE(stream ? text.ends_with("data: [DONE]\n\n") : response.json().contains("usage"))
          << text;
      const bool error = text.find("\"aborted\"") != std::string::npos;
      EXPECT_TRUE(error || text.find("\"finish_reason\"") != std::string::npos) << text;
      ++(error ? tally_->aborted : tally_->answered);
    } else {
      ADD_FAILURE() << response.status << " " << response.body;
    }
  }

  void Rubbish() {
    TestClient client(port_);
    std::string bytes;
    if (Number(0, 1)) {
      for (int n = Number(1, 400); n > 0; --n) bytes += static_cast<char>(Number(0, 255));
      bytes += "\r\n\r\n";
      client.Send(bytes);
    } else {
      std::string body = Dump(PromptBody("abc"));
      body.resize(static_cast<size_t>(Number(0, static_cast<int>(body.size()) - 1)));
      client.Send(RequestText("POST", kCompletions, body));
      EXPECT_EQ(client.Read().status, 400) << body;
    }
    ++tally_->rubbish;
  }

  void TooLong() {
    Json ids = Json::array();
    for (int n = kContext + Number(0, 5000); n > 0; --n) ids.push_back(5);
    TestClient client(port_);
    const TestResponse response = client.Post(kCompletions, {{"prompt", ids}});
    EXPECT_EQ(response.status, 400);
    EXPECT_EQ(response.json()["error"]["code"], "context_length_exceeded");
  }

  void Look() {
    TestClient client(port_);
    if (Number(0, 1)) {
      client.Send(RequestText("DELETE", "/v1/completions/r" + std::to_string(Number(0, 30)), ""));
      const int status = client.Read().status;
      EXPECT_TRUE(status == 200 || status == 404) << status;
    } else {
      EXPECT_EQ(client.Get(Number(0, 1) ? "/health" : "/metrics").status, 200);
    }
  }

  const int port_;
  std::mt19937_64 random_;
  Tally* const tally_;
};

double ResidentMib() {
  std::ifstream statm("/proc/self/statm");
  double total = 0, resident = 0;
  statm >> total >> resident;
  return resident * 4096 / (1 << 20);
}

int FromEnvironment(const char* name, int otherwise) {
  const char* text = std::getenv(name);
  return text ? std::atoi(text) : otherwise;
}

TEST(Soak, NothingIsLost) {
  const int seconds = FromEnvironment("LSERVE_SOAK_SECONDS", 3);
  const uint64_t seed = static_cast<uint64_t>(FromEnvironment("LSERVE_SOAK_SEED", 1));
  for (const bool deterministic : {false, true}) {
    std::unique_ptr<Engine> engine = TinyEngine(deterministic);
    ServerOptions options;
    options.port = 0;
    options.log_requests = false;
    auto server = Server::Start(options, engine.get());
    ASSERT_TRUE(server.ok()) << server.status().ToString();
    Tally tally;
    const auto run = [&](double share, uint64_t phase) {
      const Clock::time_point end =
          Clock::now() + std::chrono::milliseconds(static_cast<int64_t>(share * seconds * 500));
      std::vector<std::thread> threads;
      for (uint64_t i = 0; i < 14; ++i)
        threads.emplace_back(
            [&, i] { Client((*server)->port(), (seed * 2 + phase) * 100 + i, &tally).Run(end); });
      for (std::thread& thread : threads) thread.join();
    };
    run(0.3, 0);
    const double before = ResidentMib();
    const int64_t checks = engine->stats().integrity_checks;
    run(0.7, 1);
    const double after = ResidentMib();
    const Clock::time_point patience = Clock::now() + std::chrono::seconds(30);
    EngineStats stats = engine->stats();
    while ((stats.running > 0 || stats.waiting > 0 || stats.integrity_checks == checks) &&
           stats.alive && Clock::now() < patience) {
      std::this_thread::yield();
      stats = engine->stats();
    }
    EXPECT_TRUE(stats.alive) << "the check of the pools failed";
    EXPECT_EQ(stats.running + stats.waiting, 0);
    EXPECT_EQ(stats.retrieval_pages_used, 0);
    EXPECT_EQ(stats.streaming_pages_used, 0);
    for (const auto* count :
         {&tally.answered, &tally.refused, &tally.aborted, &tally.left, &tally.rubbish})
      EXPECT_GT(*count, 0) << "the soak no longer does everything";
    EXPECT_GT(stats.preemptions, 0);
    EXPECT_GT(stats.prefix_hits, 0);
    if (seconds >= 60) {
      EXPECT_LT(after - before, 32) << "MiB of memory lost";
    }
    fmt::print(
        "{} answered, {} refused, {} aborted, {} left, {} rubbish; {} preemptions, {} "
        "replays, {} of {} prompt tokens cached; {:.0f} -> {:.0f} MiB\n",
        tally.answered.load(), tally.refused.load(), tally.aborted.load(), tally.left.load(),
        tally.rubbish.load(), stats.preemptions, stats.replays, stats.prefix_hits,
        stats.prefix_queries, before, after);
    EXPECT_TRUE((*server)->Drain(std::chrono::seconds(10)));
    server->reset();
  }
}

}  // namespace
}  // namespace lserve
