// Fuzzes profiles: any text gives an error or a profile whose settings are in their ranges and
// which is the same after it was written and read again.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "model/profile.h"
#include "sparse/planner.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const std::string path = "/nowhere/profile.json";  // no table is found beside it
  const auto profile = lserve::ParseProfile(text, path);
  if (!profile.ok()) return 0;
  lserve::SparsityConfig config;
  Apply(profile->settings, &config);
  if (!lserve::Planner::Check(config).ok()) __builtin_trap();
  if (profile->gates &&
      profile->gates->gates.size() != static_cast<size_t>(profile->gates->layers) *
                                          static_cast<size_t>(profile->gates->kv_heads))
    __builtin_trap();
  const auto again = lserve::ParseProfile(ProfileText(*profile), path);
  if (!again.ok() || again->settings != profile->settings ||
      again->fingerprint != profile->fingerprint || again->provenance != profile->provenance)
    __builtin_trap();
  return 0;
}
