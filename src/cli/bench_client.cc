#include "cli/bench_client.h"

#include <algorithm>
#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>

namespace lserve {
namespace {

namespace net = boost::asio;
namespace http = boost::beast::http;
using nlohmann::json;
using Clock = std::chrono::steady_clock;

double Since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Takes server-sent events out of a stream of bytes.
class EventReader {
 public:
  template <typename OnData>
  void Push(std::string_view bytes, OnData on_data) {
    text_ += bytes;
    size_t begin = 0;
    for (size_t end; (end = text_.find('\n', begin)) != std::string::npos; begin = end + 1) {
      std::string_view line(text_.data() + begin, end - begin);
      if (line.ends_with('\r')) line.remove_suffix(1);
      if (!line.starts_with("data:")) continue;
      line.remove_prefix(5);
      if (line.starts_with(' ')) line.remove_prefix(1);
      on_data(line);
    }
    text_.erase(0, begin);
  }

 private:
  std::string text_;
};

std::string Body(const BenchTarget& target, const BenchRequest& request) {
  json body = {{"prompt", request.prompt}, {"max_tokens", request.output_tokens},
               {"temperature", 0},         {"ignore_eos", true},
               {"stream", true},           {"stream_options", {{"include_usage", true}}}};
  if (!target.model.empty()) body["model"] = target.model;
  if (!target.extra_body.empty()) body.update(json::parse(target.extra_body));
  return body.dump();
}

void Send(const BenchTarget& target, const BenchRequest& request, BenchResult* out) {
  net::io_context io;
  net::ip::tcp::socket socket(io);
  net::connect(socket, net::ip::tcp::resolver(io).resolve(target.url.host, target.url.port));
  socket.set_option(net::ip::tcp::no_delay(true));
  http::request<http::string_body> message(http::verb::post, target.url.target, 11);
  message.set(http::field::host, target.url.host);
  message.set(http::field::content_type, "application/json");
  message.set(http::field::connection, "close");
  if (!target.api_key.empty()) message.set(http::field::authorization, "Bearer " + target.api_key);
  message.body() = Body(target, request);
  message.prepare_payload();

  const Clock::time_point start = Clock::now();
  http::write(socket, message);
  boost::beast::flat_buffer buffer;
  http::response_parser<http::buffer_body> parser;
  parser.body_limit(UINT64_MAX);
  http::read_header(socket, buffer, parser);
  const bool good = parser.get().result() == http::status::ok;
  EventReader events;
  std::string error;
  double last = 0;
  int pieces = 0;
  const auto on_data = [&](std::string_view data) {
    if (data == "[DONE]") return;
    const json event = json::parse(data);
    if (event.contains("error")) error = event["error"].dump();
    if (const auto usage = event.find("usage"); usage != event.end() && usage->is_object()) {
      out->input_tokens = usage->value("prompt_tokens", 0);
      out->output_tokens = usage->value("completion_tokens", 0);
      const auto details = usage->find("prompt_tokens_details");
      if (details != usage->end() && details->is_object())
        out->cached_tokens = details->value("cached_tokens", 0);
    }
    const auto choices = event.find("choices");
    if (choices == event.end() || choices->empty()) return;
    const double now = Since(start);
    if (pieces++ == 0) {
      out->ttft = now;
    } else {
      out->itl.push_back(now - last);
    }
    last = now;
  };
  char bytes[8192];
  while (!parser.is_done()) {
    parser.get().body().data = bytes;
    parser.get().body().size = sizeof(bytes);
    boost::system::error_code ec;
    http::read_some(socket, buffer, parser, ec);
    const std::string_view got(bytes, sizeof(bytes) - parser.get().body().size);
    if (good) {
      events.Push(got, on_data);
    } else {
      error += got;
    }
    if (ec == http::error::need_buffer) continue;
    if (ec == http::error::end_of_stream) break;
    if (ec) throw boost::system::system_error(ec);
  }
  out->latency = last;
  if (!good) error = std::to_string(parser.get().result_int()) + " " + error;
  if (error.empty() && pieces == 0) error = "the answer was empty";
  if (out->input_tokens == 0) out->input_tokens = static_cast<int>(request.prompt.size());
  if (out->output_tokens == 0) out->output_tokens = pieces;
  out->error = error;
}

}  // namespace

BenchResult SendOne(const BenchTarget& target, const BenchRequest& request) {
  BenchResult out;
  try {
    Send(target, request, &out);
  } catch (const std::exception& e) {
    out.error = e.what();
  }
  return out;
}

std::vector<BenchResult> RunLoad(const BenchTarget& target,
                                 const std::vector<BenchRequest>& requests, int concurrency,
                                 const std::function<void()>& done) {
  std::vector<BenchResult> results(requests.size());
  std::vector<size_t> order(requests.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return requests[a].at < requests[b].at; });
  std::mutex mutex;
  std::condition_variable ended;
  int active = 0;
  std::vector<std::thread> threads;
  const Clock::time_point start = Clock::now();
  for (const size_t i : order) {
    std::this_thread::sleep_until(start + std::chrono::duration_cast<Clock::duration>(
                                              std::chrono::duration<double>(requests[i].at)));
    {
      std::unique_lock lock(mutex);
      ended.wait(lock, [&] { return concurrency <= 0 || active < concurrency; });
      ++active;
    }
    threads.emplace_back([&, i] {
      const double begin = Since(start);
      results[i] = SendOne(target, requests[i]);
      results[i].start = begin;
      std::lock_guard lock(mutex);
      --active;
      if (done) done();
      ended.notify_one();
    });
  }
  for (std::thread& thread : threads) thread.join();
  return results;
}

}  // namespace lserve
