// The sampler over candidates: the same choice as over whole logits, or none where the candidates
// do not settle it (the caller then reads the row). What is known: the kCandidates largest logits
// in order, so no other logit is above the last of them; the likeliest draws, each with the mass of
// the tokens before it; and the logits of tokens that bias or penalties may raise. Sums over the
// vocabulary are in the device's order: where a nucleus ends within kSumError, nothing is settled,
// and a log probability may differ in its last bit.
#include <algorithm>
#include <cmath>
#include <functional>

#include "engine/sampler.h"

namespace lserve {
namespace {

// What a sum may be off, of all that was added up; 1e-14 is usual.
constexpr double kSumError = 1e-10;

bool Complete(const CandidateRow& row, int vocab) { return row.count == vocab; }

bool IsCandidate(const CandidateRow& row, int32_t id, float logit) {
  const float last = row.logits[row.count - 1];
  return logit > last || (logit == last && id <= row.ids[row.count - 1]);
}

// Logprobs (sampler.h) of a row; nothing where the token or the k best are not among the
// candidates for certain.
std::optional<Sampled> CandidateLogprobs(const CandidateRow& row, int32_t token, int k, int vocab) {
  const int32_t* end = row.ids + row.count;
  const int32_t* at = std::find(row.ids, end, token);
  if (at == end || (k > row.count && !Complete(row, vocab))) return std::nullopt;
  const double lse = row.logits[0] + std::log(row.normalizer);
  const auto logprob = [&](int32_t i) {
    const float x = row.logits[i];
    return x > -INFINITY ? static_cast<float>(x - lse) : -INFINITY;
  };
  const int32_t own = static_cast<int32_t>(at - row.ids);
  const float* first_equal =
      std::lower_bound(row.logits, row.logits + row.count, row.logits[own], std::greater<float>());
  Sampled out;
  out.chosen = {token, logprob(own), static_cast<int>(first_equal - row.logits) + 1};
  k = std::min(k, row.count);
  if (k <= 0) return out;
  // Different logits may round to the same log probability, which then goes by id.
  int32_t equal_to = k;
  while (equal_to < row.count && logprob(equal_to) == logprob(k - 1)) ++equal_to;
  if (equal_to == row.count && !Complete(row, vocab)) return std::nullopt;
  for (int32_t i = 0; i < equal_to; ++i) out.top.push_back({row.ids[i], logprob(i), 0});
  std::sort(out.top.begin(), out.top.end(), [](const TokenLogprob& a, const TokenLogprob& b) {
    return a.logprob != b.logprob ? a.logprob > b.logprob : a.id < b.id;
  });
  out.top.resize(static_cast<size_t>(k));
  for (int i = 0; i < k; ++i) out.top[static_cast<size_t>(i)].rank = i + 1;
  return out;
}

}  // namespace

bool Sampler::Ask(CandidateAsk* ask, std::vector<int32_t>* wanted) const {
  if (vocab_ > kCandidates && std::max(params_.logprobs, params_.top_k) > kCandidates) return false;
  ask->total = needs_total();
  ask->normalizer = params_.logprobs >= 0;
  ask->draws = draws_from_all();
  ask->floor = FloorBelow();
  ask->inverse_temperature = inverse_;
  ask->seed = seed_;
  ask->position = position_;
  ask->wanted_begin = static_cast<int32_t>(wanted->size());
  ask->wanted_count = 0;
  if (!wants_touched()) return true;
  if (touched_ids_.size() > size_t{kMostWanted}) {
    if (raises_ || params_.min_p == 0) return false;
    ask->total = ask->draws = false;  // candidates may be all that min-p leaves
    return true;
  }
  ask->wanted_count = static_cast<int32_t>(touched_ids_.size());
  wanted->insert(wanted->end(), touched_ids_.begin(), touched_ids_.end());
  return true;
}

// tokens_: all whose logits are known, adjusted, best first. How many of the first are for certain
// the best of the vocabulary: those above everything unknown, which is nowhere raised.
size_t Sampler::Gather(const CandidateRow& row, std::span<const int32_t> wanted,
                       std::span<const float> wanted_logits) {
  const size_t count = static_cast<size_t>(row.count);
  tokens_.clear();
  for (size_t i = 0; i < count; ++i) tokens_.push_back({row.ids[i], row.logits[i]});
  if (touched_ids_.empty()) return count;
  for (Token& token : tokens_)
    if (touched_[static_cast<size_t>(token.id)]) token.logit = Adjusted(token.id, token.logit);
  for (size_t i = 0; i < wanted.size(); ++i)
    if (!IsCandidate(row, wanted[i], wanted_logits[i]))
      tokens_.push_back({wanted[i], Adjusted(wanted[i], wanted_logits[i])});
  std::sort(tokens_.begin(), tokens_.end(), Better);
  if (Complete(row, vocab_)) return tokens_.size();
  const float bound = row.logits[row.count - 1];
  const auto above = [bound](const Token& token) { return token.logit > bound; };
  return static_cast<size_t>(std::partition_point(tokens_.begin(), tokens_.end(), above) -
                             tokens_.begin());
}

std::optional<int32_t> Sampler::DrawFrom(const CandidateAsk& ask, const CandidateRow& row,
                                         size_t certain, std::span<const int32_t> wanted,
                                         std::span<const float> wanted_logits) {
  const float max = tokens_[0].logit, bound = row.logits[row.count - 1];
  const float floor = Floor(max);
  const auto left = [&](const Token& token) {
    return token.logit > -INFINITY && token.logit >= floor;
  };
  while (!left(tokens_.back())) tokens_.pop_back();
  // Whether tokens_ is all that min-p and top-k leave.
  bool all = Complete(row, vocab_) || floor > bound;
  const size_t top_k = static_cast<size_t>(params_.top_k);
  if (top_k > 0 && (all || top_k <= certain)) {
    all = true;
    tokens_.resize(std::min(tokens_.size(), top_k));
  }
  if (all) {
    if (params_.top_p >= 1) return Pick(max).token.id;
    const double total = Mass(max);
    return PickNucleus(max, params_.top_p * total, kSumError * total);
  }
  if (!ask.draws) return std::nullopt;

  const double from_row_max = (static_cast<double>(row.logits[0]) - max) * ask.inverse_temperature;
  std::vector<Change> changes;
  for (size_t i = 0; i < wanted.size(); ++i) {
    const Token before{wanted[i], wanted_logits[i]},
        after{wanted[i], Adjusted(wanted[i], wanted_logits[i])};
    const auto mass = [&](const Token& token) {
      return left(token) ? std::exp(Scaled(token, max)) : 0;
    };
    changes.push_back({before, after, mass(before), mass(after)});
  }
  Judge inside = [](const Token&) { return true; };
  if (ask.total) {
    if (params_.min_p > 0 && max != row.logits[0]) return std::nullopt;  // not the device's floor
    const double scale = std::exp(from_row_max);
    double total = row.total * scale, added = total;
    for (const Change& change : changes) {
      total += change.mass_after - change.mass_before;
      added += change.mass_after;
    }
    if (!std::isfinite(added)) return std::nullopt;
    const double line = params_.top_p * total, margin = kSumError * added;
    tokens_.resize(certain);
    const std::optional<bool> beyond = Inside(Mass(max), line, margin);
    if (!beyond) return std::nullopt;
    if (!*beyond) return PickNucleus(max, line, margin);
    inside = [&row, &changes, this, scale, line, margin](const Token& token) {
      return InsideByDraws(row, scale, changes, line, margin, token);
    };
  }
  // Nothing else can win: what is lowered only and not among the draws was below their bound
  // before. That a token may be there twice does not matter.
  tokens_.clear();
  for (int i = 0; i < kDraws; ++i)
    if (const int32_t id = row.draw_ids[i]; id >= 0)
      tokens_.push_back({id, Adjusted(id, row.draw_logits[i])});
  for (const Change& change : changes) tokens_.push_back(change.after);
  std::erase_if(tokens_, [&](const Token& token) { return !left(token); });
  return PickInside(max, row.draw_bound + from_row_max, inside);
}

// Where all certain tokens are inside. A draw that nothing changes is inside by the mass before it;
// others are inside if they are before one that is, and outside if they are after one that is
// not. `scale` makes the row's masses those of the largest logit after bias and penalties.
std::optional<bool> Sampler::InsideByDraws(const CandidateRow& row, double scale,
                                           std::span<const Change> changes, double line,
                                           double margin, const Token& token) const {
  const float bound = row.logits[row.count - 1];
  if (token.logit > bound) return true;
  for (int i = 0; i < kDraws; ++i) {
    const Token draw{row.draw_ids[i], row.draw_logits[i]};
    if (draw.id < 0 || draw.logit > bound) continue;
    if (!touched_.empty() && touched_[static_cast<size_t>(draw.id)]) continue;
    double above = row.draw_above[i] * scale;
    for (const Change& change : changes) {
      if (Better(change.before, draw)) above -= change.mass_before;
      if (Better(change.after, draw)) above += change.mass_after;
    }
    const std::optional<bool> inside = Inside(above, line, margin);
    if (inside && *inside ? !Better(draw, token) : inside && !Better(token, draw)) return inside;
  }
  return std::nullopt;
}

std::optional<Sampled> Sampler::Sample(const CandidateAsk& ask, const CandidateRow& row,
                                       std::span<const int32_t> wanted,
                                       std::span<const float> wanted_logits) {
  if (row.count <= 0 || !(std::abs(row.logits[0]) < INFINITY)) return std::nullopt;
  const size_t begin = static_cast<size_t>(ask.wanted_begin),
               count = static_cast<size_t>(ask.wanted_count);
  wanted = wanted.subspan(begin, count);
  wanted_logits = wanted_logits.subspan(begin, count);
  const size_t certain = Gather(row, wanted, wanted_logits);
  if (certain == 0 || !(std::abs(tokens_[0].logit) < INFINITY)) return std::nullopt;
  int32_t token = tokens_[0].id;
  if (!greedy()) {
    const std::optional<int32_t> drawn = DrawFrom(ask, row, certain, wanted, wanted_logits);
    if (!drawn) return std::nullopt;
    token = *drawn;
  }
  Sampled out;
  if (params_.logprobs >= 0) {
    std::optional<Sampled> own = CandidateLogprobs(row, token, params_.logprobs, vocab_);
    if (!own) return std::nullopt;
    out = std::move(*own);
  }
  out.chosen.id = token;
  return out;
}

}  // namespace lserve
