// Names, URLs and the hub's answers: what is taken and what is refused.
#include "cli/hub.h"

#include <gtest/gtest.h>

#include "cli/url.h"

namespace lserve {
namespace {

TEST(HubNameTest, ReadsOrganisationNameRevision) {
  Result<HubName> name = ParseHubName("Qwen/Qwen2.5-0.5B");
  ASSERT_TRUE(name.ok());
  EXPECT_EQ(name->Repository(), "Qwen/Qwen2.5-0.5B");
  EXPECT_EQ(name->revision, "main");
  EXPECT_EQ(name->FolderName(), "Qwen--Qwen2.5-0.5B");
  name = ParseHubName("a/b@refs/pr/3");
  ASSERT_TRUE(name.ok());
  EXPECT_EQ(name->FolderName(), "a--b@refs--pr--3");
}

TEST(HubNameTest, RefusesOthers) {
  for (const char* text : {"", "model", "/", "a/", "/b", "../b", "a/..", "a/b/c", "a b/c", "a/b@",
                           "a/b@../c", "a/b?x", "-a/b", "a/b@x\ny"}) {
    EXPECT_FALSE(ParseHubName(text).ok()) << text;
  }
}

std::string InfoWithFile(const std::string& name, const std::string& rest) {
  return R"({"sha": "0123456789abcdef0123456789abcdef01234567", "siblings": [{"rfilename": ")" +
         name + "\", " + rest + "}]}";
}
constexpr char kGoodRest[] = R"("size": 3, "blobId": "0123456789abcdef0123456789abcdef01234567")";

TEST(ModelInfoTest, ReadsFiles) {
  Result<HubModel> model = ParseModelInfo(InfoWithFile("config.json", kGoodRest), "test");
  ASSERT_TRUE(model.ok()) << model.status().ToString();
  ASSERT_EQ(model->files.size(), 1u);
  EXPECT_EQ(model->files[0].kind, Checksum::Kind::kGitBlob);
  EXPECT_EQ(model->files[0].size, 3);
}

TEST(ModelInfoTest, RefusesNamesThatLeaveTheFolder) {
  for (const char* name : {"../a", "a/../b", "/etc/passwd", "a//b", "a/", "./a", "..", "a\\\\b",
                           "a\\u0000b", "a\\nb", ""}) {
    Result<HubModel> model = ParseModelInfo(InfoWithFile(name, kGoodRest), "test");
    ASSERT_FALSE(model.ok()) << name;
    EXPECT_EQ(model.status().code(), Code::kInvalidArgument) << name;
  }
}

TEST(ModelInfoTest, RefusesIncompleteAnswers) {
  for (const char* rest :
       {R"("size": -3, "blobId": "0123456789abcdef0123456789abcdef01234567")",
        R"("size": "3", "blobId": "0123456789abcdef0123456789abcdef01234567")", R"("size": 3)",
        R"("size": 3, "blobId": "zz")", R"("size": 3, "lfs": {"sha256": "01"})",
        R"("size": 99999999999999999999, "lfs": {"sha256": "01"})"}) {
    EXPECT_FALSE(ParseModelInfo(InfoWithFile("config.json", rest), "test").ok()) << rest;
  }
  for (const char* text : {"", "[]", "{}", R"({"sha": "1"})", R"({"sha": 1, "siblings": []})"}) {
    EXPECT_FALSE(ParseModelInfo(text, "test").ok()) << text;
  }
}

TEST(ChooseWeightsTest, FollowsTheIndexAndRefusesABadOne) {
  HubModel model;
  for (const char* name : {"a.safetensors", "b.safetensors", "model.safetensors"}) {
    model.files.push_back({name, 1, Checksum::Kind::kSha256, ""});
  }
  auto chosen =
      ChooseWeights(model, R"({"weight_map": {"x": "b.safetensors", "y": "b.safetensors"}})");
  ASSERT_TRUE(chosen.ok());
  ASSERT_EQ(chosen->size(), 1u);
  EXPECT_EQ((*chosen)[0].name, "b.safetensors");
  chosen = ChooseWeights(model, "");
  ASSERT_TRUE(chosen.ok());
  EXPECT_EQ(chosen->size(), 1u);
  for (const char* index :
       {"{}", "[]", "x", R"({"weight_map": {"x": 1}})",
        R"({"weight_map": {"x": "../c.safetensors"}})", R"({"weight_map": {}})"}) {
    EXPECT_FALSE(ChooseWeights(model, index).ok()) << index;
  }
}

TEST(ChecksumTest, EqualsGitAndSha256) {
  Checksum git(Checksum::Kind::kGitBlob, 6);
  git.Add("hel");
  git.Add("lo\n");
  EXPECT_EQ(git.Finish(), "ce013625030ba8dba906f756967f9e9ca394464a");  // git hash-object
  Checksum sha(Checksum::Kind::kSha256, 3);
  sha.Add("abc");
  EXPECT_EQ(sha.Finish(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

TEST(UrlTest, ReadsAndResolves) {
  Result<Url> url = ParseUrl("https://Hub.example:8443/a/b?c=d#e");
  ASSERT_TRUE(url.ok());
  EXPECT_EQ(url->ToString(), "https://hub.example:8443/a/b?c=d");
  EXPECT_EQ(ParseUrl("http://[::1]:80")->ToString(), "http://[::1]:80/");
  EXPECT_EQ(ParseUrl("http://host?x")->ToString(), "http://host:80/?x");
  EXPECT_EQ(ResolveUrl(*url, "/z?y")->ToString(), "https://hub.example:8443/z?y");
  EXPECT_EQ(ResolveUrl(*url, "//other/z")->ToString(), "https://other:443/z");
  EXPECT_EQ(ResolveUrl(*url, "z")->ToString(), "https://hub.example:8443/a/z");
  EXPECT_EQ(ResolveUrl(*url, "http://x/")->ToString(), "http://x:80/");
  EXPECT_EQ(EncodePath("a b/ä%"), "a%20b/%C3%A4%25");
  EXPECT_EQ(EncodeSegment("refs/pr/1"), "refs%2Fpr%2F1");
}

TEST(UrlTest, RefusesOthers) {
  for (const char* text : {"", "host", "ftp://host", "http://", "http://:80", "http://h:port",
                           "http://h:", "http://user@h/", "http://h/a b", "http://h/\r\nX: y",
                           "http://[::1", "http://[::1]x"}) {
    EXPECT_FALSE(ParseUrl(text).ok()) << text;
  }
}

}  // namespace
}  // namespace lserve
