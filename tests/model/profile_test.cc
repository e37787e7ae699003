// Profiles come from anywhere: what is read, what is refused and how the error names it.
#include "model/profile.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "core/data_dir.h"

namespace lserve {
namespace {

namespace fs = std::filesystem;

class ProfileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(::testing::TempDir()) / ("lserve-profile-" + std::to_string(getpid()));
    fs::create_directories(folder_);
    Write("gates.tsv", "1\t0\n0.25\t0.5\n");
  }
  void TearDown() override { fs::remove_all(folder_); }

  fs::path Write(const std::string& name, const std::string& text) {
    std::ofstream(folder_ / name, std::ios::binary) << text;
    return folder_ / name;
  }
  Result<Profile> Load(const std::string& text) { return LoadProfile(Write("p.json", text)); }
  // A good profile with more fields.
  Result<Profile> With(const std::string& fields) {
    return Load(R"({"lserve_profile": 1, "fingerprint": "f", )" + fields + "}");
  }

  fs::path folder_;
};

TEST_F(ProfileTest, ReadsEverySetting) {
  const Result<Profile> p = With(R"(
    "model": "m", "head_pattern": "gates.tsv", "static_sparsity": 0.75, "prefill_sink": 192,
    "prefill_local": 1024, "decode_sink": 64, "decode_local": 320, "budget": 2048,
    "selector_sink_pages": 2, "selector_local_pages": 3, "page_score": "bounds",
    "logical_page": 32, "reuse_interval": 8, "dense_below": 5000, "shared_lists": false,
    "provenance": {"by": "hand", "anything": [1, {"at": "all"}]})");
  ASSERT_TRUE(p.ok()) << p.status().ToString();
  EXPECT_EQ(p->fingerprint, "f");
  EXPECT_EQ(p->model, "m");
  ASSERT_TRUE(p->gates);
  EXPECT_EQ(p->gates->gates, (std::vector<float>{1, 0, 0.25, 0.5}));
  SparsityConfig c;
  Apply(p->settings, &c);
  EXPECT_EQ(c.static_sparsity, 0.75);
  EXPECT_EQ(c.prefill_sink, 192);
  EXPECT_EQ(c.prefill_local, 1024);
  EXPECT_EQ(c.decode_sink, 64);
  EXPECT_EQ(c.decode_local, 320);
  EXPECT_EQ(c.budget, 2048);
  EXPECT_EQ(c.selector_sink_pages, 2);
  EXPECT_EQ(c.selector_local_pages, 3);
  EXPECT_EQ(c.page_score, PageScore::kBounds);
  EXPECT_EQ(c.logical_page, 32);
  EXPECT_EQ(c.reuse_interval, 8);
  EXPECT_EQ(c.dense_below, 5000);
  EXPECT_FALSE(c.shared_lists);
  EXPECT_EQ(p->settings, AllSettings(c)) << "a setting that this test or the reader forgot";
}

TEST_F(ProfileTest, WhatIsWrittenIsRead) {
  Profile p;
  p.fingerprint = "f";
  p.settings.budget = 1024;
  p.settings.page_score = PageScore::kBounds;
  p.provenance = R"({"b":1,"a":2})";
  for (const bool written_out : {false, true}) {
    if (written_out) {
      p.gates = HeadPattern{2, 3, {0, 0.125f, 1, 0.5f, 0.75f, 0.25f}, ""};
    } else {
      p.head_pattern = "gates.tsv";
    }
    const Result<Profile> read = Load(ProfileText(p));
    ASSERT_TRUE(read.ok()) << read.status().ToString();
    EXPECT_EQ(read->fingerprint, p.fingerprint);
    EXPECT_EQ(read->settings, p.settings);
    EXPECT_NE(read->provenance.find("\"a\": 2"), std::string::npos);
    EXPECT_EQ(read->head_pattern, p.head_pattern);
    ASSERT_TRUE(read->gates);
    EXPECT_EQ(read->gates->kv_heads, written_out ? 3 : 2);
    if (written_out) {
      EXPECT_EQ(read->gates->gates, p.gates->gates);
    }
    p.head_pattern.clear();
  }
  const Result<Profile> none = With(R"("head_pattern": "none")");
  ASSERT_TRUE(none.ok());
  EXPECT_FALSE(none->gates);
}

TEST_F(ProfileTest, RefusesAndNamesTheField) {
  const struct {
    const char *fields, *error;
  } kCases[] = {
      {R"("budgett": 64)", "budgett: not a field"},
      {R"("Budget": 64)", "Budget: not a field"},
      {R"("budget": 64, "budget": 128)", "'budget' occurs twice"},
      {R"("budget": "4096")", "budget: must be an integer"},
      {R"("budget": 4096.0)", "budget: must be an integer"},
      {R"("budget": null)", "budget: must be an integer"},
      {R"("budget": -64)", "budget: -64 (must be 0 to"},
      {R"("budget": 18446744073709551615)", "budget: 18446744073709551615 (must be 0 to"},
      {R"("budget": -9223372036854775808)", "budget: -9223372036854775808 (must be 0 to"},
      {R"("budget": 99999999999999999999999)", "budget: must be an integer"},
      {R"("budget": 1e999)", "not valid JSON"},
      {R"("budget": 100)", "--budget: 100 (must be a multiple of 64)"},
      {R"("budget": 268435457)", "budget: 268435457 (must be 0 to"},
      {R"("decode_local": 16384)", "--prefill-local: 8192 (must not be less than"},
      {R"("logical_page": 17)", "--logical-page: 17"},
      {R"("static_sparsity": 1.5)", "--static-sparsity: 1.5"},
      {R"("static_sparsity": true)", "static_sparsity: must be a number"},
      {R"("static_sparsity": -1e308)", "--static-sparsity"},
      {R"("shared_lists": 1)", "shared_lists: must be true or false"},
      {R"("page_score": "best")", "page_score: must be \"keys\", \"bounds\" or \"bounds8\""},
      {R"("page_score": 1)", "page_score: must be"},
      {R"("model": {})", "model: must be a text"},
      {R"("head_pattern": {})", "head_pattern: must be a text"},
      {R"("head_pattern": "")", "head_pattern: must name a file in the profile's folder"},
      {R"("head_pattern": "../gates.tsv")", "head_pattern: must name a file in the profile's"},
      {R"("head_pattern": "/etc/passwd")", "head_pattern: must name a file in the profile's"},
      {R"("head_pattern": "gates.tsv\u0000x")", "head_pattern: must name a file in the profile's"},
      {R"("head_pattern": "nowhere.tsv")", "nowhere.tsv"},
      {R"("head_pattern": [])", "head_pattern: 0 rows"},
      {R"("head_pattern": [[]])", "head_pattern: every row"},
      {R"("head_pattern": [1, 0])", "head_pattern: every row"},
      {R"("head_pattern": [[1, 0], [1]])", "head_pattern: every row"},
      {R"("head_pattern": [[1, "0"]])", "head_pattern: every gate"},
      {R"("head_pattern": [[1, 1.5]])", "head_pattern: every gate"},
      {R"("head_pattern": [[1, -1e300]])", "head_pattern: every gate"},
  };
  for (const auto& c : kCases) {
    const Result<Profile> p = With(c.fields);
    ASSERT_FALSE(p.ok()) << c.fields;
    EXPECT_NE(p.status().message().find(c.error), std::string::npos)
        << c.fields << ": " << p.status().message();
    EXPECT_NE(p.status().message().find("p.json"), std::string::npos) << p.status().message();
  }
}

TEST_F(ProfileTest, RefusesWhatIsNone) {
  for (const char* text :
       {"", "[]", "null", "{", "{}", "\xff\xfe", R"({"lserve_profile": 2, "fingerprint": "f"})",
        R"({"lserve_profile": "1", "fingerprint": "f"})", R"({"fingerprint": "f"})",
        R"({"lserve_profile": 1})", R"({"lserve_profile": 1, "fingerprint": ""})",
        R"({"lserve_profile": 1, "fingerprint": 7})"}) {
    EXPECT_FALSE(Load(text).ok()) << text;
  }
  EXPECT_FALSE(Load(std::string(100000, '[')).ok());
  std::string deep = std::string(1000, '[') + std::string(1000, ']');
  EXPECT_FALSE(With("\"provenance\": " + deep).ok());
  EXPECT_FALSE(With("\"model\": \"" + std::string(5000, 'x') + "\"").ok());
  EXPECT_FALSE(LoadProfile(folder_ / "missing.json").ok());
  EXPECT_FALSE(LoadProfile(folder_).ok());
  Write("gates.tsv", "1\tx\n");
  EXPECT_FALSE(With(R"("head_pattern": "gates.tsv")").ok());
}

// Those in data/ are read without complaint, and hold every setting.
TEST(ShippedProfiles, AreWhole) {
  int found = 0;
  for (const auto& entry : fs::recursive_directory_iterator(DataDir())) {
    if (entry.path().filename() != "profile.json") continue;
    ++found;
    const Result<Profile> p = LoadProfile(entry.path());
    ASSERT_TRUE(p.ok()) << p.status().ToString();
    EXPECT_TRUE(p->gates);
    EXPECT_FALSE(p->provenance.empty());
    ForEachSetting([&](const char* name, auto given, auto) {
      EXPECT_TRUE((p->settings.*given).has_value()) << entry.path() << ": " << name;
    });
  }
  EXPECT_GE(found, 1);
}

}  // namespace
}  // namespace lserve
