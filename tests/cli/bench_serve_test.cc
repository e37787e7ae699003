// The load generator: its workloads, its figures, and what it reads off a server's stream.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/read_until.hpp>
#include <boost/asio/streambuf.hpp>
#include <boost/asio/write.hpp>
#include <cmath>
#include <fstream>
#include <thread>

#include "cli/bench_report.h"

namespace lserve {
namespace {

TEST(BenchWorkload, IsAFunctionOfItsSeed) {
  WorkloadOptions o;
  o.num_prompts = 20;
  o.range_ratio = 0.5;
  o.request_rate = 10;
  const auto a = MakeWorkload(o), b = MakeWorkload(o);
  o.seed = 1;
  const auto c = MakeWorkload(o);
  ASSERT_TRUE(a.ok() && b.ok() && c.ok());
  for (size_t i = 0; i < 20; ++i) {
    EXPECT_EQ((*a)[i].prompt, (*b)[i].prompt);
    EXPECT_EQ((*a)[i].at, (*b)[i].at);
    EXPECT_GE((*a)[i].prompt.size(), 512u);
    EXPECT_LE((*a)[i].prompt.size(), 1536u);
  }
  EXPECT_NE((*a)[0].prompt, (*c)[0].prompt);
}

TEST(BenchWorkload, ArrivalsHaveTheirRateAndBurstiness) {
  for (double burstiness : {0.25, 1.0, 4.0}) {
    WorkloadOptions o;
    o.num_prompts = 20000;
    o.input_len = o.output_len = 1;
    o.request_rate = 50;
    o.burstiness = burstiness;
    const auto work = MakeWorkload(o);
    ASSERT_TRUE(work.ok());
    double sum = 0, squares = 0, last = 0;
    for (const BenchRequest& r : *work) {
      const double gap = r.at - last;
      last = r.at;
      sum += gap;
      squares += gap * gap;
    }
    const double mean = sum / 20000, variance = squares / 20000 - mean * mean;
    EXPECT_NEAR(mean, 0.02, 0.001);
    EXPECT_NEAR(variance / (mean * mean), 1 / burstiness, 0.25 / burstiness);
  }
}

TEST(BenchWorkload, PrefixesRepeat) {
  WorkloadOptions o;
  o.dataset = "prefix_repetition";
  o.num_prompts = 6;
  o.num_prefixes = 3;
  o.prefix_len = 40;
  o.suffix_len = 10;
  const auto work = MakeWorkload(o);
  ASSERT_TRUE(work.ok());
  const auto prefix = [&](size_t i) {
    return std::vector<int32_t>((*work)[i].prompt.begin(), (*work)[i].prompt.begin() + 40);
  };
  EXPECT_EQ((*work)[0].prompt.size(), 50u);
  EXPECT_EQ(prefix(0), prefix(3));
  EXPECT_NE(prefix(0), prefix(1));
  EXPECT_NE((*work)[0].prompt, (*work)[3].prompt);
}

TEST(BenchWorkload, ReadsTraces) {
  const std::string path = ::testing::TempDir() + "/trace" + std::to_string(getpid());
  std::ofstream(path)
      << R"({"timestamp": 1000, "input_length": 700, "output_length": 5, "hash_ids": [1, 2]})"
      << "\n"
      << R"({"timestamp": 3500, "input_length": 600, "output_length": 6, "hash_ids": [1, 3]})"
      << "\n";
  WorkloadOptions o;
  o.dataset = "trace";
  o.trace_path = path;
  const auto work = MakeWorkload(o);
  ASSERT_TRUE(work.ok()) << work.status().ToString();
  ASSERT_EQ(work->size(), 2u);
  EXPECT_EQ((*work)[1].at, 2.5);
  EXPECT_EQ((*work)[1].prompt.size(), 600u);
  EXPECT_EQ((*work)[1].output_tokens, 6);
  EXPECT_TRUE(std::equal((*work)[1].prompt.begin(), (*work)[1].prompt.begin() + kTraceBlock,
                         (*work)[0].prompt.begin()));
  EXPECT_NE((*work)[1].prompt[kTraceBlock], (*work)[0].prompt[kTraceBlock]);
  std::ofstream(path) << "{\"input_length\": \"many\"}\n";
  EXPECT_NE(MakeWorkload(o).status().message().find("line 1"), std::string::npos);
  unlink(path.c_str());
}

TEST(BenchReport, PercentilesAreNumpys) {
  EXPECT_DOUBLE_EQ(Percentile({1, 2, 3, 4}, 50), 2.5);
  EXPECT_DOUBLE_EQ(Percentile({4, 1, 3, 2}, 99), 3.97);
  EXPECT_DOUBLE_EQ(Percentile({5}, 99), 5);
}

TEST(BenchReport, Figures) {
  BenchResult a, b, c;
  a.input_tokens = 100;
  a.output_tokens = 5;
  a.ttft = 0.1;
  a.latency = 0.5;
  a.itl = {0.1, 0.1, 0.1, 0.1};
  b = a;
  b.ttft = 0.3;
  b.latency = 0.5;
  b.itl = {0.05, 0.05, 0.05, 0.05};
  c.error = "broken";
  ReportOptions options;
  options.goodput = {{"ttft", 200}};
  const auto r = MakeReport({a, b, c}, 2, options);
  EXPECT_EQ(r["completed"], 2);
  EXPECT_EQ(r["failed"], 1);
  EXPECT_EQ(r["total_output_tokens"], 10);
  EXPECT_DOUBLE_EQ(r["output_throughput"].get<double>(), 5);
  EXPECT_DOUBLE_EQ(r["request_goodput"].get<double>(), 0.5);
  EXPECT_NEAR(r["mean_ttft_ms"].get<double>(), 200, 1e-9);
  EXPECT_NEAR(r["mean_tpot_ms"].get<double>(), 75, 1e-9);
  EXPECT_NEAR(r["p99_itl_ms"].get<double>(), 100, 1e-9);
  EXPECT_NE(ReportText(r, options).find("broken"), std::string::npos);
}

// Answers one connection with `pieces`, as they are.
class CannedServer {
 public:
  explicit CannedServer(std::vector<std::string> pieces)
      : acceptor_(io_, {boost::asio::ip::address_v4::loopback(), 0}),
        thread_([this, pieces = std::move(pieces)] {
          boost::asio::ip::tcp::socket socket(io_);
          acceptor_.accept(socket);
          boost::asio::streambuf request;
          boost::asio::read_until(socket, request, "\r\n\r\n");
          for (const std::string& piece : pieces)
            boost::asio::write(socket, boost::asio::buffer(piece));
        }) {}
  ~CannedServer() { thread_.join(); }
  BenchTarget Target() {
    BenchTarget target;
    target.url = *ParseUrl("http://127.0.0.1:" + std::to_string(acceptor_.local_endpoint().port()) +
                           "/v1/completions");
    return target;
  }

 private:
  boost::asio::io_context io_;
  boost::asio::ip::tcp::acceptor acceptor_;
  std::thread thread_;
};

TEST(BenchClient, ReadsAStream) {
  CannedServer server(
      {"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n: hello\n\nda",
       "ta: {\"choices\": [{\"text\": \"a\"}]}\n\ndata: {\"choices\": [{\"text\": \"b\"}]}\r\n\r\n",
       "data: {\"choices\": [], \"usage\": {\"prompt_tokens\": 7, \"completion_tokens\": 2, "
       "\"prompt_tokens_details\": {\"cached_tokens\": 3}}}\n\ndata: [DONE]\n\n"});
  const BenchResult r = SendOne(server.Target(), {{1, 2, 3}, 2, 0});
  EXPECT_EQ(r.error, "");
  EXPECT_EQ(r.input_tokens, 7);
  EXPECT_EQ(r.output_tokens, 2);
  EXPECT_EQ(r.cached_tokens, 3);
  EXPECT_EQ(r.itl.size(), 1u);
  EXPECT_GT(r.ttft, 0);
  EXPECT_GE(r.latency, r.ttft);
}

TEST(BenchClient, TellsErrors) {
  {
    CannedServer server({"HTTP/1.1 400 Bad Request\r\nContent-Length: 12\r\n\r\nno such name"});
    EXPECT_EQ(SendOne(server.Target(), {{1}, 2, 0}).error, "400 no such name");
  }
  {
    CannedServer server({"HTTP/1.1 200 OK\r\n\r\ndata: {\"error\": \"late\"}\n\n"});
    EXPECT_EQ(SendOne(server.Target(), {{1}, 2, 0}).error, "\"late\"");
  }
  BenchTarget nobody;
  nobody.url = *ParseUrl("http://127.0.0.1:1/v1/completions");
  EXPECT_NE(SendOne(nobody, {{1}, 2, 0}).error, "");
}

}  // namespace
}  // namespace lserve
