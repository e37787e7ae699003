#include "text/tokenizer.h"

#include <algorithm>
#include <mutex>
#include <unordered_map>

#include "text/added_tokens.h"
#include "text/bpe_model.h"
#include "text/tokenizer_normalizer.h"
#include "text/tokenizer_splitter.h"
#include "text/utf8.h"

namespace lserve {
namespace {

// What one Encode works with.
struct Scratch {
  text::RegexScratch regex;
  text::WordScratch word;
};

class BpeTokenizer final : public Tokenizer {
 public:
  BpeTokenizer(TokenizerSpec spec, text::BpeModel model, text::Normalizer normalizer,
               text::Splitter splitter)
      : spec_(std::move(spec)),
        model_(std::move(model)),
        normalizer_(std::move(normalizer)),
        splitter_(std::move(splitter)) {}

  Status AddTokens();

  std::vector<int32_t> Encode(std::string_view text, bool add_special,
                              bool parse_special) const override;
  std::string TokenBytes(int32_t id, bool special) const override;
  std::string Decode(const std::vector<int32_t>& ids, bool special) const override;
  int vocab_size() const override { return vocab_size_; }
  int32_t bos() const override { return spec_.bos; }
  int32_t eos() const override { return spec_.eos; }
  bool is_special(int32_t id) const override {
    const TokenizerSpec::AddedToken* token = Added(id);
    return token && token->special;
  }
  bool strips_leading_space() const override { return spec_.strip_leading_space; }
  int32_t Find(std::string_view piece) const override;

 private:
  const TokenizerSpec::AddedToken* Added(int32_t id) const {
    const auto found = added_by_id_.find(id);
    return found == added_by_id_.end() ? nullptr : &spec_.added[found->second];
  }
  // Text without non-normalised added tokens; `at_start`: nothing stands before it.
  void EncodeText(std::string_view text, bool at_start, bool parse_special, Scratch* scratch,
                  std::vector<int32_t>* out) const;
  std::unique_ptr<Scratch> Borrow() const;
  void GiveBack(std::unique_ptr<Scratch> scratch) const;

  TokenizerSpec spec_;  // without vocabulary and merges, which model_ has
  text::BpeModel model_;
  text::Normalizer normalizer_;
  text::Splitter splitter_;
  text::AddedTokenMatcher raw_tokens_, normalized_tokens_;
  std::unordered_map<int32_t, size_t> added_by_id_;  // into spec_.added
  std::unordered_map<std::string_view, int32_t> added_by_text_;
  int vocab_size_ = 0;

  mutable std::mutex mutex_;  // guards idle_
  mutable std::vector<std::unique_ptr<Scratch>> idle_;
};

Status BpeTokenizer::AddTokens() {
  constexpr int32_t kMaxId = 2'000'000;
  vocab_size_ = model_.vocab_size();
  text::RegexScratch scratch;
  for (size_t i = 0; i < spec_.added.size(); ++i) {
    TokenizerSpec::AddedToken token = spec_.added[i];
    if (token.id < 0 || token.id > kMaxId) {
      return InvalidArgument("added_tokens: id {} of \"{}\" is outside 0..{}", token.id, token.text,
                             kMaxId);
    }
    vocab_size_ = std::max(vocab_size_, token.id + 1);
    added_by_id_[token.id] = i;
    added_by_text_[spec_.added[i].text] = token.id;
    if (!text::IsValidUtf8(token.text)) {
      return InvalidArgument("added_tokens: the text of id {} is not valid UTF-8", token.id);
    }
    const bool normalized = token.normalized && !normalizer_.empty();
    if (normalized) token.text = normalizer_.Apply(token.text, &scratch);
    Status added = (token.normalized ? normalized_tokens_ : raw_tokens_).Add(token);
    if (!added.ok()) return added;
  }
  const auto check = [&](int32_t id, const char* field) {
    return id < vocab_size_ ? Ok()
                            : InvalidArgument("{}: id {} is not in the vocabulary", field, id);
  };
  if (Status s = check(spec_.bos, "bos_token"); !s.ok()) return s;
  if (Status s = check(spec_.eos, "eos_token"); !s.ok()) return s;
  for (const std::vector<int32_t>* ids : {&spec_.prefix, &spec_.suffix}) {
    for (const int32_t id : *ids) {
      if (id < 0) return InvalidArgument("post_processor: negative id {}", id);
      if (Status s = check(id, "post_processor"); !s.ok()) return s;
    }
  }
  return Ok();
}

std::unique_ptr<Scratch> BpeTokenizer::Borrow() const {
  {
    std::lock_guard lock(mutex_);
    if (!idle_.empty()) {
      std::unique_ptr<Scratch> scratch = std::move(idle_.back());
      idle_.pop_back();
      return scratch;
    }
  }
  return std::make_unique<Scratch>();
}

void BpeTokenizer::GiveBack(std::unique_ptr<Scratch> scratch) const {
  constexpr size_t kMaxIdle = 8;
  std::lock_guard lock(mutex_);
  if (idle_.size() < kMaxIdle) idle_.push_back(std::move(scratch));
}

std::vector<int32_t> BpeTokenizer::Encode(std::string_view input, bool add_special,
                                          bool parse_special) const {
  std::vector<int32_t> out;
  if (add_special) out = spec_.prefix;
  std::string repaired;
  if (!text::IsValidUtf8(input)) {
    text::AppendValidUtf8(input, &repaired);
    input = repaired;
  }
  std::unique_ptr<Scratch> scratch = Borrow();
  raw_tokens_.Split(input, parse_special, [&](size_t begin, size_t end, int32_t id) {
    if (id >= 0) {
      out.push_back(id);
    } else {
      EncodeText(input.substr(begin, end - begin), begin == 0, parse_special, scratch.get(), &out);
    }
  });
  GiveBack(std::move(scratch));
  if (add_special) out.insert(out.end(), spec_.suffix.begin(), spec_.suffix.end());
  return out;
}

void BpeTokenizer::EncodeText(std::string_view text, bool at_start, bool parse_special,
                              Scratch* scratch, std::vector<int32_t>* out) const {
  std::string normal;
  if (!normalizer_.empty()) {
    normal = normalizer_.Apply(text, &scratch->regex);
    text = normal;
  }
  normalized_tokens_.Split(text, parse_special, [&](size_t begin, size_t end, int32_t id) {
    if (id >= 0) {
      out->push_back(id);
      return;
    }
    splitter_.Split(text.substr(begin, end - begin), at_start && begin == 0, &scratch->regex,
                    [&](std::string_view piece) { model_.Encode(piece, &scratch->word, out); });
  });
}

std::string BpeTokenizer::TokenBytes(int32_t id, bool special) const {
  if (const TokenizerSpec::AddedToken* token = Added(id)) {
    return token->special && !special ? std::string() : token->text;
  }
  if (id < 0 || id >= model_.vocab_size()) return {};
  return model_.Bytes(id);
}

std::string BpeTokenizer::Decode(const std::vector<int32_t>& ids, bool special) const {
  std::string out;
  StreamDecoder decoder(this, special);
  for (const int32_t id : ids) out += decoder.Push(id);
  out += decoder.Finish();
  return out;
}

int32_t BpeTokenizer::Find(std::string_view piece) const {
  if (const auto found = added_by_text_.find(piece); found != added_by_text_.end()) {
    return found->second;
  }
  return model_.Find(piece);
}

}  // namespace

Result<std::unique_ptr<Tokenizer>> Tokenizer::Create(TokenizerSpec spec) {
  Result<text::BpeModel> model = text::BpeModel::Create(spec);
  if (!model.ok()) return model.status();
  Result<text::Normalizer> normalizer = text::Normalizer::Create(spec.normalize);
  if (!normalizer.ok()) return normalizer.status();
  Result<text::Splitter> splitter = text::Splitter::Create(spec.split);
  if (!splitter.ok()) return splitter.status();
  spec.vocab = {};
  spec.merges = {};
  spec.scores = {};
  auto tokenizer = std::make_unique<BpeTokenizer>(std::move(spec), std::move(*model),
                                                  std::move(*normalizer), std::move(*splitter));
  if (Status s = tokenizer->AddTokens(); !s.ok()) return s;
  return std::unique_ptr<Tokenizer>(std::move(tokenizer));
}

}  // namespace lserve
