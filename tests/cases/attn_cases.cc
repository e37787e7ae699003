#include "tests/cases/attn_cases.h"

#include <fmt/format.h>

#include <algorithm>

namespace lserve::cases {
namespace {

// Rounding a factor of a product to bfloat16 (8 significant bits) moves it by at most 2^-9 of
// itself, with a deviation of about 2^-9 / sqrt(3). attention_test.cc measures errors in the
// deviation that one such rounding of each term causes; sqrt(2) for the two factors of a product.
// Ten deviations are allowed, because the errors of one query are shared by all its keys and so are
// not quite independent.
const double kSixteenBit = 10 * 1.41421 * 0x1p-9 / 1.73205;

struct Codec {
  KvType k, v;
};
constexpr Codec kKv32{KvType::kKv32, KvType::kKv32}, kKv16{KvType::kKv16, KvType::kKv16},
    kKv8{KvType::kKv8, KvType::kKv8}, kKv4{KvType::kKv4, KvType::kKv4},
    kK8v4{KvType::kKv8, KvType::kKv4};

class Table {
 public:
  Table() {
    Cross();
    Lengths();
    Windows();
    Batches();
    OtherShapes();
    Large();
  }
  std::vector<AttnCase> cases;

 private:
  AttnCase Make(int dim, int group, Codec codec) {
    AttnCase c;
    c.dim = dim;
    c.group = c.heads_per_tile = group;
    c.k_type = codec.k;
    c.v_type = codec.v;
    c.tolerance = kSixteenBit;
    return c;
  }
  // The name starts with what all cases have; `rest` makes it unique.
  void Add(AttnCase c, const std::string& rest) {
    c.name = fmt::format("d{}_g{}_{}_{}", c.dim, c.group, CodecName(c), rest);
    cases.push_back(std::move(c));
  }

  // Every head dimension, group and codec, under random plans.
  void Cross() {
    int n = 0;
    for (int dim : {64, 128}) {
      for (int group : {1, 3, 4, 6, 7, 8}) {
        for (Codec codec : {kKv32, kKv16, kKv8, kKv4, kK8v4}) {
          AttnCase c = Make(dim, group, codec);
          c.plan = PlanKind::kRandom;
          c.kv_heads = 2 + n % 2;
          c.sharpness = n % 3 == 0 ? 3 : 1;
          // One list a group, one a query head, or one for a part of the group.
          c.heads_per_tile = n % 4 == 1 ? 1 : n % 4 == 3 && group % 2 == 0 ? group / 2 : group;
          static constexpr int kRemainders[] = {0, 1, 2, 63};
          for (int i = 0; i < 3; ++i)
            c.seqs.push_back({64 * (1 + (n + 2 * i) % 5) + kRemainders[(n + i) % 4], 1});
          Add(c, "decode_random");
          c.seqs[0].q_len = 65;
          c.seqs[1].q_len = 17 + n % 48;
          c.seqs[2].q_len = std::min(c.seqs[2].kv_len, 64 + n % 7);
          for (SeqCase& s : c.seqs) s.q_len = std::min(s.q_len, s.kv_len);
          c.q_tile = n % 2 ? 64 : 24;
          c.padding = n % 3;
          Add(c, "prefill_random");
          ++n;
        }
      }
    }
  }

  // Lengths around page borders, dense and streaming.
  void Lengths() {
    for (int n : {1, 2, 63, 64, 65, 66, 127, 128, 129, 130, 191, 319, 320, 321, 322}) {
      for (bool streaming : {false, true}) {
        AttnCase c = streaming ? Make(64, 3, kKv8) : Make(128, 7, kKv16);
        if (streaming) {
          c.plan = PlanKind::kStreaming;
          c.sink = 64;
          c.window = 128;
        }
        c.kv_heads = streaming ? 2 : 1;
        const char* kind = streaming ? "streaming" : "dense";
        c.seqs = {{n, 1}};
        Add(c, fmt::format("decode_{}_n{}", kind, n));
        c.seqs = {{n, n}};
        Add(c, fmt::format("prefill_{}_n{}", kind, n));
        if (n > 2) {
          c.seqs = {{n, std::min(n - 1, 70)}};
          Add(c, fmt::format("chunk_{}_n{}", kind, n));
        }
      }
    }
  }

  // Sinks and windows whose edges lie anywhere in a page.
  void Windows() {
    const Codec codecs[] = {kKv4, kKv16, kK8v4, kKv8};
    int n = 0;
    for (int sink : {0, 1, 64, 100, 128}) {
      for (int window : {1, 17, 64, 100, 256}) {
        AttnCase c = Make(n % 2 ? 128 : 64, n % 3 ? 4 : 3, codecs[n % 4]);
        c.plan = PlanKind::kStreaming;
        c.sink = sink;
        c.window = window;
        c.seqs = {{333 + n, 1}, {512 + n, 1}};
        Add(c, fmt::format("decode_sink{}_window{}", sink, window));
        c.seqs = {{300 + n, 150}};
        Add(c, fmt::format("prefill_sink{}_window{}", sink, window));
        ++n;
      }
    }
  }

  // Sequences of very different lengths, empty ones too, prompts and decodes in one call.
  void Batches() {
    for (Codec codec : {kKv16, kKv8, kKv4, kK8v4, kKv32}) {
      AttnCase c = Make(64, 3, codec);
      c.kv_heads = 3;
      c.padding = 5;
      c.seqs = {{1, 1}, {0, 0}, {700, 1}, {64, 64}, {65, 1}, {130, 2}, {300, 37}, {128, 1}};
      Add(c, "batch_dense");
      c.plan = PlanKind::kRandom;
      c.q_tile = 16;
      Add(c, "batch_random");
      c.plan = PlanKind::kSelected;
      c.blocks = 3;
      c.seqs = {{1, 1}, {1000, 1}, {640, 1}, {641, 1}, {64, 1}};
      Add(c, "batch_selected");
      c.seqs = {{0, 0}};
      Add(c, "batch_nothing");
    }
  }

  // Head dimensions and groups beyond the common ones; a backend may decline them by name.
  void OtherShapes() {
    for (int dim : {16, 32, 80, 96, 256}) {
      for (int group : {2, 5, 16}) {
        AttnCase c = Make(dim, group, dim % 3 ? kKv16 : kKv8);
        c.plan = PlanKind::kRandom;
        c.seqs = {{130, 1}, {200, 33}, {64, 64}};
        c.q_tile = 20;
        Add(c, "batch_random");
      }
    }
  }

  // Shapes of SmolLM2-135M, Qwen2.5-0.5B and Llama-3-8B at serving lengths.
  void Large() {
    struct Shape {
      const char* model;
      int dim, kv_heads, group;
    };
    for (Shape s : {Shape{"smollm2", 64, 3, 3}, {"qwen05b", 64, 2, 7}, {"llama8b", 128, 8, 4}}) {
      for (Codec codec : {kKv16, kKv8, kKv4}) {
        AttnCase c = Make(s.dim, s.group, codec);
        c.kv_heads = s.kv_heads;
        c.large = true;
        for (int n : {4096, 16384}) {
          c.seqs = {{n, 1}};
          Add(c, fmt::format("{}_decode_dense_n{}", s.model, n));
        }
        c.seqs = {{16384, 512}};
        Add(c, fmt::format("{}_prefill_dense_n16384_q512", s.model));
        c.plan = PlanKind::kSelected;
        c.blocks = 31;
        c.seqs = {{16384, 1}};
        Add(c, fmt::format("{}_decode_selected2048_n16384", s.model));
        c.plan = PlanKind::kStreaming;
        c.sink = 128;
        c.window = 256;
        Add(c, fmt::format("{}_decode_streaming_n16384", s.model));
        c.window = 4096;
        c.seqs = {{16384, 512}};
        Add(c, fmt::format("{}_prefill_streaming4096_n16384_q512", s.model));
      }
    }
  }
};

}  // namespace

std::string CodecName(const AttnCase& c) { return KvCodec(c.k_type, c.v_type, c.dim).name(); }

std::span<const AttnCase> AttnCases() {
  static const Table table;
  return table.cases;
}

}  // namespace lserve::cases
