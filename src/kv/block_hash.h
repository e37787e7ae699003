// Names of blocks by all that decides their keys and values: a chain of SHA-256. A block's name
// covers the name of the block before it, its 64 tokens, and how it came about; the first block's
// "before" is a seed that covers everything else (model, rope, codec, head pattern, attention mode,
// windows, format version, salt). Equal names mean equal contents, so one sequence may read what
// another has computed. A cryptographic hash, because a client that could find two prompts with one
// name could read another's answer. Pure functions, any thread.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>

namespace lserve {

using BlockHash = std::array<unsigned char, 32>;

struct BlockHashBits {
  size_t operator()(const BlockHash& hash) const {
    size_t bits;
    std::memcpy(&bits, hash.data(), sizeof(bits));
    return bits;
  }
};

// The seed of a chain. Each part is hashed with its length: ("ab", "c") is not ("a", "bc").
BlockHash ChainSeed(std::span<const std::string> parts);

// How a block's keys and values came about: run as prompt, or (its last tokens at least) as answer,
// under a budget of selected tokens. Answers read less than prompts do, so they differ.
inline constexpr int32_t kPrefilled = -1;

// REQUIRES: kBlockTokens tokens. `origin`: kPrefilled, or the budget it was decoded under.
BlockHash NextBlock(const BlockHash& before, std::span<const int32_t> tokens, int32_t origin);

}  // namespace lserve
