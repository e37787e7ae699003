// What the Hugging Face Hub says about a model, and which of its files lserve needs. Pure
// functions: the network is pull.cc's. Everything in the hub's answer is taken as hostile.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "cli/checksum.h"
#include "core/status.h"

namespace lserve {

struct HubFile {
  std::string name;  // path inside the repository, '/' between folders; safe to join to a folder
  int64_t size = 0;  // bytes
  Checksum::Kind kind = Checksum::Kind::kSha256;
  std::string checksum;
};

struct HubModel {
  std::string commit;
  std::vector<HubFile> files;
};

// ORG/NAME[@REVISION]
struct HubName {
  std::string organisation, name, revision;  // revision "main" if none was given

  std::string Repository() const { return organisation + "/" + name; }
  // ORG--NAME, and @REVISION if it is not main, '/' written as "--".
  std::string FolderName() const;
};
Result<HubName> ParseHubName(std::string_view text);

// Parses the answer to /api/models/ORG/NAME/revision/REVISION?blobs=true; `source` is for messages.
Result<HubModel> ParseModelInfo(const std::string& json, const std::string& source);

// The .gguf called `file` (with or without its folder).
Result<HubFile> ChooseGguf(const HubModel& model, const std::string& file);
// Configuration, tokenizer and the index of the shards, config.json last. Not the weights.
Result<std::vector<HubFile>> ChooseConfiguration(const HubModel& model);
// The safetensors files: those that `index_json` (model.safetensors.index.json) names; if that is
// empty, the repository has no index and it is model.safetensors, else every *.safetensors.
Result<std::vector<HubFile>> ChooseWeights(const HubModel& model, const std::string& index_json);

inline constexpr char kShardIndex[] = "model.safetensors.index.json";

}  // namespace lserve
