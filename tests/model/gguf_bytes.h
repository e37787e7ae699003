// Builds GGUF files byte by byte, right ones and wrong ones, for tests.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "model/gguf.h"

namespace lserve {

class GgufBytes {
 public:
  template <typename T>
  GgufBytes& Number(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof(value));
    return *this;
  }
  GgufBytes& Text(const std::string& text) {
    Number<uint64_t>(text.size());
    bytes_ += text;
    return *this;
  }
  GgufBytes& Header(uint64_t tensors, uint64_t keys, uint32_t version = 3) {
    bytes_ += "GGUF";
    return Number(version).Number(tensors).Number(keys);
  }
  GgufBytes& Key(const std::string& key, uint32_t value) {
    return Text(key).Number(static_cast<uint32_t>(GgufType::kUint32)).Number(value);
  }
  GgufBytes& Key(const std::string& key, float value) {
    return Text(key).Number(static_cast<uint32_t>(GgufType::kFloat32)).Number(value);
  }
  GgufBytes& Key(const std::string& key, const std::string& value) {
    return Text(key).Number(static_cast<uint32_t>(GgufType::kString)).Text(value);
  }
  GgufBytes& Tensor(const std::string& name, const std::vector<uint64_t>& shape, uint32_t type,
                    uint64_t offset) {
    Text(name).Number(static_cast<uint32_t>(shape.size()));
    for (const uint64_t extent : shape) Number(extent);
    return Number(type).Number(offset);
  }
  GgufBytes& Data(size_t bytes, size_t alignment = 32) {
    bytes_.resize((bytes_.size() + alignment - 1) / alignment * alignment + bytes);
    return *this;
  }

  const std::string& bytes() const { return bytes_; }
  Result<GgufFile> Parse() const {
    return ParseGguf(std::as_bytes(std::span(bytes_.data(), bytes_.size())), "test.gguf");
  }

 private:
  std::string bytes_;
};

}  // namespace lserve
