// What `lserve bench serve` sends, and when: prompts of token ids from a seed, and arrival times.
// Pure functions; the names of data sets and flags are those of `vllm bench serve`.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/status.h"

namespace lserve {

struct BenchRequest {
  std::vector<int32_t> prompt;
  int output_tokens = 0;
  double at = 0;  // seconds after the start; 0 for all: as fast as allowed
};

struct WorkloadOptions {
  std::string dataset = "random";  // random | prefix_repetition | trace
  int num_prompts = 100;
  uint64_t seed = 0;
  int first_token = 1000, last_token = 10000;  // ids that every vocabulary has, as ordinary text

  int input_len = 1024, output_len = 128, prefix_len = 0;  // random
  double range_ratio = 0;  // lengths are uniform in [len * (1 - ratio), len * (1 + ratio)]
  int num_prefixes = 10, suffix_len = 256;  // prefix_repetition: prefix_len of each prefix

  // Lines of JSON as in the Mooncake traces: timestamp (ms), input_length, output_length, hash_ids
  // (optional; equal ids are equal stretches of kTraceBlock tokens).
  std::string trace_path;

  double request_rate = 0;  // a second; 0: all at once
  double burstiness = 1;  // shape of the gamma distribution of gaps: 1 is Poisson, less is burstier
};

inline constexpr int kTraceBlock = 512;

Result<std::vector<BenchRequest>> MakeWorkload(const WorkloadOptions& options);

// `length` random tokens.
std::vector<int32_t> RandomTokens(const WorkloadOptions& options, uint64_t seed, int length);

}  // namespace lserve
