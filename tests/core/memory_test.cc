// Buffer, MappedFile and ReadFile.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>

#include "core/buffer.h"
#include "core/mapped_file.h"

namespace lserve {
namespace {

TEST(Buffer, IsZeroAndAligned) {
  for (size_t size : {size_t{1}, size_t{64}, size_t{4097}, size_t{3} << 20}) {
    const Buffer buffer(size);
    ASSERT_EQ(buffer.size(), size);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % 64, 0u);
    for (size_t i = 0; i < size; ++i) ASSERT_EQ(buffer.data()[i], std::byte{0});
    buffer.as<uint8_t>()[size - 1] = 7;
    EXPECT_EQ(buffer.data()[size - 1], std::byte{7});
  }
}

TEST(Buffer, EmptyAndMove) {
  Buffer a(100);
  std::byte* data = a.data();
  Buffer b(std::move(a));
  EXPECT_EQ(b.data(), data);
  EXPECT_EQ(b.size(), 100u);
  Buffer c;
  EXPECT_EQ(c.data(), nullptr);
  c = std::move(b);
  EXPECT_EQ(c.data(), data);
  EXPECT_EQ(b.data(), nullptr);
  EXPECT_EQ(Buffer(0).size(), 0u);
}

TEST(Buffer, ReservesWithoutTouching) {
  const Buffer pool(size_t{8} << 30);
  pool.data()[pool.size() / 2] = std::byte{1};
  EXPECT_EQ(pool.data()[pool.size() - 1], std::byte{0});
}

class FileTest : public ::testing::Test {
 protected:
  FileTest()
      : dir_(std::filesystem::temp_directory_path() /
             ("lserve_core_" + std::to_string(getpid()) + "_" +
              ::testing::UnitTest::GetInstance()->current_test_info()->name())) {
    std::filesystem::create_directories(dir_);
  }
  ~FileTest() override { std::filesystem::remove_all(dir_); }
  std::string Write(const std::string& name, const std::string& text) {
    const std::string path = dir_ / name;
    std::ofstream(path, std::ios::binary) << text;
    return path;
  }
  std::filesystem::path dir_;
};

std::string Text(const MappedFile& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

TEST_F(FileTest, MapsContents) {
  std::string text(100000, 'x');
  for (size_t i = 0; i < text.size(); ++i) text[i] = static_cast<char>(i * 31);
  const auto file = MappedFile::Open(Write("a", text));
  ASSERT_TRUE(file.ok()) << file.status().ToString();
  EXPECT_EQ(Text(**file), text);
  EXPECT_EQ((*file)->path(), (dir_ / "a").string());
  // Released memory reads the same again.
  (*file)->Release((*file)->bytes().subspan(1, 90000));
  EXPECT_EQ(Text(**file), text);
  // The mapping outlives the name.
  std::filesystem::remove(dir_ / "a");
  EXPECT_EQ(Text(**file), text);
}

TEST_F(FileTest, EmptyFile) {
  const std::string path = Write("empty", "");
  const auto file = MappedFile::Open(path);
  ASSERT_TRUE(file.ok());
  EXPECT_TRUE((*file)->bytes().empty());
  const auto text = ReadFile(path);
  ASSERT_TRUE(text.ok());
  EXPECT_EQ(*text, "");
}

TEST_F(FileTest, ErrorsNameThePath) {
  const std::string missing = dir_ / "missing";
  const auto file = MappedFile::Open(missing);
  ASSERT_FALSE(file.ok());
  EXPECT_EQ(file.status().code(), Code::kNotFound);
  EXPECT_NE(file.status().message().find(missing), std::string::npos);
  const auto directory = MappedFile::Open(dir_);
  ASSERT_FALSE(directory.ok());
  EXPECT_NE(directory.status().message().find(dir_.string()), std::string::npos);
  EXPECT_FALSE(ReadFile("/dev/zero").ok());
}

TEST_F(FileTest, ReadFileKeepsItsLimit) {
  const std::string path = Write("ten", "0123456789");
  EXPECT_EQ(*ReadFile(path, 10), "0123456789");
  const auto over = ReadFile(path, 9);
  ASSERT_FALSE(over.ok());
  EXPECT_NE(over.status().message().find("9"), std::string::npos);
  EXPECT_NE(over.status().message().find(path), std::string::npos);
}

}  // namespace
}  // namespace lserve
