// safetensors files that are right, and each way in which one attacks the reader.
#include "model/safetensors.h"

#include <gtest/gtest.h>

#include <string>

namespace lserve {
namespace {

std::string File(const std::string& header, size_t data) {
  const uint64_t size = header.size();
  std::string bytes(reinterpret_cast<const char*>(&size), sizeof(size));
  bytes += header;
  bytes.resize(bytes.size() + data);
  return bytes;
}

Result<std::vector<TensorView>> Parse(const std::string& bytes) {
  return ParseSafetensors(std::as_bytes(std::span(bytes.data(), bytes.size())), "test.safetensors");
}

void ExpectError(const std::string& bytes, Code code, const std::string& part) {
  const Result<std::vector<TensorView>> read = Parse(bytes);
  EXPECT_EQ(read.status().code(), code) << read.status().ToString();
  EXPECT_NE(read.status().message().find(part), std::string::npos) << read.status().ToString();
  EXPECT_EQ(read.status().message().find("test.safetensors"), 0u) << read.status().ToString();
}

std::string Entry(const std::string& shape, const std::string& offsets,
                  const std::string& dtype = "F32") {
  return R"({"a":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets +
         "}}";
}

TEST(Safetensors, ReadsTensors) {
  const std::string bytes = File(
      R"({"__metadata__":{"format":"pt"},"v":{"dtype":"BF16","shape":[3],"data_offsets":[24,30]},)"
      R"("m":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}})",
      30);
  Result<std::vector<TensorView>> read = Parse(bytes);
  ASSERT_TRUE(read.ok()) << read.status().ToString();
  ASSERT_EQ(read->size(), 2u);
  EXPECT_EQ((*read)[0].name, "m");
  EXPECT_EQ((*read)[0].rows, 2);
  EXPECT_EQ((*read)[0].cols, 3);
  EXPECT_EQ((*read)[1].name, "v");
  EXPECT_EQ((*read)[1].rows, 1);
  EXPECT_EQ((*read)[1].dtype, DType::kBF16);
  EXPECT_EQ((*read)[1].data - (*read)[0].data, 24);
}

TEST(Safetensors, EveryCutIsAnError) {
  const std::string bytes = File(Entry("[2,4]", "[0,32]"), 32);
  ASSERT_TRUE(Parse(bytes).ok());
  for (size_t size = 0; size < bytes.size(); ++size) {
    const std::vector<char> cut(bytes.begin(), bytes.begin() + static_cast<long>(size));
    EXPECT_FALSE(ParseSafetensors(std::as_bytes(std::span(cut)), "test.safetensors").ok()) << size;
  }
}

TEST(Safetensors, BadHeaders) {
  ExpectError(std::string(8, '\xff'), Code::kInvalidArgument, "header");
  ExpectError(std::string("\x40\0\0\0\0\0\0\0{}", 10), Code::kDataLoss, "cut off");
  ExpectError(File("[]", 0), Code::kInvalidArgument, "object");
  ExpectError(File("{", 0), Code::kInvalidArgument, "JSON");
  ExpectError(File(R"({"a":{},"a":{}})", 0), Code::kInvalidArgument, "twice");
  std::string deep = R"({"a":)";
  for (int i = 0; i < 100000; ++i) deep += '[';
  EXPECT_FALSE(Parse(File(deep, 0)).ok());
  for (int i = 0; i < 100000; ++i) deep += ']';
  ExpectError(File(deep + "}", 0), Code::kInvalidArgument, "deeper");
}

// The same as GGUF's (gguf_test.cc): CVE-2025-53630, CVE-2026-53923, CVE-2026-7482.
TEST(Safetensors, BadEntries) {
  ExpectError(File(R"({"a":7})", 0), Code::kInvalidArgument, "'a'");
  ExpectError(File(Entry("[2,4]", "[0,32]", "F8_E4M3"), 32), Code::kUnsupported, "F8_E4M3");
  ExpectError(File(R"({"a":{"dtype":"F32","data_offsets":[0,4]}})", 4), Code::kInvalidArgument,
              "shape");
  ExpectError(File(Entry("[]", "[0,4]"), 4), Code::kUnsupported, "dimensions");
  ExpectError(File(Entry("[1,1,1]", "[0,4]"), 4), Code::kUnsupported, "dimensions");
  for (const char* extent : {"0", "-1", "1.5", "4294967296", "18446744073709551616", "\"8\""}) {
    ExpectError(File(Entry("[2," + std::string(extent) + "]", "[0,32]"), 32),
                Code::kInvalidArgument, "shape");
  }
  ExpectError(File(Entry("[2147483648,2147483648]", "[0,32]"), 32), Code::kInvalidArgument, "size");
  ExpectError(File(Entry("[8]", "[0,16]"), 32), Code::kInvalidArgument, "size");
  ExpectError(File(Entry("[8]", "[0,64]"), 32), Code::kDataLoss, "outside");
  ExpectError(File(Entry("[8]", "[32,0]"), 32), Code::kDataLoss, "outside");
  ExpectError(File(Entry("[8]", "[18446744073709551615,31]"), 32), Code::kDataLoss, "outside");
  for (const char* offsets : {"[0]", "[-1,31]", "[0,1,2]", "7", "[0.5,32]"}) {
    ExpectError(File(Entry("[8]", offsets), 32), Code::kInvalidArgument, "data_offsets");
  }
  ExpectError(File(R"({"a":{"dtype":"F32","shape":[8],"data_offsets":[0,32]},)"
                   R"("b":{"dtype":"F32","shape":[8],"data_offsets":[16,48]}})",
                   48),
              Code::kInvalidArgument, "overlap");
}

}  // namespace
}  // namespace lserve
