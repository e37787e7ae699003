#include "model/profile.h"

#include <filesystem>
#include <set>

#include "core/mapped_file.h"
#include "model/hf_json.h"
#include "sparse/planner.h"

namespace lserve {
namespace {

using nlohmann::json;

constexpr int kVersion = 1;
constexpr int64_t kMostInteger = 1 << 28;  // Planner::Check has the real bounds
constexpr size_t kMostText = 1 << 10, kMostRows = 1 << 12;

// Reads one profile's fields; the first error sticks.
class Reader {
 public:
  Reader(const json& object, const std::string& path) : object_(object), path_(path) {}
  const Status& status() const { return status_; }

  // The field, or null where it is absent or something was wrong before.
  const json* Find(const char* name) {
    known_.insert(name);
    const auto found = object_.find(name);
    return status_.ok() && found != object_.end() ? &*found : nullptr;
  }
  void Bad(const char* name, const std::string& what) {
    if (status_.ok()) status_ = InvalidArgument("{}: {}: {}", path_, name, what);
  }
  void Read(const char* name, std::string* out) {
    const json* value = Find(name);
    if (!value) return;
    if (!value->is_string() || value->get_ref<const std::string&>().size() > kMostText)
      return Bad(name, fmt::format("must be a text of at most {} bytes", kMostText));
    *out = value->get<std::string>();
  }
  void Read(const char* name, std::optional<int>* out) {
    const json* value = Find(name);
    if (!value) return;
    if (!value->is_number_integer()) return Bad(name, "must be an integer");
    const bool huge =
        value->is_number_unsigned() && value->get<uint64_t>() > uint64_t{kMostInteger};
    if (huge || value->get<int64_t>() < 0 || value->get<int64_t>() > kMostInteger)
      return Bad(name, fmt::format("{} (must be 0 to {})", value->dump(), kMostInteger));
    *out = value->get<int>();
  }
  void Read(const char* name, std::optional<double>* out) {
    const json* value = Find(name);
    if (!value) return;
    if (!value->is_number()) return Bad(name, "must be a number");
    *out = value->get<double>();
  }
  void Read(const char* name, std::optional<bool>* out) {
    const json* value = Find(name);
    if (!value) return;
    if (!value->is_boolean()) return Bad(name, "must be true or false");
    *out = value->get<bool>();
  }
  void Read(const char* name, std::optional<PageScore>* out) {
    const json* value = Find(name);
    if (!value) return;
    for (const PageScore score : kPageScores)
      if (*value == PageScoreName(score)) *out = score;
    if (!*out) Bad(name, "must be \"keys\", \"bounds\" or \"bounds8\"");
  }
  // A misspelt field would silently leave a default in force.
  void NothingElse() {
    for (const auto& [name, value] : object_.items())
      if (!known_.contains(name)) Bad(name.substr(0, 80).c_str(), "not a field of a profile");
  }

 private:
  const json& object_;
  const std::string& path_;
  std::set<std::string> known_;
  Status status_;
};

void ReadGates(const json& rows, Reader* r, HeadPattern* out) {
  const char* const name = "head_pattern";
  if (rows.empty() || rows.size() > kMostRows)
    return r->Bad(name, fmt::format("{} rows (one a layer; 1 to {})", rows.size(), kMostRows));
  for (const json& row : rows) {
    if (!row.is_array() || row.empty() || row.size() > kMostRows || row.size() != rows[0].size())
      return r->Bad(name, "every row must be a list with one gate a KV head, all of one length");
    for (const json& gate : row) {
      // Gates, unlike those of a table, are not clipped: who writes a profile knows them.
      if (!gate.is_number() || !(gate.get<double>() >= 0 && gate.get<double>() <= 1))
        return r->Bad(name, "every gate must be a number between 0 and 1");
      out->gates.push_back(gate.get<float>());
    }
  }
  out->layers = static_cast<int>(rows.size());
  out->kv_heads = static_cast<int>(rows[0].size());
}

}  // namespace

Result<Profile> LoadProfile(const std::string& path) {
  Result<std::string> text = ReadFile(path, size_t{16} << 20);
  if (!text.ok()) return text.status();
  return ParseProfile(*text, path);
}

Result<Profile> ParseProfile(std::string_view text, const std::string& path) {
  Result<json> parsed = ParseJsonObject(text, path, 16);
  if (!parsed.ok()) return parsed.status();
  Reader r(*parsed, path);
  const json* version = r.Find("lserve_profile");
  if (!version || *version != kVersion)
    return InvalidArgument("{}: lserve_profile: must be {}, the version of profiles read here",
                           path, kVersion);
  Profile profile;
  profile.path = path;
  r.Read("fingerprint", &profile.fingerprint);
  if (r.status().ok() && profile.fingerprint.empty())
    r.Bad("fingerprint", "is missing (lserve inspect MODEL prints it)");
  r.Read("model", &profile.model);
  ForEachSetting(
      [&](const char* name, auto given, auto) { r.Read(name, &(profile.settings.*given)); });
  if (const json* provenance = r.Find("provenance")) profile.provenance = provenance->dump(1);
  if (const json* pattern = r.Find("head_pattern"); pattern && pattern->is_array()) {
    profile.gates.emplace();
    profile.gates->source = path;
    ReadGates(*pattern, &r, &*profile.gates);
  } else if (pattern) {
    r.Read("head_pattern", &profile.head_pattern);
    const std::string& name = profile.head_pattern;
    if (name.empty() || name[0] == '.' || name.find_first_of(std::string("/\0", 2)) != name.npos)
      r.Bad("head_pattern", "must name a file in the profile's folder, or be \"none\" or gates");
  }
  r.NothingElse();
  if (!r.status().ok()) return r.status();
  SparsityConfig config;
  Apply(profile.settings, &config);
  if (Status s = Planner::Check(config); !s.ok()) return s.Annotate(path);
  if (!profile.head_pattern.empty() && profile.head_pattern != "none") {
    Result<HeadPattern> pattern =
        LoadHeadPattern((std::filesystem::path(path).parent_path() / profile.head_pattern));
    if (!pattern.ok()) return pattern.status().Annotate(path + ": head_pattern");
    profile.gates = std::move(*pattern);
  }
  return profile;
}

std::string ProfileText(const Profile& profile) {
  nlohmann::ordered_json out = {{"lserve_profile", kVersion}, {"fingerprint", profile.fingerprint}};
  if (!profile.model.empty()) out["model"] = profile.model;
  if (!profile.head_pattern.empty()) {
    out["head_pattern"] = profile.head_pattern;
  } else if (profile.gates) {
    out["head_pattern"] = json::array();
    const auto width = static_cast<std::ptrdiff_t>(profile.gates->kv_heads);
    for (auto row = profile.gates->gates.begin(); row != profile.gates->gates.end(); row += width)
      out["head_pattern"].push_back(std::vector<float>(row, row + width));
  }
  ForEachSetting([&](const char* name, auto given, auto) {
    const auto& value = profile.settings.*given;
    if (!value) return;
    if constexpr (std::is_same_v<std::decay_t<decltype(*value)>, PageScore>)
      out[name] = PageScoreName(*value);
    else
      out[name] = *value;
  });
  if (!profile.provenance.empty())
    out["provenance"] = nlohmann::ordered_json::parse(profile.provenance);
  return out.dump(1) + "\n";
}

}  // namespace lserve
