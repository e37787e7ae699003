// Whose setting counts: flags before the profile before the defaults; and which heads stream.
#include "engine/sparsity_choice.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "model/fingerprint.h"

namespace lserve {
namespace {

namespace fs = std::filesystem;

class Choice : public ::testing::Test {
 protected:
  void SetUp() override {
    Result<ModelFiles> files =
        OpenModel(std::string(LSERVE_SOURCE_DIR) + "/tests/golden/tiny/llama-default.gguf");
    ASSERT_TRUE(files.ok()) << files.status().ToString();
    files_ = std::move(*files);
    folder_ = fs::path(::testing::TempDir()) / ("lserve-choice-" + std::to_string(getpid()));
    fs::create_directories(folder_ / "head_patterns");
    const char* before = std::getenv("LSERVE_DATA_DIR");
    if (before) data_dir_ = before;
    setenv("LSERVE_DATA_DIR", folder_.c_str(), 1);
    Write("a.tsv", "1\t0\n0\t0.5\n");
    Write("b.tsv", "0\t1\n1\t0.5\n");
  }
  void TearDown() override {
    data_dir_.empty() ? unsetenv("LSERVE_DATA_DIR")
                      : setenv("LSERVE_DATA_DIR", data_dir_.c_str(), 1);
    fs::remove_all(folder_);
  }
  std::string Write(const std::string& name, const std::string& text) {
    std::ofstream(folder_ / name) << text;
    return folder_ / name;
  }
  std::string WriteProfile(const std::string& fields, std::string fingerprint = "") {
    if (fingerprint.empty()) fingerprint = Fingerprint(files_);
    return Write("profile.json",
                 R"({"lserve_profile": 1, "fingerprint": ")" + fingerprint + "\", " + fields + "}");
  }
  // The retrieval heads, as "layer.head".
  static std::string Retrieval(const SparsityChoice& choice) {
    std::string out;
    for (size_t l = 0; l < choice.heads.layers.size(); ++l)
      for (int h = 0; h < choice.heads.layers[l].num_heads(); ++h)
        if (!choice.heads.layers[l].streaming(h)) out += fmt::format("{}.{} ", l, h);
    return out;
  }
  SparsityChoice Choose() {
    Result<SparsityChoice> choice = ChooseSparsity(options_, files_);
    EXPECT_TRUE(choice.ok()) << choice.status().ToString();
    return choice.ok() ? *choice : SparsityChoice();
  }

  ModelFiles files_;
  EngineOptions options_;
  fs::path folder_;
  std::string data_dir_;
};

TEST_F(Choice, FlagsBeforeProfileBeforeDefaults) {
  options_.profile = WriteProfile(
      R"("head_pattern": "a.tsv", "static_sparsity": 0.75, "budget": 512, "dense_below": 100)");
  SparsityChoice c = Choose();
  EXPECT_EQ(c.config.static_sparsity, 0.75);
  EXPECT_EQ(c.config.budget, 512);
  EXPECT_EQ(c.config.dense_below, 100);
  EXPECT_EQ(c.config.reuse_interval, SparsityConfig().reuse_interval);
  EXPECT_EQ(Retrieval(c), "0.0 ");
  EXPECT_NE(c.profile_line.find("profile.json"), std::string::npos);

  options_.given.budget = 4096;  // the default, but asked for
  options_.given.static_sparsity = 0.5;
  options_.head_pattern = folder_ / "b.tsv";
  c = Choose();
  EXPECT_EQ(c.config.budget, 4096);
  EXPECT_EQ(c.config.dense_below, 100);
  EXPECT_EQ(Retrieval(c), "0.1 1.0 ");
  options_.head_pattern = "none";
  EXPECT_EQ(Retrieval(Choose()), "0.0 0.1 1.0 1.1 ");
}

TEST_F(Choice, KnownModelsByFingerprint) {
  EXPECT_EQ(Choose().profile_line, "none is known for this model");
  EXPECT_EQ(Retrieval(Choose()), "0.0 0.1 1.0 1.1 ");
  WriteProfile(R"("budget": 512)");
  Write("head_patterns/index.json", R"([{"file": "b.tsv", "fingerprint": "other", "profile": "x"},
    {"file": "a.tsv", "fingerprint": ")" +
                                        Fingerprint(files_) + R"(", "profile": "profile.json"}])");
  SparsityChoice c = Choose();
  EXPECT_EQ(c.config.budget, 512);
  EXPECT_EQ(Retrieval(c), "0.0 1.1 ") << "the profile names no pattern, the index does";
  options_.profile = "none";
  c = Choose();
  EXPECT_EQ(c.config.budget, SparsityConfig().budget);
  EXPECT_EQ(Retrieval(c), "0.0 1.1 ");
  options_.profile.clear();
  WriteProfile(R"("head_pattern": "none")");
  EXPECT_EQ(Retrieval(Choose()), "0.0 0.1 1.0 1.1 ");
  WriteProfile(R"("head_pattern": [[0, 0], [1, 1]])");
  EXPECT_EQ(Retrieval(Choose()), "1.0 1.1 ");
}

TEST_F(Choice, RefusesWhatDoesNotFit) {
  options_.profile = WriteProfile(R"("budget": 512)", "llama-of-another");
  Result<SparsityChoice> c = ChooseSparsity(options_, files_);
  ASSERT_FALSE(c.ok());
  EXPECT_NE(c.status().message().find("llama-of-another"), std::string::npos);
  EXPECT_NE(c.status().message().find(Fingerprint(files_)), std::string::npos);
  options_.force_profile = true;
  EXPECT_EQ(Choose().config.budget, 512);
  EXPECT_NE(Choose().profile_line.find("another model (llama-of-another)"), std::string::npos);

  options_.profile = WriteProfile(R"("head_pattern": [[1, 0, 1], [1, 0, 1]])");
  c = ChooseSparsity(options_, files_);
  ASSERT_FALSE(c.ok());
  EXPECT_NE(c.status().message().find("2 layers of 3 KV heads, the model has 2 of 2"),
            std::string::npos);

  // Each good by itself, not together.
  options_.profile = WriteProfile(R"("prefill_local": 256, "decode_local": 256)");
  options_.given.decode_local = 512;
  c = ChooseSparsity(options_, files_);
  ASSERT_FALSE(c.ok());
  EXPECT_NE(c.status().message().find("--prefill-local: 256"), std::string::npos);
  options_.profile = folder_ / "missing.json";
  c = ChooseSparsity(options_, files_);
  ASSERT_FALSE(c.ok());
  EXPECT_EQ(c.status().message().rfind("--profile", 0), 0u) << c.status().message();
}

}  // namespace
}  // namespace lserve
