#include "core/status.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

namespace lserve {
namespace {

TEST(Status, DefaultIsOk) {
  EXPECT_TRUE(Status().ok());
  EXPECT_TRUE(Ok().ok());
  EXPECT_EQ(Ok().ToString(), "ok");
}

TEST(Status, CarriesCodeAndFormattedMessage) {
  const Status s = InvalidArgument("{}: field {} is {}", "a.json", "rope", -1);
  EXPECT_FALSE(s.ok());
  EXPECT_EQ(s.code(), Code::kInvalidArgument);
  EXPECT_EQ(s.message(), "a.json: field rope is -1");
  EXPECT_EQ(s.ToString(), "invalid argument: a.json: field rope is -1");
}

TEST(Status, EveryMakerHasItsCodeAndEveryCodeAName) {
  EXPECT_EQ(NotFound("x").code(), Code::kNotFound);
  EXPECT_EQ(Unsupported("x").code(), Code::kUnsupported);
  EXPECT_EQ(ResourceExhausted("x").code(), Code::kResourceExhausted);
  EXPECT_EQ(DataLoss("x").code(), Code::kDataLoss);
  EXPECT_EQ(Unavailable("x").code(), Code::kUnavailable);
  EXPECT_EQ(Internal("x").code(), Code::kInternal);
  std::vector<std::string> names;
  for (int c = 0; c <= static_cast<int>(Code::kInternal); ++c)
    names.emplace_back(CodeName(static_cast<Code>(c)));
  for (size_t i = 0; i < names.size(); ++i) {
    EXPECT_NE(names[i], "unknown");
    for (size_t j = 0; j < i; ++j) EXPECT_NE(names[i], names[j]);
  }
}

TEST(Status, AnnotatePrefixesErrorsOnly) {
  EXPECT_TRUE(Ok().Annotate("loading").ok());
  const Status s = DataLoss("cut off").Annotate("m.gguf");
  EXPECT_EQ(s.code(), Code::kDataLoss);
  EXPECT_EQ(s.message(), "m.gguf: cut off");
}

TEST(Result, HoldsValueOrStatus) {
  Result<int> value = 7;
  ASSERT_TRUE(value.ok());
  EXPECT_EQ(*value, 7);
  Result<int> error = NotFound("gone");
  ASSERT_FALSE(error.ok());
  EXPECT_EQ(error.status().code(), Code::kNotFound);
}

TEST(Result, MovesOutWhatCannotBeCopied) {
  Result<std::unique_ptr<int>> made = std::make_unique<int>(3);
  const std::unique_ptr<int> taken = *std::move(made);
  EXPECT_EQ(*taken, 3);
}

TEST(ResultDeathTest, ValueOfAnErrorAndOkAsErrorAbort) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  Result<int> error = NotFound("gone");
  EXPECT_DEATH(error.value(), "CHECK failed");
  EXPECT_DEATH(static_cast<void>(Result<int>{Status()}), "CHECK failed");
}

}  // namespace
}  // namespace lserve
