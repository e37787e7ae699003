#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace lserve {
namespace {

constexpr float kNever = -INFINITY;

bool Needs(double value, double neutral) { return value != neutral; }

}  // namespace

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
    : params_(params),
      seed_(seed),
      vocab_(vocab),
      inverse_(greedy() ? 1 : 1.0 / params.temperature),
      eos_(std::move(eos)) {
  const size_t n = static_cast<size_t>(vocab);
  const bool counts = Needs(params.presence_penalty, 0) || Needs(params.frequency_penalty, 0);
  const bool repeats = Needs(params.repetition_penalty, 1);
  if (counts) generated_.assign(n, 0);
  if (repeats) seen_.assign(n, false);
  if (counts || repeats || !params.logit_bias.empty() || params.min_tokens > 0)
    touched_.assign(n, false);
  std::stable_sort(params_.logit_bias.begin(), params_.logit_bias.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  for (const auto& [id, bias] : params_.logit_bias) {
    Touch(id);
    raises_ = raises_ || bias > 0;
  }
  raises_ = raises_ || params.presence_penalty < 0 || params.frequency_penalty < 0 ||
            params.repetition_penalty < 1;
  if (params.min_tokens > 0) {
    for (int32_t id : eos_) Touch(id);
    for (int32_t id : params.stop_token_ids) Touch(id);
  }
  if (repeats) {
    for (int32_t id : prompt) {
      seen_[static_cast<size_t>(id)] = true;
      Touch(id);
    }
  }
}

void Sampler::Touch(int32_t id) {
  if (touched_[static_cast<size_t>(id)]) return;
  touched_[static_cast<size_t>(id)] = true;
  touched_ids_.push_back(id);
}

float Sampler::Adjusted(int32_t id, float x) const {
  const size_t i = static_cast<size_t>(id);
  const auto less = [](const auto& entry, int32_t own) { return entry.first < own; };
  for (auto it = std::lower_bound(params_.logit_bias.begin(), params_.logit_bias.end(), id, less);
       it != params_.logit_bias.end() && it->first == id; ++it)
    x += it->second;
  if (!seen_.empty() && seen_[i]) {
    const float penalty = static_cast<float>(params_.repetition_penalty);
    x = x > 0 ? x / penalty : x * penalty;
  }
  if (!generated_.empty() && generated_[i] > 0)
    x -= static_cast<float>(params_.frequency_penalty * generated_[i] + params_.presence_penalty);
  if (position_ < params_.min_tokens) {
    const auto among = [id](const std::vector<int32_t>& ids) {
      return std::find(ids.begin(), ids.end(), id) != ids.end();
    };
    if (among(eos_) || among(params_.stop_token_ids)) x = kNever;
  }
  return x;
}

float Sampler::FloorBelow() const {
  return params_.min_p > 0 ? static_cast<float>(std::log(params_.min_p) * params_.temperature)
                           : kNever;
}

double Sampler::Mass(float max) const {
  double total = 0;
  for (const Token& token : tokens_) total += std::exp(Scaled(token, max));
  return total;
}

Sampler::Winner Sampler::Pick(float max) const {
  Winner best{{-1, kNever}, -INFINITY};
  double most = INFINITY;  // of 1 - u, where the largest logit of all would win
  for (const Token& token : tokens_) {
    const double own = Scaled(token, max);
    if (own + kLargestGumbel < best.value)
      continue;  // cannot win: most of a peaked vocabulary needs no random number
    const uint32_t bits = DrawBits(seed_, position_, token.id);
    // Nor can this, as -log(u) >= 1 - u: most of a flat one needs no logarithm.
    if ((~bits + 0.5) * 0x1p-32 > most) continue;
    const double u = (bits + 0.5) * 0x1p-32;
    const double value = own - std::log(-std::log(u));
    if (best.token.id < 0 || value > best.value ||
        (value == best.value && token.id < best.token.id)) {
      best = {token, value};
      most = std::exp(-value) * (1 + 1e-9);
    }
  }
  return best;
}

// The token that crosses the line stays.
std::optional<bool> Sampler::Inside(double above, double line, double margin) {
  if (above < line - margin) return true;
  if (above < line + margin) return std::nullopt;
  return false;
}

// Without sorting: who wins among all has won if it is inside. If it is not, neither are those that
// are no better, and the search goes on among the better ones; tokens outside have 1 - top_p of the
// mass, so that is seldom, and each time takes half of them away.
std::optional<int32_t> Sampler::PickInside(float max, double bound, const Judge& inside) {
  for (;;) {
    const Winner winner = Pick(max);
    if (!(winner.value > bound)) return std::nullopt;
    const std::optional<bool> in = inside(winner.token);
    if (!in) return std::nullopt;
    if (*in) return winner.token.id;
    std::erase_if(tokens_, [&](const Token& token) { return !Better(token, winner.token); });
  }
}

std::optional<int32_t> Sampler::PickNucleus(float max, double line, double margin) {
  return PickInside(max, -INFINITY, [&](const Token& own) {
    double above = 0;
    for (const Token& token : tokens_)
      if (Better(token, own)) above += std::exp(Scaled(token, max));
    return above > 0 ? Inside(above, line, margin) : true;  // the best stays whatever top_p is
  });
}

int32_t Sampler::Draw(std::span<const float> logits) {
  const float max = *std::max_element(logits.begin(), logits.end());
  tokens_.clear();
  // min-p first: it needs no order. A token below it cannot be in the nucleus either.
  const float floor = Floor(max);
  for (size_t i = 0; i < logits.size(); ++i)
    if (logits[i] > kNever && logits[i] >= floor)
      tokens_.push_back({static_cast<int32_t>(i), logits[i]});
  if (params_.top_k > 0 && static_cast<size_t>(params_.top_k) < tokens_.size()) {
    std::nth_element(tokens_.begin(), tokens_.begin() + params_.top_k - 1, tokens_.end(), Better);
    tokens_.resize(static_cast<size_t>(params_.top_k));
  }
  if (params_.top_p < 1) return *PickNucleus(max, params_.top_p * Mass(max), 0);
  return Pick(max).token.id;
}

bool Sampler::plain_greedy() const {
  return greedy() && params_.logprobs < 0 && params_.logit_bias.empty() && generated_.empty() &&
         seen_.empty() && position_ >= params_.min_tokens;
}

Sampled Sampler::Sample(std::span<float> logits) {
  for (float& x : logits)
    if (std::isnan(x)) x = kNever;
  std::vector<float> raw;
  if (params_.logprobs >= 0) raw.assign(logits.begin(), logits.end());
  for (int32_t id : touched_ids_)
    logits[static_cast<size_t>(id)] = Adjusted(id, logits[static_cast<size_t>(id)]);
  const auto best = std::max_element(logits.begin(), logits.end());
  int32_t token = static_cast<int32_t>(best - logits.begin());
  if (!greedy() && *best > kNever && *best < INFINITY) token = Draw(logits);
  Sampled out;
  if (params_.logprobs >= 0) out = Logprobs(raw, token, params_.logprobs);
  out.chosen.id = token;
  return out;
}

void Sampler::Accept(int32_t token) {
  const size_t i = static_cast<size_t>(token);
  if (!generated_.empty() && generated_[i] < UINT16_MAX) ++generated_[i];
  if (!seen_.empty()) seen_[i] = true;
  if (!generated_.empty() || !seen_.empty()) Touch(token);
  ++position_;
}

}  // namespace lserve
