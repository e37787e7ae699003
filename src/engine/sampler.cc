#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace lserve {
namespace {

constexpr float kNever = -INFINITY;
constexpr double kGreedyBelow = 1e-5;  // temperatures that would overflow
// -log(-log(u)) for the largest u that a 32-bit number gives is 22.9.
constexpr double kLargestGumbel = 23;

bool Needs(double value, double neutral) { return value != neutral; }

}  // namespace

uint32_t Philox(uint64_t key, uint64_t counter_low, uint64_t counter_high) {
  uint32_t c[4] = {static_cast<uint32_t>(counter_low), static_cast<uint32_t>(counter_low >> 32),
                   static_cast<uint32_t>(counter_high), static_cast<uint32_t>(counter_high >> 32)};
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
    const uint64_t a = 0xD2511F53ull * c[0], b = 0xCD9E8D57ull * c[2];
    const uint32_t next[4] = {static_cast<uint32_t>(b >> 32) ^ c[1] ^ k0, static_cast<uint32_t>(b),
                              static_cast<uint32_t>(a >> 32) ^ c[3] ^ k1, static_cast<uint32_t>(a)};
    std::copy_n(next, 4, c);
  }
  return c[0];
}

Status CheckSampling(const SamplingParams& p, int vocab) {
  const auto bad = [](const char* field, const auto& value, const char* range) {
    return InvalidArgument("{}: {} ({})", field, value, range);
  };
  const auto finite = [](double x) { return std::isfinite(x); };
  if (p.max_tokens < 1) return bad("max_tokens", p.max_tokens, "must be at least 1");
  if (p.min_tokens < 0 || p.min_tokens > p.max_tokens)
    return bad("min_tokens", p.min_tokens, "must be between 0 and max_tokens");
  if (!finite(p.temperature) || p.temperature < 0 || p.temperature > 100)
    return bad("temperature", p.temperature, "must be between 0 and 100");
  if (!finite(p.top_p) || p.top_p <= 0 || p.top_p > 1)
    return bad("top_p", p.top_p, "must be above 0 and at most 1");
  if (p.top_k < 0) return bad("top_k", p.top_k, "must be 0 (all) or more");
  if (!finite(p.min_p) || p.min_p < 0 || p.min_p > 1)
    return bad("min_p", p.min_p, "must be between 0 and 1");
  if (!(std::abs(p.presence_penalty) <= 2))
    return bad("presence_penalty", p.presence_penalty, "must be between -2 and 2");
  if (!(std::abs(p.frequency_penalty) <= 2))
    return bad("frequency_penalty", p.frequency_penalty, "must be between -2 and 2");
  if (!(p.repetition_penalty > 0 && p.repetition_penalty <= 100))
    return bad("repetition_penalty", p.repetition_penalty, "must be above 0 and at most 100");
  if (p.logprobs < -1 || p.logprobs > vocab)
    return bad("logprobs", p.logprobs, "must not exceed the vocabulary");
  if (p.prompt_logprobs < -1 || p.prompt_logprobs > vocab)
    return bad("prompt_logprobs", p.prompt_logprobs, "must not exceed the vocabulary");
  for (const auto& [id, bias] : p.logit_bias) {
    if (id < 0 || id >= vocab) return bad("logit_bias", id, "is not a token id");
    if (!(std::abs(bias) <= 100)) return bad("logit_bias", bias, "must be between -100 and 100");
  }
  for (int32_t id : p.stop_token_ids)
    if (id < 0 || id >= vocab) return bad("stop_token_ids", id, "is not a token id");
  for (const std::string& stop : p.stop)
    if (stop.empty()) return InvalidArgument("stop: an empty string");
  return Ok();
}

Sampled Logprobs(std::span<const float> logits, int32_t token, int k) {
  float max = kNever;
  for (float x : logits)
    if (x > max) max = x;
  double sum = 0;
  for (float x : logits)
    if (x > kNever) sum += std::exp(static_cast<double>(x) - max);
  const double lse = max + std::log(sum);
  const auto logprob = [&](int32_t id) {
    const float x = logits[static_cast<size_t>(id)];
    return x > kNever ? static_cast<float>(x - lse) : kNever;
  };
  Sampled out;
  const float own =
      std::isnan(logits[static_cast<size_t>(token)]) ? kNever : logits[static_cast<size_t>(token)];
  int rank = 1;
  for (float x : logits) rank += x > own;
  out.chosen = {token, logprob(token), rank};
  if (k > 0) {
    std::vector<int32_t> order(logits.size());
    std::iota(order.begin(), order.end(), 0);
    const auto better = [&](int32_t a, int32_t b) {
      const float x = logprob(a), y = logprob(b);
      return x != y ? x > y : a < b;
    };
    const auto end = order.begin() + std::min<ptrdiff_t>(k, static_cast<ptrdiff_t>(order.size()));
    std::partial_sort(order.begin(), end, order.end(), better);
    for (auto it = order.begin(); it != end; ++it)
      out.top.push_back({*it, logprob(*it), static_cast<int>(it - order.begin()) + 1});
  }
  return out;
}

Sampler::Sampler(const SamplingParams& params, uint64_t seed, std::vector<int32_t> eos,
                 std::span<const int32_t> prompt, int vocab)
    : params_(params), seed_(seed), eos_(std::move(eos)) {
  if (Needs(params.presence_penalty, 0) || Needs(params.frequency_penalty, 0))
    generated_.assign(static_cast<size_t>(vocab), 0);
  if (Needs(params.repetition_penalty, 1)) {
    seen_.assign(static_cast<size_t>(vocab), false);
    for (int32_t id : prompt) seen_[static_cast<size_t>(id)] = true;
  }
}

void Sampler::ApplyPenalties(std::span<float> logits) const {
  for (const auto& [id, bias] : params_.logit_bias) logits[static_cast<size_t>(id)] += bias;
  if (!seen_.empty()) {
    const float penalty = static_cast<float>(params_.repetition_penalty);
    for (size_t i = 0; i < logits.size(); ++i)
      if (seen_[i]) logits[i] = logits[i] > 0 ? logits[i] / penalty : logits[i] * penalty;
  }
  if (!generated_.empty()) {
    for (size_t i = 0; i < logits.size(); ++i)
      if (generated_[i] > 0)
        logits[i] -= static_cast<float>(params_.frequency_penalty * generated_[i] +
                                        params_.presence_penalty);
  }
  if (position_ < params_.min_tokens) {
    for (int32_t id : eos_) logits[static_cast<size_t>(id)] = kNever;
    for (int32_t id : params_.stop_token_ids) logits[static_cast<size_t>(id)] = kNever;
  }
}

// Gumbel-max over the tokens that top-k, top-p and min-p leave.
int32_t Sampler::Draw(std::span<const float> logits) {
  const size_t n = logits.size();
  const float max = *std::max_element(logits.begin(), logits.end());
  const double inverse = 1.0 / params_.temperature;
  const auto scaled = [&](int32_t id) {
    return (static_cast<double>(logits[static_cast<size_t>(id)]) - max) * inverse;
  };
  order_.clear();
  // min-p first: it needs no order. A token below it cannot be in the nucleus either.
  const float floor = params_.min_p > 0
                          ? max + static_cast<float>(std::log(params_.min_p) * params_.temperature)
                          : kNever;
  for (size_t i = 0; i < n; ++i)
    if (logits[i] > kNever && logits[i] >= floor) order_.push_back(static_cast<int32_t>(i));
  const auto better = [&](int32_t a, int32_t b) {
    const float x = logits[static_cast<size_t>(a)], y = logits[static_cast<size_t>(b)];
    return x != y ? x > y : a < b;
  };
  if (params_.top_k > 0 && static_cast<size_t>(params_.top_k) < order_.size()) {
    std::nth_element(order_.begin(), order_.begin() + params_.top_k - 1, order_.end(), better);
    order_.resize(static_cast<size_t>(params_.top_k));
  }
  if (params_.top_p < 1) {
    std::sort(order_.begin(), order_.end(), better);
    double total = 0;
    for (int32_t id : order_) total += std::exp(scaled(id));
    double sum = 0;
    size_t keep = 0;
    while (keep < order_.size() &&
           sum < params_.top_p * total)  // the token that crosses the line stays
      sum += std::exp(scaled(order_[keep++]));
    order_.resize(std::max<size_t>(keep, 1));
  }
  int32_t best = -1;
  double best_value = -INFINITY;
  for (int32_t id : order_) {
    const double own = scaled(id);
    if (own + kLargestGumbel < best_value)
      continue;  // cannot win: most of the vocabulary needs no random number
    const double u =
        (Philox(seed_, static_cast<uint64_t>(position_), static_cast<uint64_t>(id)) + 0.5) *
        0x1p-32;
    const double value = own - std::log(-std::log(u));
    if (best < 0 || value > best_value || (value == best_value && id < best)) {
      best = id;
      best_value = value;
    }
  }
  return best;
}

bool Sampler::plain_greedy() const {
  return params_.temperature <= kGreedyBelow && params_.logprobs < 0 &&
         params_.logit_bias.empty() && generated_.empty() && seen_.empty() &&
         position_ >= params_.min_tokens;
}

Sampled Sampler::Sample(std::span<float> logits) {
  for (float& x : logits)
    if (std::isnan(x)) x = kNever;
  std::vector<float> raw;
  if (params_.logprobs >= 0) raw.assign(logits.begin(), logits.end());
  ApplyPenalties(logits);
  const auto best = std::max_element(logits.begin(), logits.end());
  int32_t token = static_cast<int32_t>(best - logits.begin());
  if (params_.temperature > kGreedyBelow && *best > kNever && *best < INFINITY)
    token = Draw(logits);
  Sampled out;
  if (params_.logprobs >= 0) out = Logprobs(raw, token, params_.logprobs);
  out.chosen.id = token;
  return out;
}

void Sampler::Accept(int32_t token) {
  const size_t i = static_cast<size_t>(token);
  if (!generated_.empty() && generated_[i] < UINT16_MAX) ++generated_[i];
  if (!seen_.empty()) seen_[i] = true;
  ++position_;
}

}  // namespace lserve
