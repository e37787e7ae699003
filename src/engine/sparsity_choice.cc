#include "engine/sparsity_choice.h"

#include "model/fingerprint.h"
#include "sparse/planner.h"

namespace lserve {
namespace {

Status TakeProfile(const EngineOptions& options, const ModelFiles& files,
                   const std::string& known_path, SparsityChoice* choice) {
  const std::string path = options.profile.empty() ? known_path : options.profile;
  if (path.empty() || path == "none") {
    choice->profile_line = path.empty() ? "none is known for this model" : "none (asked for)";
    return Ok();
  }
  Result<Profile> profile = LoadProfile(path);
  if (!profile.ok()) return profile.status().Annotate("--profile");
  choice->profile_line = path;
  if (const std::string own = Fingerprint(files); profile->fingerprint != own) {
    if (!options.force_profile)
      return InvalidArgument(
          "--profile {}: made for a model with the fingerprint {}, this one ({}) has {} "
          "(--force-profile takes it nevertheless)",
          path, profile->fingerprint, files.path, own);
    choice->profile_line += fmt::format(", made for another model ({})", profile->fingerprint);
  }
  Apply(profile->settings, &choice->config);
  choice->profile = std::move(*profile);
  return Ok();
}

// The head pattern in force, or nothing and the reason.
Result<std::optional<HeadPattern>> TakePattern(const EngineOptions& options,
                                               const std::string& known_path,
                                               const SparsityChoice& choice, std::string* reason) {
  std::string path = options.head_pattern;
  if (path.empty() && choice.profile) {
    if (choice.profile->gates) return choice.profile->gates;
    path = choice.profile->head_pattern;
  }
  *reason = "every KV head is a retrieval head (asked for)";
  if (path == "none" || choice.config.static_sparsity <= 0) return std::optional<HeadPattern>();
  if (path.empty()) path = known_path;
  if (path.empty()) {
    *reason =
        "no head pattern is known for this model: every KV head is a retrieval head. A "
        "DuoAttention gate table can be given with --head-pattern FILE";
    return std::optional<HeadPattern>();
  }
  Result<HeadPattern> pattern = LoadHeadPattern(path);
  if (!pattern.ok()) return pattern.status().Annotate("--head-pattern");
  return std::optional(std::move(*pattern));
}

}  // namespace

Result<SparsityChoice> ChooseSparsity(const EngineOptions& options, const ModelFiles& files) {
  const ModelConfig& c = files.config;
  Result<std::optional<KnownModel>> known = FindKnownModel(files);
  if (!known.ok()) return known.status();
  const KnownModel none, &data = *known ? **known : none;
  SparsityChoice choice;
  choice.config = options.sparsity;
  if (Status s = TakeProfile(options, files, data.profile, &choice); !s.ok()) return s;
  Apply(options.given, &choice.config);
  if (Status s = Planner::Check(choice.config); !s.ok()) return s;

  std::string reason;
  Result<std::optional<HeadPattern>> pattern =
      TakePattern(options, data.head_pattern, choice, &reason);
  if (!pattern.ok()) return pattern.status();
  if (!*pattern) {
    choice.heads = AllRetrieval(c.layers, c.kv_heads);
    choice.heads_line = reason;
    return choice;
  }
  const HeadPattern& gates = **pattern;
  if (gates.layers != c.layers || gates.kv_heads != c.kv_heads)
    return InvalidArgument("head pattern {}: {} layers of {} KV heads, the model has {} of {}",
                           gates.source, gates.layers, gates.kv_heads, c.layers, c.kv_heads);
  choice.heads = SplitHeads(gates, choice.config.static_sparsity);
  choice.heads_line = fmt::format(
      "{} of {} KV heads stream (pattern {}, static sparsity {}), {:.1f} % of the gate mass lost",
      choice.heads.streaming, choice.heads.total, gates.source, choice.config.static_sparsity,
      100 * choice.heads.lost_gate_mass);
  return choice;
}

}  // namespace lserve
