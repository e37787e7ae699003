// The keys that open the API. Only their SHA-256 is kept, and comparing takes the same time
// whatever is wrong with a key. Immutable; any thread.
#pragma once

#include <array>
#include <string>
#include <string_view>
#include <vector>

namespace lserve {

class ApiKeys {
 public:
  explicit ApiKeys(const std::vector<std::string>& keys);

  bool empty() const { return hashes_.empty(); }
  // `authorization`: the header's value, "Bearer KEY".
  bool Allows(std::string_view authorization) const;

 private:
  using Hash = std::array<unsigned char, 32>;
  static Hash HashOf(std::string_view key);
  std::vector<Hash> hashes_;
};

}  // namespace lserve
