#include "cli/hub.h"

#include <algorithm>
#include <cctype>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

namespace lserve {
namespace {

using nlohmann::json;

// In the order of download.
constexpr const char* kConfigurationFiles[] = {"generation_config.json",
                                               "special_tokens_map.json",
                                               "chat_template.jinja",
                                               "chat_template.json",
                                               "tokenizer_config.json",
                                               "tokenizer.json",
                                               kShardIndex,
                                               "config.json"};

bool IsName(std::string_view text) {
  return !text.empty() && text.size() <= 96 && text[0] != '.' && text[0] != '-' &&
         std::all_of(text.begin(), text.end(), [](unsigned char c) {
           return std::isalnum(c) || c == '-' || c == '_' || c == '.';
         });
}

bool IsHex(std::string_view text, size_t length) {
  return text.size() == length && std::all_of(text.begin(), text.end(), [](unsigned char c) {
           return std::isdigit(c) || (c >= 'a' && c <= 'f');
         });
}

// No way out of a folder that the path is joined to.
bool IsSafePath(std::string_view path) {
  if (path.empty() || path.size() > 1024) return false;
  for (unsigned char c : path) {
    if (c < ' ' || c == 127 || c == '\\') return false;
  }
  for (;;) {
    size_t slash = path.find('/');
    std::string_view part = path.substr(0, slash);
    if (part.empty() || part == "." || part == "..") return false;
    if (slash == std::string_view::npos) return true;
    path.remove_prefix(slash + 1);
  }
}

bool EndsWith(std::string_view text, std::string_view end) {
  return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

const HubFile* Find(const HubModel& model, std::string_view name) {
  for (const HubFile& file : model.files) {
    if (file.name == name) return &file;
  }
  return nullptr;
}

std::string Ggufs(const HubModel& model) {
  std::string names;
  for (const HubFile& file : model.files) {
    if (EndsWith(file.name, ".gguf")) names += (names.empty() ? "" : ", ") + file.name;
  }
  return names;
}

std::optional<std::string> StringField(const json& object, const char* key) {
  auto field = object.find(key);
  if (field == object.end() || !field->is_string()) return std::nullopt;
  return field->get<std::string>();
}

Result<HubFile> ParseFile(const json& entry, const std::string& source) {
  if (!entry.is_object()) return DataLoss("{}: an entry of 'siblings' is no object", source);
  HubFile file;
  std::optional<std::string> name = StringField(entry, "rfilename");
  if (!name) return DataLoss("{}: an entry of 'siblings' has no 'rfilename'", source);
  file.name = *name;
  if (!IsSafePath(file.name)) {
    return InvalidArgument("{}: file name {} would leave the model's folder", source,
                           json(file.name).dump(-1, ' ', true, json::error_handler_t::replace));
  }
  auto size = entry.find("size");
  if (size == entry.end() || !size->is_number_unsigned() || size->get<uint64_t>() > (1ull << 50)) {
    return DataLoss("{}: {} has no valid 'size'", source, file.name);
  }
  file.size = size->get<int64_t>();
  auto lfs = entry.find("lfs");
  bool large = lfs != entry.end() && lfs->is_object();
  std::optional<std::string> checksum =
      large ? StringField(*lfs, "sha256") : StringField(entry, "blobId");
  file.kind = large ? Checksum::Kind::kSha256 : Checksum::Kind::kGitBlob;
  if (!checksum || !IsHex(*checksum, large ? 64 : 40)) {
    return DataLoss("{}: {} has no valid checksum", source, file.name);
  }
  file.checksum = *checksum;
  return file;
}

}  // namespace

std::string HubName::FolderName() const {
  std::string folder = organisation + "--" + name;
  if (revision == "main") return folder;
  folder += '@';
  for (char c : revision) folder += c == '/' ? "--" : std::string(1, c);
  return folder;
}

Result<HubName> ParseHubName(std::string_view text) {
  HubName name;
  size_t at = text.find('@');
  name.revision = at == std::string_view::npos ? "main" : text.substr(at + 1);
  std::string_view repository = text.substr(0, at);
  size_t slash = std::min(repository.find('/'), repository.size());
  name.organisation = repository.substr(0, slash);
  if (slash < repository.size()) name.name = repository.substr(slash + 1);
  if (!IsName(name.organisation) || !IsName(name.name)) {
    return InvalidArgument("'{}': a model is written ORG/NAME or ORG/NAME@REVISION", text);
  }
  if (!IsSafePath(name.revision)) return InvalidArgument("'{}': not a valid revision", text);
  return name;
}

Result<HubModel> ParseModelInfo(const std::string& text, const std::string& source) {
  json info = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!info.is_object()) return DataLoss("{}: the answer is no JSON object", source);
  HubModel model;
  std::optional<std::string> commit = StringField(info, "sha");
  if (!commit || !IsHex(*commit, 40)) return DataLoss("{}: no commit in 'sha'", source);
  model.commit = *commit;
  auto siblings = info.find("siblings");
  if (siblings == info.end() || !siblings->is_array()) {
    return DataLoss("{}: no list of files in 'siblings'", source);
  }
  for (const json& entry : *siblings) {
    Result<HubFile> file = ParseFile(entry, source);
    if (!file.ok()) return file.status();
    model.files.push_back(std::move(*file));
  }
  return model;
}

Result<HubFile> ChooseGguf(const HubModel& model, const std::string& name) {
  if (!EndsWith(name, ".gguf")) return InvalidArgument("--file {}: not a .gguf", name);
  for (const HubFile& file : model.files) {
    if (file.name == name || EndsWith(file.name, "/" + name)) return file;
  }
  std::string others = Ggufs(model);
  return NotFound("no file {} in this model; its GGUF files: {}", name,
                  others.empty() ? "none" : others);
}

Result<std::vector<HubFile>> ChooseConfiguration(const HubModel& model) {
  for (const char* needed : {"config.json", "tokenizer.json"}) {
    if (Find(model, needed)) continue;
    std::string ggufs = Ggufs(model);
    if (!ggufs.empty())
      return NotFound("this model comes as GGUF: choose one with --file: {}", ggufs);
    return NotFound("this model has no {}", needed);
  }
  std::vector<HubFile> chosen;
  for (const char* name : kConfigurationFiles) {
    if (const HubFile* file = Find(model, name)) chosen.push_back(*file);
  }
  return chosen;
}

Result<std::vector<HubFile>> ChooseWeights(const HubModel& model, const std::string& index_json) {
  std::set<std::string> names;
  if (!index_json.empty()) {
    json index = json::parse(index_json, nullptr, /*allow_exceptions=*/false);
    auto map = index.is_object() ? index.find("weight_map") : index.end();
    if (!index.is_object() || map == index.end() || !map->is_object()) {
      return DataLoss("{}: no 'weight_map'", kShardIndex);
    }
    for (const json& file : *map) {
      if (!file.is_string()) return DataLoss("{}: 'weight_map' holds no file names", kShardIndex);
      names.insert(file.get<std::string>());
    }
  } else if (Find(model, "model.safetensors")) {
    names.insert("model.safetensors");
  } else {
    for (const HubFile& file : model.files) {
      if (EndsWith(file.name, ".safetensors") && file.name.find('/') == std::string::npos) {
        names.insert(file.name);
      }
    }
  }
  if (names.empty()) return NotFound("this model has no safetensors files");
  std::vector<HubFile> chosen;
  for (const std::string& name : names) {
    const HubFile* file = Find(model, name);
    if (!file) return NotFound("{}, which {} names, is not in this model", name, kShardIndex);
    chosen.push_back(*file);
  }
  return chosen;
}

}  // namespace lserve
