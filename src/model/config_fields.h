// Reads and range-checks the fields of a model's configuration, from GGUF metadata or from JSON,
// for config_gguf.cc and config_hf.cc. The first error sticks and later reads give their default,
// so that a reader can be written as a list of fields.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/status.h"
#include "model/config.h"

namespace lserve {

class ConfigFields {
 public:
  explicit ConfigFields(std::string file) : file_(std::move(file)) {}
  virtual ~ConfigFields() = default;

  const Status& status() const { return status_; }
  void Fail(Status status) {
    if (status_.ok()) status_ = std::move(status);
  }

  virtual bool Has(const std::string& name) const = 0;

  // The field's value; `fallback` if the field is absent (or null); an error if it is absent and
  // there is none, has another type, or lies outside [min, max].
  int Integer(const std::string& name, int64_t min, int64_t max,
              std::optional<int64_t> fallback = {});
  double Real(const std::string& name, double min, double max, std::optional<double> fallback = {});
  bool Bool(const std::string& name, bool fallback);
  std::string String(const std::string& name, const std::string& fallback);

 protected:
  // nullopt: the field has another type.
  virtual std::optional<int64_t> GetInteger(const std::string& name) const = 0;
  virtual std::optional<double> GetReal(const std::string& name) const = 0;
  virtual std::optional<bool> GetBool(const std::string& name) const = 0;
  virtual std::optional<std::string> GetString(const std::string& name) const = 0;
  const std::string& file() const { return file_; }

 private:
  void WrongType(const std::string& name, std::string_view wanted);

  std::string file_;
  Status status_;
};

// Limits that both kinds of files are held to.
inline constexpr int64_t kMaxLayers = 1024, kMaxHidden = 1 << 17, kMaxIntermediate = 1 << 20,
                         kMaxVocab = 1 << 22, kMaxHeads = 1024, kMaxHeadDim = 512,
                         kMaxPosition = 1 << 30;
inline constexpr double kMaxTheta = 1e15, kMaxRopeFactor = 1e5;

// What both kinds of files leave to do: the longest context with rope scaling, and the rules
// between fields. `file` names the file in errors.
Status FinishConfig(const std::string& file, ModelConfig* config);

}  // namespace lserve
