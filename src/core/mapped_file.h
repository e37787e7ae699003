// A whole file mapped read-only. Kept alive by whoever keeps views into it.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "core/status.h"

namespace lserve {

class MappedFile {
 public:
  // Errors name the path. An empty file maps to an empty span.
  static Result<std::shared_ptr<const MappedFile>> Open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::string& path() const { return path_; }
  // Gives the physical memory of `range` back; reading it again reads the file again.
  void Release(std::span<const std::byte> range) const;

 private:
  MappedFile(std::string path, const std::byte* data, size_t size)
      : path_(std::move(path)), data_(data), size_(size) {}
  std::string path_;
  const std::byte* data_;
  size_t size_;
};

// The file's text, at most `limit` bytes. Errors name the path.
Result<std::string> ReadFile(const std::string& path, size_t limit = size_t{1} << 30);

}  // namespace lserve
