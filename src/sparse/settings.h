// Some of the settings about sparsity: what a profile or a command line names. The others stay what
// they are. Names are those of a profile's fields; flags have the same with hyphens.
#pragma once

#include <optional>

#include "sparse/config.h"

namespace lserve {

struct SparsitySettings {
  std::optional<double> static_sparsity;
  std::optional<int> prefill_sink, prefill_local, decode_sink, decode_local, budget,
      selector_sink_pages, selector_local_pages, logical_page, reuse_interval, dense_below;
  std::optional<PageScore> page_score;
  std::optional<bool> shared_lists;
  bool operator==(const SparsitySettings&) const = default;
};

// f(name, member of SparsitySettings, member of SparsityConfig) for every setting.
template <typename F>
void ForEachSetting(F f) {
  using S = SparsitySettings;
  using C = SparsityConfig;
  f("static_sparsity", &S::static_sparsity, &C::static_sparsity);
  f("prefill_sink", &S::prefill_sink, &C::prefill_sink);
  f("prefill_local", &S::prefill_local, &C::prefill_local);
  f("decode_sink", &S::decode_sink, &C::decode_sink);
  f("decode_local", &S::decode_local, &C::decode_local);
  f("budget", &S::budget, &C::budget);
  f("selector_sink_pages", &S::selector_sink_pages, &C::selector_sink_pages);
  f("selector_local_pages", &S::selector_local_pages, &C::selector_local_pages);
  f("page_score", &S::page_score, &C::page_score);
  f("logical_page", &S::logical_page, &C::logical_page);
  f("reuse_interval", &S::reuse_interval, &C::reuse_interval);
  f("dense_below", &S::dense_below, &C::dense_below);
  f("shared_lists", &S::shared_lists, &C::shared_lists);
}

inline void Apply(const SparsitySettings& settings, SparsityConfig* config) {
  ForEachSetting([&](const char*, auto given, auto member) {
    if (settings.*given) config->*member = *(settings.*given);
  });
}

inline SparsitySettings AllSettings(const SparsityConfig& config) {
  SparsitySettings all;
  ForEachSetting([&](const char*, auto given, auto member) { all.*given = config.*member; });
  return all;
}

}  // namespace lserve
