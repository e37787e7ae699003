// The vocabulary of a BPE tokenizer: pieces of split text -> ids, and ids -> bytes. Built from a
// TokenizerSpec, which it does not keep. Immutable; each thread brings its own WordScratch.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/status.h"
#include "text/bpe.h"
#include "text/tokenizer.h"

namespace lserve::text {

// The ids of words seen lately. Direct mapped: a word takes the place of another one with its hash,
// so size and cost are fixed whatever the text. An entry fills a cache line.
class WordCache {
 public:
  static constexpr size_t kMaxBytes = 34, kMaxIds = 7;

  // Appends the ids and returns true if the word is there.
  bool Find(std::string_view word, uint64_t hash, std::vector<int32_t>* out) const;
  // REQUIRES: 0 < word.size() <= kMaxBytes. Does nothing if there are more than kMaxIds ids.
  void Put(std::string_view word, uint64_t hash, const int32_t* ids, size_t count);
  static uint64_t Hash(std::string_view word);

 private:
  static constexpr size_t kSlots = 1 << 15;
  struct alignas(64) Entry {
    std::array<int32_t, kMaxIds> ids;
    uint8_t bytes, count;
    std::array<char, kMaxBytes> word;
  };
  std::vector<Entry> entries_ = std::vector<Entry>(kSlots);
};

struct WordScratch {
  WordCache cache;
  BpeScratch bpe;
  std::vector<int32_t> ids;
};

class BpeModel {
 public:
  static Result<BpeModel> Create(const TokenizerSpec& spec);
  BpeModel(BpeModel&&) = default;  // no copies: ids_ points into pieces_

  // Appends the ids of a piece. REQUIRES: valid UTF-8.
  void Encode(std::string_view piece, WordScratch* scratch, std::vector<int32_t>* out) const;

  int vocab_size() const { return static_cast<int>(bytes_.size()); }
  // What the id stands for in decoded text; empty for an unused id.
  const std::string& Bytes(int32_t id) const { return bytes_[id]; }
  // The id of exactly this piece, in the model's alphabet, or -1.
  int32_t Find(std::string_view piece) const;

 private:
  BpeModel() : merges_(0) {}
  Status IndexVocabulary(const TokenizerSpec& spec);
  Status SetMerges(const TokenizerSpec& spec);
  Status MergesFromScores(const TokenizerSpec& spec);
  void FindSafeCut();
  void EncodeWord(std::string_view word, WordScratch* scratch, std::vector<int32_t>* out) const;
  void MergeWord(std::string_view word, WordScratch* scratch) const;
  void AddCharacters(std::string_view word, std::vector<int32_t>* ids) const;

  bool byte_level_ = true, ignore_merges_ = false, byte_fallback_ = false, fuse_unk_ = false;
  // No token reaches from another character over a U+2581 after it, so text may be cut there.
  bool cut_at_spaces_ = false;
  int32_t unk_ = -1;
  std::vector<std::string> pieces_;                    // id -> piece in the model's alphabet
  std::vector<std::string> bytes_;                     // id -> text
  std::vector<bool> unmergeable_;                      // id -> never the result of a merge
  std::unordered_map<std::string_view, int32_t> ids_;  // into pieces_
  std::unordered_map<char32_t, int32_t> characters_;
  std::array<int32_t, 256> byte_ids_{};
  MergeTable merges_;
};

}  // namespace lserve::text
