// Append of every backend against the codec's plain definition (KvCodec::Encode*), over all codecs,
// with sequences that interleave in a step and pages that start in the middle.
//
// What may differ: a backend may rotate in float, with or without fused multiplies, so q and k
// agree to 4 units in the last place of the pair's size, and a value within that of a rounding
// border may get another code. Its stored bytes are therefore compared with the codec applied to
// ITS OWN rotated k (Append leaves it in place): there nothing may differ at all.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "plan/hadamard.h"
#include "tests/cases/attn_cases.h"
#include "tests/cases/hadamard.h"
#include "tests/cases/scratch_kv.h"
#include "tests/kernels/test_util.h"

namespace lserve {
namespace {

using cases::FillNormal;
using cases::ScratchKv;
using testing::Matrix;
using testing::SameBits;
using testing::Shared;

struct AppendCase {
  KvType k, v;
  int dim, group, logical_tokens, statistics_bits;
};
void PrintTo(const AppendCase& c, std::ostream* out) {
  *out << KvCodec(c.k, c.v, c.dim).name() << " d" << c.dim << " g" << c.group << " logical "
       << c.logical_tokens << " statistics of " << c.statistics_bits;
}

// A sequence's tokens [begin, end).
struct Piece {
  int seq, begin, end;
};

const HeadMap kHeads({HeadClass::kRetrieval, HeadClass::kStreaming, HeadClass::kRetrieval});
constexpr int kSlots = 3, kMaxBlocks = 5;

// Deterministic inputs of a token, whatever call it is in.
struct Inputs {
  explicit Inputs(const AppendCase& c, const std::vector<Piece>& pieces) : kv_heads(3) {
    int tokens = 0;
    for (const Piece& p : pieces) tokens += p.end - p.begin;
    q = std::make_unique<Matrix>(tokens, kv_heads * c.group * c.dim, 3);
    k = std::make_unique<Matrix>(tokens, kv_heads * c.dim, 1);
    v = std::make_unique<Matrix>(tokens, kv_heads * c.dim, 2);
    rope = std::make_unique<Matrix>(tokens, c.dim);
    int row = 0;
    for (const Piece& p : pieces) {
      for (int pos = p.begin; pos < p.end; ++pos, ++row) {
        std::mt19937_64 random(static_cast<uint64_t>(p.seq * 1000 + pos));
        FillNormal(q->mat.Rows(row, 1), 1, &random);
        FillNormal(k->mat.Rows(row, 1), 1, &random);
        FillNormal(v->mat.Rows(row, 1), 1, &random);
        if (pos % 17 == 3) {  // all equal: a scale of zero
          std::fill_n(v->mat.Row(row), c.dim, 0.3f);
          std::fill_n(k->mat.Row(row), c.dim, 0.0f);
        }
        for (int i = 0; i < c.dim / 2; ++i) {
          const double angle = pos * std::pow(10000.0, -2.0 * i / c.dim);
          rope->mat.Row(row)[i] = static_cast<float>(std::cos(angle));
          rope->mat.Row(row)[c.dim / 2 + i] = static_cast<float>(std::sin(angle));
        }
        seq.push_back(p.seq);
        this->pos.push_back(pos);
      }
    }
  }
  AppendArgs Args(const KvView& view) const {
    return {q->mat, k->mat, v->mat, rope->mat, seq, pos, view};
  }
  int kv_heads;
  std::unique_ptr<Matrix> q, k, v, rope;
  std::vector<int32_t> seq, pos;
};

class AppendTest : public ::testing::TestWithParam<AppendCase> {
 protected:
  AppendTest() : codec_(GetParam().k, GetParam().v, GetParam().dim) {}
  Ops* Find(const char* backend, int threads = 2) {
    Ops& ops = Shared(backend, threads);
    return ops.SupportsKv(codec_, GetParam().group).ok() ? &ops : nullptr;
  }
  std::unique_ptr<ScratchKv> NewKv() {
    auto kv = std::make_unique<ScratchKv>(
        kHeads, codec_,
        KeyStats{GetParam().logical_tokens, codec_.dim(), GetParam().statistics_bits}, kSlots,
        kMaxBlocks, 5);
    for (int slot = 0; slot < kSlots; ++slot) kv->MapTokens(slot, kMaxBlocks * kBlockTokens);
    return kv;
  }
  // All slices, and all statistics of retrieval heads, of all slots.
  std::vector<std::byte> Contents(const KvView& view) {
    std::vector<std::byte> all;
    for (int slot = 0; slot < kSlots; ++slot)
      for (int h = 0; h < kHeads.num_heads(); ++h)
        for (int b = 0; b < kMaxBlocks; ++b) {
          const std::byte* slice = view.Slice(slot, h, b);
          all.insert(all.end(), slice, slice + codec_.slice_bytes());
          if (const uint16_t* stats = view.Stats(slot, h, b)) {
            const std::byte* bytes = reinterpret_cast<const std::byte*>(stats);
            all.insert(all.end(), bytes, bytes + view.stats.slice_bytes());
          }
        }
    return all;
  }
  KvCodec codec_;
};

const std::vector<Piece> kPieces = {{2, 0, 130}, {0, 37, 101}, {1, 63, 66}};

TEST_P(AppendTest, StoresWhatTheCodecSays) {
  const AppendCase& c = GetParam();
  const Inputs original(c, kPieces);
  for (const char* backend : testing::Backends()) {
    Ops* ops = Find(backend);
    if (!ops) continue;
    const bool exact = std::string(backend) == "ref";
    Inputs inputs(c, kPieces);
    const auto kv = NewKv(), expected = NewKv();
    ops->Append(inputs.Args(kv->view()));

    std::vector<float> decoded(static_cast<size_t>(c.dim)), low(decoded), high(decoded);
    for (int t = 0; t < inputs.k->mat.rows; ++t) {
      const float* rope = inputs.rope->mat.Row(t);
      const auto check_rotation = [&](const Mat& before, const Mat& after) {
        for (int h = 0; h < before.cols / c.dim; ++h) {
          const float* from = before.Row(t) + h * c.dim;
          const float* to = after.Row(t) + h * c.dim;
          std::vector<double> want(static_cast<size_t>(c.dim)), allowed(want.size());
          double squares = 0;
          for (size_t i = 0, half = want.size() / 2; i < half; ++i) {
            const double x1 = from[i], x2 = from[half + i];
            const double cosine = rope[i], sine = rope[half + i];
            want[i] = x1 * cosine - x2 * sine;
            want[half + i] = x2 * cosine + x1 * sine;
            allowed[i] = allowed[half + i] = (exact ? 1 : 4) * 0x1p-24 * std::hypot(x1, x2);
            squares += x1 * x1 + x2 * x2;
          }
          if (TransformsKeys(codec_)) {  // sums of all channels, each rounded a few times
            want = cases::HadamardProduct(want);
            allowed.assign(want.size(), 12 * 0x1p-24 * std::sqrt(squares));
          }
          for (size_t i = 0; i < want.size(); ++i)
            ASSERT_NEAR(to[i], want[i], allowed[i]) << backend;
        }
      };
      check_rotation(original.q->mat, inputs.q->mat);
      check_rotation(original.k->mat, inputs.k->mat);
      ASSERT_TRUE(SameBits(original.v->mat, inputs.v->mat)) << "v is only read";

      const int block = inputs.pos[t] / kBlockTokens, token = inputs.pos[t] % kBlockTokens;
      for (int h = 0; h < inputs.kv_heads; ++h) {
        std::byte* got = kv->view().Slice(inputs.seq[t], h, block);
        std::byte* want = expected->view().Slice(inputs.seq[t], h, block);
        codec_.EncodeK(inputs.k->mat.Row(t) + h * c.dim, token, want);
        codec_.EncodeV(inputs.v->mat.Row(t) + h * c.dim, token, want);
        const KeyStats layout = kv->view().stats;
        uint16_t* stats = expected->view().Stats(inputs.seq[t], h, block);
        if (stats == nullptr || !layout.Completes(token)) continue;
        const int page = token / c.logical_tokens;
        layout.Store(codec_, got, page, stats);
        layout.Decode(kv->view().Stats(inputs.seq[t], h, block), page, low.data(), high.data());
        for (int of_page = page * c.logical_tokens; of_page <= token; ++of_page) {
          codec_.DecodeK(got, of_page, decoded.data());
          for (size_t i = 0; i < decoded.size(); ++i) {
            ASSERT_FALSE(low[i] > decoded[i]) << backend << " minimum is no bound";
            ASSERT_FALSE(high[i] < decoded[i]) << backend << " maximum is no bound";
          }
        }
      }
    }
    // The slices byte by byte, statistics exactly those of the stored keys, nothing else written.
    EXPECT_EQ(Contents(kv->view()), Contents(expected->view())) << backend;
  }
}

// Any cut of the same tokens into calls, and any number of threads, stores the same bytes.
TEST_P(AppendTest, ChunksDoNotMatter) {
  const AppendCase& c = GetParam();
  for (const char* backend : testing::Backends()) {
    Ops* ops = Find(backend);
    if (!ops) continue;
    Inputs whole(c, kPieces);
    const auto kv = NewKv();
    ops->Append(whole.Args(kv->view()));
    const std::vector<std::byte> contents = Contents(kv->view());
    for (int chunk : {1, 7, 64}) {
      const auto cut = NewKv();
      int row = 0;
      for (const Piece& p : kPieces) {
        for (int begin = p.begin; begin < p.end; begin += chunk) {
          const int end = std::min(begin + chunk, p.end);
          Inputs part(c, {{p.seq, begin, end}});
          Find(backend, chunk == 7 ? 3 : 2)->Append(part.Args(cut->view()));
          ASSERT_TRUE(SameBits(part.q->mat, whole.q->mat.Rows(row, end - begin))) << backend;
          row += end - begin;
        }
      }
      EXPECT_EQ(Contents(cut->view()), contents) << backend << " in chunks of " << chunk;
    }
  }
}

std::vector<AppendCase> AppendCases() {
  constexpr int kLogical[] = {16, 32, 64, 0};  // tokens of a set of statistics; 0: none are kept
  std::vector<AppendCase> all;
  int n = 0;
  for (int dim : {64, 128})
    for (int group : {1, 3, 7})
      for (auto [k, v] : {std::pair{KvType::kKv32, KvType::kKv32},
                          {KvType::kKv16, KvType::kKv16},
                          {KvType::kKv8, KvType::kKv8},
                          {KvType::kKv4, KvType::kKv4},
                          {KvType::kKv8, KvType::kKv4},
                          {KvType::kKv16, KvType::kKv8}})
        all.push_back({k, v, dim, group, kLogical[n % 4], n / 4 % 2 ? 16 : 8}), ++n;
  return all;
}

INSTANTIATE_TEST_SUITE_P(All, AppendTest, ::testing::ValuesIn(AppendCases()), [](const auto& info) {
  const AppendCase& c = info.param;
  return fmt::format("d{}_g{}_{}_logical{}_statistics{}", c.dim, c.group,
                     KvCodec(c.k, c.v, c.dim).name(), c.logical_tokens, c.statistics_bits);
});

}  // namespace
}  // namespace lserve
