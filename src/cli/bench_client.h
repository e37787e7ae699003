// Sends requests to an OpenAI-compatible server over http and notes when each token came. Blocking;
// RunLoad uses a thread a request.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "cli/bench_workload.h"
#include "cli/url.h"

namespace lserve {

struct BenchTarget {
  Url url;  // of the endpoint
  std::string model, api_key;
  std::string extra_body;  // JSON object that is merged into every request; empty: nothing
};

struct BenchResult {
  std::string error;  // empty: it succeeded
  int input_tokens = 0, output_tokens = 0, cached_tokens = 0;
  double start = 0;              // seconds after the start of the run
  double ttft = 0, latency = 0;  // seconds
  std::vector<double> itl;       // seconds between pieces of the answer
};

// One streamed completion of exactly request.output_tokens tokens (ignore_eos).
BenchResult SendOne(const BenchTarget& target, const BenchRequest& request);

// Sends each at its time, at most `concurrency` at once (0: no limit); results in order of
// requests. `done` is called after each, from the threads, one at a time.
std::vector<BenchResult> RunLoad(const BenchTarget& target,
                                 const std::vector<BenchRequest>& requests, int concurrency,
                                 const std::function<void()>& done = {});

}  // namespace lserve
