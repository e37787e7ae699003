// Pull against a local server that speaks the hub's API and fails in the ways that networks do.
#include "cli/pull.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <optional>
#include <vector>

#include "cli/http_client.h"
#include "tests/cli/hub_fixture.h"

namespace lserve {
namespace {

namespace fs = std::filesystem;

class PullTest : public testing::Test {
 protected:
  PullOptions Options(const std::string& model) {
    PullOptions options;
    options.model = model;
    options.folder = folder_.path().string();
    options.endpoint = server_.endpoint();
    options.retry_delay = std::chrono::milliseconds(1);
    options.timeout = std::chrono::seconds(20);
    options.progress = [this](const PullProgress& p) { progress_.push_back(p); };
    return options;
  }

  // The file requests that the server got, one a line.
  std::string Log() {
    std::string text;
    HttpClient client({});
    auto response = client.Get(
        *ParseUrl(server_.endpoint() + "/log"), 0, [](const HttpResponse&) { return Ok(); },
        [&](std::string_view piece) {
          text += piece;
          return Ok();
        });
    EXPECT_TRUE(response.ok());
    return text;
  }

  void ExpectWhole(const fs::path& model) {
    EXPECT_EQ(ReadFile(model / "config.json"), "{\"model_type\": \"llama\"}\n");
    EXPECT_EQ(ReadFile(model / "tokenizer.json"), "{}\n");
    std::string first = ReadFile(model / "model-1-of-2.safetensors");
    ASSERT_EQ(first.size(), 700001u);
    EXPECT_EQ(ReadFile(model / "model-2-of-2.safetensors"),
              std::string(first.rbegin(), first.rend()));
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(model))
      names.push_back(entry.path().filename());
    EXPECT_EQ(names.size(), 5u) << "only what is needed, and no part files";
  }

  HubServer server_;
  TemporaryFolder folder_;
  std::vector<PullProgress> progress_;
};

TEST_F(PullTest, GetsWhatAModelNeeds) {
  Result<std::string> path = Pull(Options("good/model"));
  ASSERT_TRUE(path.ok()) << path.status().ToString();
  EXPECT_EQ(*path, (folder_.path() / "good--model").string());
  ExpectWhole(*path);
  ASSERT_FALSE(progress_.empty());
  EXPECT_EQ(progress_.back().done, progress_.back().total);
  EXPECT_EQ(progress_.back().file, "config.json") << "written last, it marks a whole folder";
}

TEST_F(PullTest, DoesNotGetTwice) {
  ASSERT_TRUE(Pull(Options("good/model")).ok());
  std::string before = Log();
  ASSERT_TRUE(Pull(Options("good/model")).ok());
  std::string after = Log().substr(before.size());
  EXPECT_EQ(after.find("cdn"), std::string::npos) << after;
}

TEST_F(PullTest, ReplacesADamagedFile) {
  Result<std::string> path = Pull(Options("good/model"));
  ASSERT_TRUE(path.ok());
  std::fstream(fs::path(*path) / "model-1-of-2.safetensors", std::ios::in | std::ios::out) << "x";
  ASSERT_TRUE(Pull(Options("good/model")).ok());
  ExpectWhole(*path);
}

TEST_F(PullTest, GoesOnWhereTheConnectionWasCut) {
  Result<std::string> path = Pull(Options("cut/model"));
  ASSERT_TRUE(path.ok()) << path.status().ToString();
  ExpectWhole(*path);
  std::string log = Log();
  EXPECT_NE(log.find("cdn model-1-of-2.safetensors bytes=200000-"), std::string::npos) << log;
  EXPECT_NE(log.find("cdn model-1-of-2.safetensors bytes=400000-"), std::string::npos) << log;
}

TEST_F(PullTest, StartsOverWhereTheServerKnowsNoRanges) {
  Result<std::string> path = Pull(Options("no-ranges/model"));
  ASSERT_TRUE(path.ok()) << path.status().ToString();
  ExpectWhole(*path);
}

TEST_F(PullTest, GoesOnAtTheNextCall) {
  PullOptions options = Options("dead/model");
  Result<std::string> path = Pull(options);
  ASSERT_FALSE(path.ok());
  EXPECT_EQ(path.status().code(), Code::kUnavailable);
  EXPECT_NE(path.status().message().find("model-1-of-2.safetensors"), std::string::npos);
  EXPECT_FALSE(fs::exists(folder_.path() / "dead--model" / "config.json"));
  std::string before = Log();
  EXPECT_FALSE(Pull(options).ok());
  std::string after = Log().substr(before.size());
  EXPECT_NE(after.find("bytes=100000-"), std::string::npos) << after;
  EXPECT_EQ(after.find("safetensors -"), std::string::npos)
      << "nothing is fetched twice: " << after;
}

TEST_F(PullTest, AsksAgainWhenTheServerIsBusy) {
  Result<std::string> path = Pull(Options("busy/model"));
  ASSERT_TRUE(path.ok()) << path.status().ToString();
  ExpectWhole(*path);
}

TEST_F(PullTest, RefusesAWrongChecksum) {
  Result<std::string> path = Pull(Options("damaged/model"));
  ASSERT_FALSE(path.ok());
  EXPECT_EQ(path.status().code(), Code::kDataLoss);
  EXPECT_NE(path.status().message().find("model-1-of-2.safetensors: checksum"), std::string::npos)
      << path.status().ToString();
  EXPECT_TRUE(fs::is_empty(folder_.path() / "damaged--model"));
}

TEST_F(PullTest, RefusesMoreThanWasAnnounced) {
  Result<std::string> path = Pull(Options("longer/model"));
  ASSERT_FALSE(path.ok());
  EXPECT_EQ(path.status().code(), Code::kDataLoss) << path.status().ToString();
}

TEST_F(PullTest, RefusesNamesThatLeaveTheFolder) {
  Result<std::string> path = Pull(Options("escape/model"));
  ASSERT_FALSE(path.ok());
  EXPECT_EQ(path.status().code(), Code::kInvalidArgument);
  EXPECT_NE(path.status().message().find("../../escaped.safetensors"), std::string::npos);
  EXPECT_TRUE(fs::is_empty(folder_.path()));
}

TEST_F(PullTest, NamesWhatIsAbsent) {
  Result<std::string> path = Pull(Options("absent/model"));
  ASSERT_FALSE(path.ok());
  EXPECT_EQ(path.status().code(), Code::kNotFound);
  path = Pull(Options("good/model@no-such-branch"));
  ASSERT_FALSE(path.ok());
  EXPECT_EQ(path.status().code(), Code::kNotFound);
}

TEST_F(PullTest, SaysWhenATokenIsNeeded) {
  Result<std::string> path = Pull(Options("gated/model"));
  ASSERT_FALSE(path.ok());
  EXPECT_EQ(path.status().code(), Code::kUnavailable);
  EXPECT_NE(path.status().message().find("HF_TOKEN"), std::string::npos);
  PullOptions options = Options("gated/model");
  options.token = "open-sesame";
  path = Pull(options);
  ASSERT_TRUE(path.ok()) << path.status().ToString();
  ExpectWhole(*path);
}

TEST_F(PullTest, KeepsTheTokenFromOtherServers) {
  PullOptions options = Options("moved/model");
  options.token = "open-sesame";
  Result<std::string> path = Pull(options);
  ASSERT_TRUE(path.ok()) << path.status().ToString();
  std::string log = Log();
  EXPECT_NE(log.find("moved model-1-of-2.safetensors - token"), std::string::npos) << log;
  EXPECT_NE(log.find("cdn model-1-of-2.safetensors - anonymous"), std::string::npos) << log;
}

TEST_F(PullTest, TakesAnotherRevisionIntoAFolderOfItsOwn) {
  Result<std::string> path = Pull(Options("good/model@refs/pr/1"));
  ASSERT_TRUE(path.ok()) << path.status().ToString();
  EXPECT_EQ(*path, (folder_.path() / "good--model@refs--pr--1").string());
  ExpectWhole(*path);
}

TEST_F(PullTest, GetsOneGguf) {
  PullOptions options = Options("gguf-only/model");
  Result<std::string> path = Pull(options);
  ASSERT_FALSE(path.ok());
  EXPECT_NE(path.status().message().find("sub/model-q8_0.gguf"), std::string::npos)
      << path.status().ToString();
  options.file = "model-q8_0.gguf";
  path = Pull(options);
  ASSERT_TRUE(path.ok()) << path.status().ToString();
  EXPECT_EQ(*path, (folder_.path() / "gguf-only--model" / "model-q8_0.gguf").string());
  EXPECT_EQ(ReadFile(*path).size(), 5000u);
}

TEST_F(PullTest, SaysWhenTheServerIsNoHub) {
  Result<std::string> path = Pull(Options("nonsense/model"));
  ASSERT_FALSE(path.ok());
  EXPECT_EQ(path.status().code(), Code::kDataLoss);
  PullOptions options = Options("good/model");
  options.endpoint = "ftp://example.org";
  path = Pull(options);
  ASSERT_FALSE(path.ok());
  EXPECT_EQ(path.status().code(), Code::kInvalidArgument);
}

TEST_F(PullTest, SpeaksTlsAndChecksTheCertificate) {
  const std::string certificate = (folder_.path() / "certificate.pem").string();
  const std::string key = (folder_.path() / "key.pem").string();
  MakeCertificate(certificate, key);
  HubServer tls(certificate, key);
  PullOptions options = Options("good/model");
  options.endpoint = tls.endpoint();
  options.attempts = 1;
  Result<std::string> path = Pull(options);
  ASSERT_FALSE(path.ok()) << "nobody vouches for this certificate";
  EXPECT_EQ(path.status().code(), Code::kUnavailable);

  std::optional<std::string> old;
  if (const char* value = std::getenv("SSL_CERT_FILE")) old = value;
  setenv("SSL_CERT_FILE", certificate.c_str(), 1);
  path = Pull(options);
  options.endpoint = "https://0.0.0.0:" + std::to_string(tls.port());
  Result<std::string> wrong_host = Pull(options);
  old ? setenv("SSL_CERT_FILE", old->c_str(), 1) : unsetenv("SSL_CERT_FILE");
  ASSERT_TRUE(path.ok()) << path.status().ToString();
  ExpectWhole(*path);
  ASSERT_FALSE(wrong_host.ok()) << "the certificate is for 127.0.0.1";
  EXPECT_NE(wrong_host.status().message().find("verify"), std::string::npos)
      << wrong_host.status().ToString();
}

}  // namespace
}  // namespace lserve
