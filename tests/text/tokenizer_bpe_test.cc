// Byte-pair encoding on small vocabularies made by hand: order of merges, long words, the cache.
#include <gtest/gtest.h>

#include <chrono>
#include <map>
#include <random>
#include <string>
#include <thread>

#include "tests/text/tokenizer_specs.h"
#include "text/bpe.h"

namespace lserve {
namespace {

using Ids = std::vector<int32_t>;

// The definition: merge the best pair, leftmost first, until none is left.
Ids MergePlainly(const text::MergeTable& table, Ids ids) {
  while (true) {
    size_t best = ids.size();
    text::MergeTable::Merge merge;
    for (size_t i = 0; i + 1 < ids.size(); ++i) {
      const text::MergeTable::Merge found = table.Find(ids[i], ids[i + 1]);
      if (found.rank < merge.rank) {
        merge = found;
        best = i;
      }
    }
    if (best == ids.size()) return ids;
    ids[best] = merge.id;
    ids.erase(ids.begin() + best + 1);
  }
}

TEST(Bpe, ShortAndLongMergesFollowTheDefinition) {
  std::mt19937 random(1);
  // Pieces are strings over {a, b, c}; a third of all concatenations up to length 6 are merges.
  std::map<std::string, int32_t> ids = {{"a", 0}, {"b", 1}, {"c", 2}};
  text::MergeTable table(4000);
  std::vector<std::string> pieces = {"a", "b", "c"};
  for (uint32_t rank = 0; rank < 3000; ++rank) {
    const std::string left = pieces[random() % pieces.size()],
                      right = pieces[random() % pieces.size()];
    if (left.size() + right.size() > 6) continue;
    const auto [entry, added] = ids.emplace(left + right, static_cast<int32_t>(pieces.size()));
    if (added) pieces.push_back(left + right);
    table.Set(ids[left], ids[right], {static_cast<uint32_t>(random() % 500), entry->second});
  }
  text::BpeScratch scratch;
  for (int trial = 0; trial < 400; ++trial) {
    Ids word(1 + random() % (trial % 4 == 0 ? 400 : 70));
    for (int32_t& id : word) id = static_cast<int32_t>(random() % 3);
    Ids merged = word;
    scratch.Merge(table, &merged);
    EXPECT_EQ(merged, MergePlainly(table, word));
  }
}

TEST(Bpe, MergesByRankLeftmostFirst) {
  const auto tokenizer = ByteLevel({{"a", "b"}, {"b", "c"}, {"ab", "c"}, {"a", "a"}});
  const auto encode = [&](const char* text) { return tokenizer->Encode(text, false, true); };
  const int32_t ab = tokenizer->Find("ab"), bc = tokenizer->Find("bc"),
                abc = tokenizer->Find("abc");
  const int32_t aa = tokenizer->Find("aa"), a = tokenizer->Find("a");
  EXPECT_EQ(encode("abc"), Ids{abc});
  EXPECT_EQ(encode("bcab"), (Ids{bc, ab}));
  EXPECT_EQ(encode("aaa"), (Ids{aa, a}));
  EXPECT_EQ(encode("aab"), (Ids{a, ab}));
}

TEST(Bpe, IgnoreMergesTakesAWholePieceOfTheVocabulary) {
  TokenizerSpec spec = ByteLevelSpec({{"a", "b"}});
  spec.vocab.push_back("xyz");
  spec.vocab.push_back("\xc4\xa0xyz");  // " xyz"
  const auto plain = Make(spec);
  EXPECT_EQ(plain->Encode("xyz", false, true).size(), 3u);
  spec.ignore_merges = true;
  const auto whole = Make(spec);
  EXPECT_EQ(whole->Encode("xyz", false, true), Ids{whole->Find("xyz")});
  EXPECT_EQ(whole->Encode(" xyz", false, true), Ids{whole->Find("\xc4\xa0xyz")});
}

TEST(Bpe, BytesThatTheVocabularyLacksAreDroppedOrUnknown) {
  TokenizerSpec spec = ByteLevelSpec({{"a", "b"}});
  spec.vocab['z'] = "";
  EXPECT_EQ(Make(spec)->Encode("azb", false, true), Ids{Make(spec)->Find("ab")});
  spec.vocab.push_back("<unk>");
  spec.unk = static_cast<int32_t>(spec.vocab.size()) - 1;
  EXPECT_EQ(Make(spec)->Encode("azzb", false, true), (Ids{'a', spec.unk, spec.unk, 'b'}));
  spec.fuse_unk = true;
  EXPECT_EQ(Make(spec)->Encode("azzb", false, true), (Ids{'a', spec.unk, 'b'}));
}

TEST(Bpe, AMegabyteWordIsNotQuadratic) {
  const auto tokenizer = ByteLevel({{"a", "a"}, {"aa", "aa"}, {"aaaa", "aaaa"}});
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(tokenizer->Encode(std::string(1 << 20, 'a'), false, true).size(), (1u << 20) / 8);
  // Quadratic work would be 10^11 steps; the limit is far above what a sanitizer build takes.
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(60));
}

TEST(Bpe, ThreadsShareATokenizer) {
  const auto tokenizer = ByteLevel({{"a", "b"}, {"c", "d"}, {"ab", "cd"}});
  std::string text;
  for (int i = 0; i < 2000; ++i) text += i % 3 ? " abcd" : " dcab" + std::to_string(i);
  const Ids expected = tokenizer->Encode(text, false, true);
  std::vector<std::thread> threads;
  std::vector<int> wrong(4);
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 20; ++i) wrong[t] += tokenizer->Encode(text, false, true) != expected;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(4));
}

}  // namespace
}  // namespace lserve
