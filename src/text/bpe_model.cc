#include "text/bpe_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "text/byte_alphabet.h"
#include "text/utf8.h"

namespace lserve::text {
namespace {

constexpr std::string_view kSpace = "\xe2\x96\x81";  // U+2581, SentencePiece's space
constexpr size_t kMaxVocab = 1'000'000;
constexpr size_t kMaxMerges = 4'000'000;
constexpr size_t kMaxVocabBytes = 64 << 20;

std::string SpacesBack(std::string_view piece) {
  std::string out;
  for (size_t pos = 0; pos < piece.size();) {
    if (piece.substr(pos).starts_with(kSpace)) {
      out += ' ';
      pos += kSpace.size();
    } else {
      out += piece[pos++];
    }
  }
  return out;
}

// The byte of "<0xNN>", or -1.
int BytePiece(std::string_view piece) {
  if (piece.size() != 6 || !piece.starts_with("<0x") || piece[5] != '>') return -1;
  int value = 0;
  for (const char c : piece.substr(3, 2)) {
    if (c >= '0' && c <= '9') {
      value = value * 16 + (c - '0');
    } else if (c >= 'A' && c <= 'F') {
      value = value * 16 + (c - 'A' + 10);
    } else {
      return -1;
    }
  }
  return value;
}

bool IsOneCharacter(std::string_view piece) {
  return !piece.empty() && static_cast<size_t>(DecodeUtf8(piece, 0).length) == piece.size();
}

}  // namespace

uint64_t WordCache::Hash(std::string_view word) {
  uint64_t hash = word.size() * 0x9e3779b97f4a7c15u;
  for (size_t i = 0; i < word.size(); i += 8) {
    uint64_t chunk = 0;
    std::memcpy(&chunk, word.data() + i, std::min<size_t>(8, word.size() - i));
    hash = (hash ^ chunk) * 0xff51afd7ed558ccdu;
    hash ^= hash >> 32;
  }
  return hash;
}

bool WordCache::Find(std::string_view word, uint64_t hash, std::vector<int32_t>* out) const {
  const Entry& entry = entries_[hash % kSlots];
  if (entry.bytes != word.size() || std::memcmp(entry.word.data(), word.data(), word.size()) != 0) {
    return false;
  }
  out->insert(out->end(), entry.ids.begin(), entry.ids.begin() + entry.count);
  return true;
}

void WordCache::Put(std::string_view word, uint64_t hash, const int32_t* ids, size_t count) {
  if (count > kMaxIds) return;
  Entry& entry = entries_[hash % kSlots];
  entry.bytes = static_cast<uint8_t>(word.size());
  entry.count = static_cast<uint8_t>(count);
  std::copy(word.begin(), word.end(), entry.word.begin());
  std::copy(ids, ids + count, entry.ids.begin());
}

Result<BpeModel> BpeModel::Create(const TokenizerSpec& spec) {
  BpeModel model;
  model.byte_level_ = spec.model == TokenizerSpec::Model::kByteLevelBpe;
  model.ignore_merges_ = spec.ignore_merges;
  model.byte_fallback_ = spec.byte_fallback;
  model.fuse_unk_ = spec.fuse_unk;
  model.unk_ = spec.unk;
  if (Status s = model.IndexVocabulary(spec); !s.ok()) return s;
  const bool from_scores = spec.merges.empty() && !spec.scores.empty();
  if (Status s = from_scores ? model.MergesFromScores(spec) : model.SetMerges(spec); !s.ok()) {
    return s;
  }
  model.FindSafeCut();
  return model;
}

Status BpeModel::IndexVocabulary(const TokenizerSpec& spec) {
  if (spec.vocab.empty()) return InvalidArgument("vocab: is empty");
  if (spec.vocab.size() > kMaxVocab) {
    return ResourceExhausted("vocab: {} pieces, the limit is {}", spec.vocab.size(), kMaxVocab);
  }
  size_t total = 0;
  for (const std::string& piece : spec.vocab) total += piece.size();
  if (total > kMaxVocabBytes) {
    return ResourceExhausted("vocab: {} bytes of text, the limit is {}", total, kMaxVocabBytes);
  }
  pieces_ = spec.vocab;
  bytes_.resize(pieces_.size());
  unmergeable_.assign(pieces_.size(), false);
  byte_ids_.fill(-1);
  ids_.reserve(pieces_.size());
  for (size_t i = 0; i < pieces_.size(); ++i) {
    const std::string& piece = pieces_[i];
    if (piece.empty()) continue;
    const auto id = static_cast<int32_t>(i);
    const bool first =
        ids_.emplace(piece, id).second;  // GGUF files repeat pieces: the first counts
    if (byte_level_) {
      bytes_[i] = FromByteAlphabet(piece);
      if (first && IsOneCharacter(piece) && bytes_[i].size() == 1) {
        byte_ids_[static_cast<uint8_t>(bytes_[i][0])] = id;
      }
    } else if (const int byte = BytePiece(piece); byte >= 0 && byte_fallback_) {
      bytes_[i] = static_cast<char>(byte);
      if (first) byte_ids_[byte] = id;
    } else {
      bytes_[i] = SpacesBack(piece);
      if (first && IsOneCharacter(piece)) characters_.emplace(DecodeUtf8(piece, 0).code, id);
    }
  }
  const auto bar = [&](int32_t id, const char* field) -> Status {
    if (id < 0 || static_cast<size_t>(id) >= pieces_.size()) {
      return InvalidArgument("{}: id {} is outside the vocabulary of {}", field, id,
                             pieces_.size());
    }
    // A special token that is a single character is also just that character.
    if (!IsOneCharacter(pieces_[id])) unmergeable_[id] = true;
    return Ok();
  };
  for (const int32_t id : spec.unmergeable) {
    if (Status s = bar(id, "unmergeable"); !s.ok()) return s;
  }
  for (const TokenizerSpec::AddedToken& token : spec.added) {
    if (!token.special || token.id < 0 || static_cast<size_t>(token.id) >= pieces_.size()) continue;
    if (Status s = bar(token.id, "added_tokens"); !s.ok()) return s;
  }
  if (unk_ >= vocab_size())
    return InvalidArgument("unk_token: id {} is not in the vocabulary", unk_);
  return Ok();
}

Status BpeModel::SetMerges(const TokenizerSpec& spec) {
  if (spec.merges.size() > kMaxMerges) {
    return ResourceExhausted("merges: {}, the limit is {}", spec.merges.size(), kMaxMerges);
  }
  merges_ = MergeTable(spec.merges.size());
  for (size_t rank = 0; rank < spec.merges.size(); ++rank) {
    const auto& [left, right] = spec.merges[rank];
    const int32_t l = Find(left), r = Find(right), merged = Find(left + right);
    if (l < 0 || r < 0 || merged < 0) {
      return InvalidArgument("merges[{}]: \"{}\" is not in the vocabulary", rank,
                             l < 0   ? left
                             : r < 0 ? right
                                     : left + right);
    }
    if (!unmergeable_[merged]) merges_.Set(l, r, {static_cast<uint32_t>(rank), merged});
  }
  return Ok();
}

// As SentencePiece merges: any two pieces whose concatenation is a piece, the best score first.
Status BpeModel::MergesFromScores(const TokenizerSpec& spec) {
  constexpr size_t kMaxPiece = 512;  // every way to cut a piece in two is tried
  if (spec.scores.size() != pieces_.size()) {
    return InvalidArgument("scores: {} for a vocabulary of {}", spec.scores.size(), pieces_.size());
  }
  std::vector<int32_t> order;
  for (size_t i = 0; i < pieces_.size(); ++i) {
    const std::string& piece = pieces_[i];
    if (piece.empty() || unmergeable_[i] || IsOneCharacter(piece) ||
        Find(piece) != static_cast<int32_t>(i)) {
      continue;
    }
    if (!(spec.scores[i] == spec.scores[i])) return InvalidArgument("scores[{}]: not a number", i);
    if (piece.size() > kMaxPiece) {
      return Unsupported("vocab[{}]: a piece of {} bytes with a score, the limit is {}", i,
                         piece.size(), kMaxPiece);
    }
    order.push_back(static_cast<int32_t>(i));
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return spec.scores[a] > spec.scores[b]; });
  struct Pair {
    int32_t left, right;
    MergeTable::Merge merge;
  };
  std::vector<Pair> pairs;
  uint32_t rank = 0;  // pieces of equal score share one
  for (size_t k = 0; k < order.size(); ++k) {
    if (k > 0 && spec.scores[order[k]] != spec.scores[order[k - 1]]) ++rank;
    const std::string_view piece = pieces_[order[k]];
    for (size_t cut = DecodeUtf8(piece, 0).length; cut < piece.size();
         cut += DecodeUtf8(piece, cut).length) {
      const int32_t left = Find(piece.substr(0, cut)), right = Find(piece.substr(cut));
      if (left >= 0 && right >= 0) pairs.push_back({left, right, {rank, order[k]}});
    }
    if (pairs.size() > kMaxMerges)
      return ResourceExhausted("vocab: more than {} merges", kMaxMerges);
  }
  merges_ = MergeTable(pairs.size());
  for (const Pair& pair : pairs) merges_.Set(pair.left, pair.right, pair.merge);
  return Ok();
}

void BpeModel::FindSafeCut() {
  // Nor may the space become a part of a run of unknown characters, or the whole piece be a token.
  if (byte_level_ || ignore_merges_ || !characters_.contains(0x2581)) return;
  cut_at_spaces_ = true;
  merges_.ForEach([&](int32_t left, int32_t right, MergeTable::Merge) {
    const std::string_view l = pieces_[left], r = pieces_[right];
    if (!l.ends_with(kSpace) && r.starts_with(kSpace)) cut_at_spaces_ = false;
  });
}

int32_t BpeModel::Find(std::string_view piece) const {
  const auto found = ids_.find(piece);
  return found == ids_.end() ? -1 : found->second;
}

void BpeModel::Encode(std::string_view piece, WordScratch* scratch,
                      std::vector<int32_t>* out) const {
  if (!cut_at_spaces_) return EncodeWord(piece, scratch, out);
  size_t begin = 0;
  while (begin < piece.size()) {
    size_t end = begin;
    while (piece.substr(end).starts_with(kSpace)) end += kSpace.size();
    end = std::min(piece.size(), piece.find(kSpace, end));
    EncodeWord(piece.substr(begin, end - begin), scratch, out);
    begin = end;
  }
}

void BpeModel::EncodeWord(std::string_view word, WordScratch* scratch,
                          std::vector<int32_t>* out) const {
  if (word.empty()) return;
  const bool cached = word.size() <= WordCache::kMaxBytes;
  const uint64_t hash = cached ? WordCache::Hash(word) : 0;
  if (cached && scratch->cache.Find(word, hash, out)) return;
  MergeWord(word, scratch);
  const std::vector<int32_t>& ids = scratch->ids;
  out->insert(out->end(), ids.begin(), ids.end());
  if (cached) scratch->cache.Put(word, hash, ids.data(), ids.size());
}

void BpeModel::MergeWord(std::string_view word, WordScratch* scratch) const {
  scratch->ids.clear();
  if (ignore_merges_) {
    const int32_t id = byte_level_ ? Find(ToByteAlphabet(word)) : Find(word);
    if (id >= 0 && !unmergeable_[id]) {
      scratch->ids.push_back(id);
      return;
    }
  }
  AddCharacters(word, &scratch->ids);
  scratch->bpe.Merge(merges_, &scratch->ids);
}

void BpeModel::AddCharacters(std::string_view word, std::vector<int32_t>* ids) const {
  bool after_unk = false;
  const auto add_unk = [&] {
    if (unk_ >= 0 && !(fuse_unk_ && after_unk)) ids->push_back(unk_);
    after_unk = true;
  };
  if (byte_level_) {
    for (const char c : word) {
      const int32_t id = byte_ids_[static_cast<uint8_t>(c)];
      if (id >= 0) {
        ids->push_back(id);
        after_unk = false;
      } else {
        add_unk();
      }
    }
    return;
  }
  for (size_t pos = 0; pos < word.size();) {
    const Utf8Char c = DecodeUtf8(word, pos);
    const std::string_view bytes = word.substr(pos, c.length);
    pos += c.length;
    const auto is_known = [&](char b) { return byte_ids_[static_cast<uint8_t>(b)] >= 0; };
    if (const auto found = characters_.find(c.code); found != characters_.end()) {
      ids->push_back(found->second);
      after_unk = false;
    } else if (byte_fallback_ && std::all_of(bytes.begin(), bytes.end(), is_known)) {
      for (const char b : bytes) ids->push_back(byte_ids_[static_cast<uint8_t>(b)]);
      after_unk = false;
    } else {
      add_unk();
    }
  }
}

}  // namespace lserve::text
