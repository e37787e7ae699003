#include "model/fingerprint.h"

#include <openssl/sha.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/data_dir.h"
#include "quant/block_formats.h"

namespace lserve {
namespace {

std::string Shape(const ModelConfig& c) {
  return fmt::format("{}-{}x{}-{}q{}kv{}d-v{}", ArchitectureName(c.arch), c.layers, c.hidden,
                     c.q_heads, c.kv_heads, c.head_dim, c.vocab);
}

std::string Lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

}  // namespace

std::string Fingerprint(const ModelFiles& files) {
  const TensorView* norm = files.Find("output_norm.weight");
  CHECK(norm != nullptr);
  std::vector<float> values(static_cast<size_t>(norm->rows * norm->cols));
  DequantizeRow(norm->dtype, norm->data, norm->rows * norm->cols, values.data());
  std::string bytes;
  for (float v : values) {
    const uint16_t bits = ToBf16(v);
    bytes.push_back(static_cast<char>(bits & 255));
    bytes.push_back(static_cast<char>(bits >> 8));
  }
  unsigned char digest[SHA256_DIGEST_LENGTH];
  SHA256(reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size(), digest);
  std::string hex;
  for (int i = 0; i < 8; ++i) hex += fmt::format("{:02x}", digest[i]);
  return Shape(files.config) + "-" + hex;
}

Result<std::optional<KnownModel>> FindKnownModel(const ModelFiles& files) {
  const std::string folder = DataDir() + "/", index_path = folder + "head_patterns/index.json";
  Result<std::string> text = ReadFile(index_path, 1 << 20);
  if (!text.ok()) {
    if (text.status().code() == Code::kNotFound) return std::optional<KnownModel>();
    return text.status();
  }
  const nlohmann::json index = nlohmann::json::parse(*text, nullptr, false);
  if (!index.is_array()) return DataLoss("{}: not a JSON array", index_path);
  const std::string fingerprint = Fingerprint(files),
                    name = Lower(files.config.name + " " + files.path);
  for (const nlohmann::json& entry : index) {
    const auto text_of = [&](const char* key) {
      const auto found = entry.find(key);
      return found != entry.end() && found->is_string() ? found->get<std::string>() : "";
    };
    if (!entry.is_object() || !entry.contains("file") || !entry["file"].is_string())
      return DataLoss("{}: an entry without \"file\"", index_path);
    const bool exact = text_of("fingerprint") == fingerprint;
    const bool named = text_of("shape") == fingerprint.substr(0, fingerprint.rfind('-')) &&
                       entry.contains("name") &&
                       name.find(Lower(text_of("name"))) != std::string::npos;
    if (!exact && !named) continue;
    KnownModel known{folder + text_of("file"), {}};
    if (const std::string profile = text_of("profile"); exact && !profile.empty())
      known.profile = folder + profile;
    return std::optional(std::move(known));
  }
  return std::optional<KnownModel>();
}

}  // namespace lserve
