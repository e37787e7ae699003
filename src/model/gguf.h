// Reads the structure of a GGUF file, versions 2 and 3 (format: the GGUF specification of the ggml
// project). Every number in the file is taken as hostile: nothing is read before its bounds are
// checked, sizes are multiplied with overflow checks, and no count makes an allocation that the
// file's own bytes do not pay for. Errors name the file and the key or tensor. Stateless, any
// thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/status.h"
#include "core/tensor.h"

namespace lserve {

enum class GgufType : uint32_t {
  kUint8,
  kInt8,
  kUint16,
  kInt16,
  kUint32,
  kInt32,
  kFloat32,
  kBool,
  kString,
  kArray,
  kUint64,
  kInt64,
  kFloat64
};

// One value or array of the metadata, still in the file's bytes, whose bounds are checked. The
// getters give nothing if the value has another type.
struct GgufValue {
  GgufType type = GgufType::kUint8;  // of the elements, if `array`
  bool array = false;
  uint64_t count = 1;  // elements
  std::span<const std::byte> bytes;

  std::optional<int64_t> Integer() const;  // any integer type, if the value fits
  std::optional<double> Real() const;      // any float or integer type
  std::optional<bool> Bool() const;
  std::optional<std::string> String() const;
  std::optional<std::vector<int64_t>> Integers() const;
  std::optional<std::vector<float>> Reals() const;
  std::optional<std::vector<std::string>> Strings() const;
};

// Values and tensors are views into the bytes that were parsed.
struct GgufFile {
  uint32_t version = 0;
  std::map<std::string, GgufValue, std::less<>> metadata;
  std::vector<TensorView> tensors;  // by name as stored; interleaved_heads not yet set

  const GgufValue* Find(std::string_view key) const {
    const auto found = metadata.find(key);
    return found == metadata.end() ? nullptr : &found->second;
  }
};

// `path` only names the file in errors.
Result<GgufFile> ParseGguf(std::span<const std::byte> bytes, const std::string& path);

}  // namespace lserve
