// The pipeline parts of a tokenizer.json: normalizer, pre_tokenizer, decoder, post_processor.
// Errors name the field, not the file. Pure functions.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "core/status.h"
#include "text/tokenizer.h"

namespace lserve::text {

using Json = nlohmann::json;

// Typed fields of an object. A missing or null field gives `fallback`; another type is an error.
Result<bool> BoolField(const Json& object, const char* name, bool fallback,
                       const std::string& where);
Result<std::string> StringField(const Json& object, const char* name, const std::string& fallback,
                                const std::string& where);

// Each fills its part of the spec from the field of the same name, which may be null.
Status ParseNormalizer(const Json& json, TokenizerSpec* spec);
// Sets spec->model as well: byte-level if there is a ByteLevel step.
Status ParsePreTokenizer(const Json& json, TokenizerSpec* spec);
// REQUIRES: spec->model is set.
Status ParseDecoder(const Json& json, TokenizerSpec* spec);
Status ParsePostProcessor(const Json& json, TokenizerSpec* spec);

// GPT-2's pattern, which ByteLevel with use_regex applies.
extern const char kGpt2Pattern[];

}  // namespace lserve::text
