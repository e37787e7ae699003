#include "model/shapes.h"

#include <algorithm>

namespace lserve {
namespace {

struct Shape {
  const char* name;
  const char* pattern;  // part of the name that a head pattern is found by
  Architecture arch;
  int layers, hidden, intermediate, vocab, q_heads, kv_heads, head_dim;
  double theta;
};
constexpr Shape kShapes[] = {
    {"llama-3-8b", "Gradient-1048k", Architecture::kLlama, 32, 4096, 14336, 128256, 32, 8, 128,
     3.58e9},
    {"qwen3-8b", "", Architecture::kQwen3, 36, 4096, 12288, 151936, 32, 8, 128, 1e6},
    {"qwen2.5-7b", "", Architecture::kQwen2, 28, 3584, 18944, 152064, 28, 4, 128, 1e6},
    {"llama-2-7b", "Llama-2-7B-32K-Instruct", Architecture::kLlama, 32, 4096, 11008, 32000, 32, 32,
     128, 10000},
    {"minitron-4b", "", Architecture::kLlama, 32, 3072, 9216, 256000, 24, 8, 128, 10000},
};

// Byte b as a character of the byte-level alphabet: printable ones stand for themselves, the others
// follow from 256 on, in order.
std::string ByteCharacter(int b) {
  const auto printable = [](int c) {
    return (c >= '!' && c <= '~') || (c >= 0xa1 && c <= 0xac) || (c >= 0xae && c <= 0xff);
  };
  int code = b;
  if (!printable(b)) {
    code = 256;
    for (int c = 0; c < b; ++c) code += !printable(c);
  }
  std::string out;
  if (code < 0x80) {
    out += static_cast<char>(code);
  } else {
    out += static_cast<char>(0xc0 | (code >> 6));
    out += static_cast<char>(0x80 | (code & 0x3f));
  }
  return out;
}

}  // namespace

Result<ModelFiles> ModelOfShape(const std::string& name) {
  const auto* shape = std::find_if(std::begin(kShapes), std::end(kShapes),
                                   [&](const Shape& s) { return s.name == name; });
  if (shape == std::end(kShapes)) {
    std::string known;
    for (const Shape& s : kShapes) known += std::string(known.empty() ? "" : ", ") + s.name;
    return InvalidArgument("--random-weights {}: expected one of {}", name, known);
  }
  ModelFiles files;
  files.path = "random weights of " + name + " " + shape->pattern;
  ModelConfig& c = files.config;
  c.arch = shape->arch;
  c.name = "random-" + name;
  c.layers = shape->layers;
  c.hidden = shape->hidden;
  c.intermediate = shape->intermediate;
  c.vocab = shape->vocab;
  c.q_heads = shape->q_heads;
  c.kv_heads = shape->kv_heads;
  c.head_dim = shape->head_dim;
  c.rope.theta = shape->theta;
  c.max_position = 1 << 20;
  c.qk_norm = shape->arch == Architecture::kQwen3;

  static const std::vector<float> ones(8192, 1.0f);
  files.tensors["output_norm.weight"] = {"output_norm.weight", DType::kF32, 1, c.hidden,
                                         reinterpret_cast<const std::byte*>(ones.data())};
  files.tokenizer.vocab.resize(static_cast<size_t>(c.vocab));
  for (int b = 0; b < 256; ++b) files.tokenizer.vocab[static_cast<size_t>(b)] = ByteCharacter(b);
  // Every token has a text of its own, so that streams have an event a token as a real model's do.
  for (int id = 256; id < c.vocab; ++id) {
    std::string& text = files.tokenizer.vocab[static_cast<size_t>(id)];
    for (int digits = id, i = 0; i < 4; ++i, digits /= 26)
      text += static_cast<char>('a' + digits % 26);
  }
  return files;
}

}  // namespace lserve
