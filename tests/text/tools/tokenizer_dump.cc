// Encodes texts for tokenizer_parity.py, which compares the ids with other implementations.
// usage: tokenizer_dump json TOKENIZER_JSON [CONFIG_JSON] | gguf METADATA_JSON     METADATA_JSON:
// the
//   fields of GgufTokenizer.
// Reads frames of {u32 length, bytes} from standard input; writes for each {u32 count, i32 ids...,
// u32 length, decoded bytes}, little-endian. Special tokens are parsed, none are added. Ends with
// an error if StreamDecoder and Decode disagree.
// ... --ordinary: special tokens are ordinary text.  ... --bench FILE: prints megabytes a second.
#include <chrono>
#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/mapped_file.h"
#include "text/gguf_tokenizer.h"
#include "text/tokenizer.h"

namespace lserve {
namespace {

std::string MustRead(const std::string& path) {
  Result<std::string> text = ReadFile(path);
  if (!text.ok()) {
    std::cerr << text.status().ToString() << "\n";
    std::exit(1);
  }
  return *text;
}

Result<TokenizerSpec> ReadGgufMetadata(const std::string& path) {
  const nlohmann::json json = nlohmann::json::parse(MustRead(path));
  GgufTokenizer gguf;
  gguf.model = json.at("model");
  gguf.pre = json.value("pre", "");
  gguf.tokens = json.at("tokens").get<std::vector<std::string>>();
  gguf.token_types = json.value("token_types", std::vector<int32_t>());
  gguf.scores = json.value("scores", std::vector<float>());
  gguf.merges = json.value("merges", std::vector<std::string>());
  gguf.bos = json.value("bos", -1);
  gguf.eos = json.value("eos", -1);
  gguf.unk = json.value("unk", -1);
  if (json.contains("add_space_prefix"))
    gguf.add_space_prefix = json["add_space_prefix"].get<bool>();
  return GgufTokenizerSpec(std::move(gguf));
}

Result<std::unique_ptr<Tokenizer>> Load(const std::vector<std::string>& arguments) {
  Result<TokenizerSpec> spec =
      arguments[0] == "gguf"
          ? ReadGgufMetadata(arguments[1])
          : ParseTokenizerJson(MustRead(arguments[1]),
                               arguments.size() > 2 ? MustRead(arguments[2]) : "", arguments[1]);
  if (!spec.ok()) return spec.status();
  return Tokenizer::Create(std::move(*spec));
}

double Seconds(std::chrono::steady_clock::time_point since) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - since).count();
}

int Bench(const Tokenizer& tokenizer, const std::string& path) {
  const std::string text = MustRead(path);
  for (const char* state : {"cold", "warm"}) {
    const auto start = std::chrono::steady_clock::now();
    const size_t count = tokenizer.Encode(text, false, true).size();
    const double seconds = Seconds(start);
    std::printf("%s: %zu bytes, %zu tokens, %.3f s, %.1f MB/s\n", state, text.size(), count,
                seconds, text.size() / 1e6 / seconds);
  }
  return 0;
}

void Write32(uint32_t value) { std::cout.write(reinterpret_cast<const char*>(&value), 4); }

int Dump(const Tokenizer& tokenizer, bool parse_special) {
  uint32_t length;
  while (std::cin.read(reinterpret_cast<char*>(&length), 4)) {
    std::string text(length, '\0');
    if (!std::cin.read(text.data(), length)) return 1;
    const std::vector<int32_t> ids = tokenizer.Encode(text, false, parse_special);
    const std::string decoded = tokenizer.Decode(ids);
    StreamDecoder stream(&tokenizer);
    std::string streamed;
    for (const int32_t id : ids) streamed += stream.Push(id);
    streamed += stream.Finish();
    if (streamed != decoded) {
      std::cerr << "StreamDecoder and Decode disagree\n";
      return 1;
    }
    Write32(static_cast<uint32_t>(ids.size()));
    std::cout.write(reinterpret_cast<const char*>(ids.data()), 4 * ids.size());
    Write32(static_cast<uint32_t>(decoded.size()));
    std::cout.write(decoded.data(), decoded.size());
  }
  return 0;
}

int Main(std::vector<std::string> arguments) {
  std::string bench;
  const bool ordinary = !arguments.empty() && arguments.back() == "--ordinary";
  if (ordinary) arguments.pop_back();
  if (arguments.size() > 2 && arguments[arguments.size() - 2] == "--bench") {
    bench = arguments.back();
    arguments.resize(arguments.size() - 2);
  }
  if (arguments.size() < 2) {
    std::cerr
        << "usage: tokenizer_dump json FILE [CONFIG] | gguf FILE  [--ordinary | --bench FILE]\n";
    return 2;
  }
  const auto start = std::chrono::steady_clock::now();
  Result<std::unique_ptr<Tokenizer>> tokenizer = Load(arguments);
  if (!tokenizer.ok()) {
    std::cerr << tokenizer.status().ToString() << "\n";
    return 1;
  }
  if (bench.empty()) return Dump(**tokenizer, !ordinary);
  std::printf("loaded in %.2f s\n", Seconds(start));
  return Bench(**tokenizer, bench);
}

}  // namespace
}  // namespace lserve

int main(int argc, char** argv) {
  return lserve::Main(std::vector<std::string>(argv + 1, argv + argc));
}
