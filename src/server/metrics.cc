#include "server/metrics.h"

#include <map>
#include <mutex>
#include <vector>

#include "server/exposition.h"

namespace lserve {
namespace {

const std::vector<double> kFirstTokenBounds = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1,
                                               0.25,  0.5,   0.75, 1,    2.5,  5,    7.5,  10,
                                               20,    40,    80,   160,  640,  2560};
const std::vector<double> kTokenBounds = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15,
                                          0.2,   0.3,    0.4,   0.5,  0.75,  1,    2.5,   5,   10};
const std::vector<double> kRequestBounds = {0.3, 0.5, 0.8, 1,  1.5, 2,   2.5, 5,   10,   15,  20,
                                            30,  40,  50,  60, 120, 240, 480, 960, 1920, 7680};
const std::vector<double> kMassBounds = {0.0001, 0.0003, 0.001, 0.003, 0.01, 0.02,
                                         0.05,   0.1,    0.2,   0.3,   0.5,  1};

MetricLabels With(MetricLabels labels, std::string name, std::string value) {
  labels.emplace_back(std::move(name), std::move(value));
  return labels;
}

}  // namespace

struct Metrics::Impl {
  mutable std::mutex mutex;  // of all below
  std::string model;
  bool ready = false;
  Histogram first_token{kFirstTokenBounds}, inter_token{kTokenBounds}, e2e{kRequestBounds},
      queue{kRequestBounds}, prefill{kRequestBounds}, decode{kRequestBounds},
      missed_mass{kMassBounds};
  std::map<std::string, int64_t> finished = {
      {"stop", 0}, {"length", 0}, {"abort", 0}, {"error", 0}};
  std::map<int, int64_t> responses;  // by status
};

Metrics::Metrics() : impl_(std::make_unique<Impl>()) {}
Metrics::~Metrics() = default;

void Metrics::SetModel(const std::string& name) {
  std::lock_guard lock(impl_->mutex);
  impl_->model = name;
  impl_->ready = true;
}

void Metrics::ObserveFirstToken(double seconds) {
  std::lock_guard lock(impl_->mutex);
  impl_->first_token.Observe(seconds);
}

void Metrics::ObserveTokens(double seconds, size_t tokens) {
  if (tokens == 0) return;
  std::lock_guard lock(impl_->mutex);
  impl_->inter_token.Observe(seconds / static_cast<double>(tokens), static_cast<int64_t>(tokens));
}

void Metrics::ObserveFinish(const char* reason, const Usage& usage, double seconds) {
  Impl& m = *impl_;
  std::lock_guard lock(m.mutex);
  ++m.finished[reason];
  m.e2e.Observe(seconds);
  if (usage.prompt_tokens == 0) return;  // left before the engine told anything about it
  m.queue.Observe(usage.queue_seconds);
  m.prefill.Observe(usage.prefill_seconds);
  m.decode.Observe(usage.decode_seconds);
  if (usage.missed && usage.missed->heads > 0) m.missed_mass.Observe(usage.missed->mean());
}

void Metrics::CountResponse(int status) {
  std::lock_guard lock(impl_->mutex);
  ++impl_->responses[status];
}

std::string Metrics::Text(const EngineStats* stats) const {
  const Impl& m = *impl_;
  std::lock_guard lock(m.mutex);
  Exposition out;
  const auto family = [&](const char* name, const char* help, const char* type) {
    out.Family(std::string("lserve:") + name, help, type);
  };
  family("http_responses_total", "HTTP answers by status.", "counter");
  for (const auto& [status, count] : m.responses)
    out.Sample({{"status", std::to_string(status)}}, count);
  if (!m.ready) return out.text();

  const MetricLabels model = {{"model_name", m.model}};
  family("request_success_total", "Requests that ended, by reason.", "counter");
  for (const auto& [reason, count] : m.finished)
    out.Sample(With(model, "finished_reason", reason), count);
  const auto histogram = [&](const char* name, const char* help, const Histogram& values) {
    family(name, help, "histogram");
    values.Write(model, &out);
  };
  histogram("time_to_first_token_seconds", "From a request's arrival to its first token.",
            m.first_token);
  histogram("inter_token_latency_seconds", "Between tokens of a request.", m.inter_token);
  histogram("e2e_request_latency_seconds", "From a request's arrival to its end.", m.e2e);
  histogram("request_queue_time_seconds", "Waiting before the first step.", m.queue);
  histogram("request_prefill_time_seconds", "Processing the prompt.", m.prefill);
  histogram("request_decode_time_seconds", "Generating.", m.decode);
  histogram("request_missed_mass",
            "Mean attention mass that a request's page selections missed, where they were audited.",
            m.missed_mass);
  if (!stats) return out.text();

  const auto single = [&](const char* name, const char* help, const char* type, int64_t value) {
    family(name, help, type);
    out.Sample(model, value);
  };
  const auto gauge = [&](const char* name, const char* help, int64_t value) {
    single(name, help, "gauge", value);
  };
  const auto counter = [&](const char* name, const char* help, int64_t value) {
    single(name, help, "counter", value);
  };
  gauge("num_requests_running", "Requests in the batch.", stats->running);
  gauge("num_requests_waiting", "Requests in the queue.", stats->waiting);
  counter("num_preemptions_total", "Requests that were put aside for want of pages.",
          stats->preemptions);
  counter("num_replays_total",
          "Answers whose prompt had to run again, at least in part, after that.", stats->replays);
  counter("prefix_cache_queries_total", "Prompt tokens looked up in the prefix cache.",
          stats->prefix_queries);
  counter("prefix_cache_hits_total", "Prompt tokens found in the prefix cache.",
          stats->prefix_hits);
  gauge("prefix_cache_blocks", "Blocks of 64 tokens in the prefix cache.",
        stats->prefix_cache_blocks);
  gauge("prefix_cache_host_blocks", "Blocks in --prefix-cache-host-gb, whole or their windows.",
        stats->prefix_host_blocks);
  gauge("prefix_cache_host_bytes", "Memory that they take.", stats->prefix_host_bytes);
  counter("prefix_cache_host_restored_blocks_total", "Blocks copied back from there.",
          stats->prefix_host_restored);
  counter("prefix_cache_restored_blocks_total", "Blocks read from --prefix-cache-dir.",
          stats->prefix_restored);
  counter("prompt_tokens_total", "Prompt tokens processed, cached ones included.",
          stats->prompt_tokens);
  counter("generation_tokens_total", "Tokens generated.", stats->generation_tokens);
  counter("attention_pages_read_total", "KV pages read by decode steps.",
          stats->attention_pages_read);
  counter("attention_pages_total", "KV pages that dense attention would have read.",
          stats->attention_pages_total);
  counter("selector_runs_total", "Page selections made.", stats->selector_runs);
  counter("attention_audits_total", "Layers of decode steps whose selection was audited.",
          stats->audits);

  family("kv_cache_usage_perc", "Share of a pool's pages in use, 0 to 1.", "gauge");
  const auto pool = [&](const char* name, int64_t used, int64_t pages) {
    out.Sample(With(model, "pool", name),
               pages > 0 ? static_cast<double>(used) / static_cast<double>(pages) : 0.0);
  };
  pool("retrieval", stats->retrieval_pages_used, stats->retrieval_pages);
  pool("streaming", stats->streaming_pages_used, stats->streaming_pages);

  family("iteration_tokens_total", "Tokens computed in a step.", "summary");
  out.Sample(model, stats->computed_tokens, "_sum");
  out.Sample(model, stats->steps, "_count");
  return out.text();
}

}  // namespace lserve
