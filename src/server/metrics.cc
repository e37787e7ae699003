#include "server/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/histogram.h>
#include <prometheus/metric_family.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <atomic>
#include <vector>

namespace lserve {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

const prometheus::Histogram::BucketBoundaries kFirstTokenBuckets = {
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75,
    1,     2.5,   5,    7.5,  10,   20,   40,   80,  160,  640, 2560};
const prometheus::Histogram::BucketBoundaries kTokenBuckets = {
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15,
    0.2,   0.3,    0.4,   0.5,  0.75,  1,    2.5,   5,   10};
const prometheus::Histogram::BucketBoundaries kRequestBuckets = {
    0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680};

using Labels = std::vector<ClientMetric::Label>;

MetricFamily Family(const char* name, const char* help, MetricType type) {
  MetricFamily family;
  family.name = std::string("lserve:") + name;
  family.help = help;
  family.type = type;
  return family;
}

// Adds one value of `family` to it.
void Put(MetricFamily* family, double value, const Labels& labels) {
  ClientMetric metric;
  metric.label = labels;
  if (family->type == MetricType::Counter) {
    metric.counter.value = value;
  } else {
    metric.gauge.value = value;
  }
  family->metric.push_back(std::move(metric));
}

}  // namespace

struct Metrics::Impl {
  prometheus::Registry registry;
  std::string model;
  std::atomic<bool> ready{false};
  prometheus::Histogram* first_token = nullptr;
  prometheus::Histogram* inter_token = nullptr;
  prometheus::Histogram* e2e = nullptr;
  prometheus::Histogram* queue = nullptr;
  prometheus::Histogram* prefill = nullptr;
  prometheus::Histogram* decode = nullptr;
  prometheus::Family<prometheus::Counter>* success = nullptr;
  prometheus::Family<prometheus::Counter>* responses = nullptr;

  prometheus::Histogram* Histogram(const char* name, const char* help,
                                   const prometheus::Histogram::BucketBoundaries& buckets) {
    return &prometheus::BuildHistogram()
                .Name(std::string("lserve:") + name)
                .Help(help)
                .Labels({{"model_name", model}})
                .Register(registry)
                .Add({}, buckets);
  }
  prometheus::Family<prometheus::Counter>* Counters(const char* name, const char* help) {
    prometheus::Labels labels;
    if (!model.empty()) labels["model_name"] = model;
    return &prometheus::BuildCounter()
                .Name(std::string("lserve:") + name)
                .Help(help)
                .Labels(labels)
                .Register(registry);
  }
};

Metrics::Metrics() : impl_(std::make_unique<Impl>()) {
  impl_->responses = impl_->Counters("http_responses_total", "HTTP answers by status.");
}

Metrics::~Metrics() = default;

void Metrics::SetModel(const std::string& name) {
  Impl& m = *impl_;
  m.model = name;
  m.first_token = m.Histogram("time_to_first_token_seconds",
                              "From a request's arrival to its first token.", kFirstTokenBuckets);
  m.inter_token =
      m.Histogram("inter_token_latency_seconds", "Between tokens of a request.", kTokenBuckets);
  m.e2e = m.Histogram("e2e_request_latency_seconds", "From a request's arrival to its end.",
                      kRequestBuckets);
  m.queue =
      m.Histogram("request_queue_time_seconds", "Waiting before the first step.", kRequestBuckets);
  m.prefill =
      m.Histogram("request_prefill_time_seconds", "Processing the prompt.", kRequestBuckets);
  m.decode = m.Histogram("request_decode_time_seconds", "Generating.", kRequestBuckets);
  m.success = m.Counters("request_success_total", "Requests that ended, by reason.");
  for (const char* reason : {"stop", "length", "abort", "error"}) {
    m.success->Add({{"finished_reason", reason}});
  }
  m.ready = true;
}

void Metrics::ObserveFirstToken(double seconds) { impl_->first_token->Observe(seconds); }

void Metrics::ObserveTokens(double seconds, size_t tokens) {
  for (size_t i = 0; i < tokens; ++i) {
    impl_->inter_token->Observe(seconds / static_cast<double>(tokens));
  }
}

void Metrics::ObserveFinish(const char* reason, const Usage& usage, double seconds) {
  Impl& m = *impl_;
  m.success->Add({{"finished_reason", reason}}).Increment();
  m.e2e->Observe(seconds);
  if (usage.prompt_tokens == 0) return;  // left before the engine told anything about it
  m.queue->Observe(usage.queue_seconds);
  m.prefill->Observe(usage.prefill_seconds);
  m.decode->Observe(usage.decode_seconds);
}

void Metrics::CountResponse(int status) {
  impl_->responses->Add({{"status", std::to_string(status)}}).Increment();
}

std::string Metrics::Text(const EngineStats* stats) const {
  std::vector<MetricFamily> families = impl_->registry.Collect();
  if (stats && impl_->ready) {
    const Labels model = {{"model_name", impl_->model}};
    const auto single = [&](const char* name, const char* help, MetricType type, double value) {
      families.push_back(Family(name, help, type));
      Put(&families.back(), value, model);
    };
    const auto gauge = [&](const char* name, const char* help, double value) {
      single(name, help, MetricType::Gauge, value);
    };
    const auto counter = [&](const char* name, const char* help, int64_t value) {
      single(name, help, MetricType::Counter, static_cast<double>(value));
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
          static_cast<double>(stats->prefix_cache_blocks));
    counter("prompt_tokens_total", "Prompt tokens processed, cached ones included.",
            stats->prompt_tokens);
    counter("generation_tokens_total", "Tokens generated.", stats->generation_tokens);
    counter("attention_pages_read_total", "KV pages read by decode steps.",
            stats->attention_pages_read);
    counter("attention_pages_total", "KV pages that dense attention would have read.",
            stats->attention_pages_total);
    counter("selector_runs_total", "Page selections made.", stats->selector_runs);

    MetricFamily usage =
        Family("kv_cache_usage_perc", "Share of a pool's pages in use, 0 to 1.", MetricType::Gauge);
    const auto pool = [&](const char* name, int64_t used, int64_t pages) {
      Labels labels = model;
      labels.push_back({"pool", name});
      Put(&usage, pages > 0 ? static_cast<double>(used) / static_cast<double>(pages) : 0, labels);
    };
    pool("retrieval", stats->retrieval_pages_used, stats->retrieval_pages);
    pool("streaming", stats->streaming_pages_used, stats->streaming_pages);
    families.push_back(std::move(usage));

    MetricFamily steps =
        Family("iteration_tokens_total", "Tokens computed in a step.", MetricType::Summary);
    ClientMetric step;
    step.label = model;
    step.summary.sample_count = static_cast<uint64_t>(stats->steps);
    step.summary.sample_sum = static_cast<double>(stats->computed_tokens);
    steps.metric.push_back(std::move(step));
    families.push_back(std::move(steps));
  }
  return prometheus::TextSerializer().Serialize(families);
}

}  // namespace lserve
