#include "kv/prefix_store.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <tuple>

namespace lserve {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kQueueBytes = int64_t{256} << 20;
constexpr char kSuffix[] = ".lskv";

struct Header {
  char magic[8] = {'L', 'S', 'K', 'V', 'P', 'F', 'X', 0};
  uint32_t version = 1;
  int32_t block = 0;
  uint32_t dense = 0;
  uint32_t reserved = 0;
  uint64_t page_bytes[2] = {0, 0};
  BlockHash name{}, before{};
};
static_assert(sizeof(Header) == 104);
constexpr size_t kHeaderBytes = sizeof(Header);

BlockHash Checksum(const Header& header, const std::vector<std::byte> (&pages)[2]) {
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> sha(EVP_MD_CTX_new(), EVP_MD_CTX_free);
  BlockHash out;
  CHECK(sha && EVP_DigestInit_ex(sha.get(), EVP_sha256(), nullptr) == 1 &&
        EVP_DigestUpdate(sha.get(), &header, sizeof(header)) == 1 &&
        EVP_DigestUpdate(sha.get(), pages[0].data(), pages[0].size()) == 1 &&
        EVP_DigestUpdate(sha.get(), pages[1].data(), pages[1].size()) == 1 &&
        EVP_DigestFinal_ex(sha.get(), out.data(), nullptr) == 1);
  return out;
}

std::string Hex(const BlockHash& hash) {
  std::string out;
  for (unsigned char c : hash) out += fmt::format("{:02x}", c);
  return out;
}

std::optional<BlockHash> FromHex(std::string_view text) {
  BlockHash out;
  if (text.size() != 2 * out.size()) return std::nullopt;
  for (size_t i = 0; i < out.size(); ++i) {
    const char* begin = text.data() + 2 * i;
    const auto [end, error] = std::from_chars(begin, begin + 2, out[i], 16);
    if (error != std::errc() || end != begin + 2) return std::nullopt;
  }
  return out;
}

Header HeaderOf(const StoredBlock& block) {
  Header header;
  header.block = block.block;
  header.dense = block.dense;
  header.name = block.name;
  header.before = block.before;
  for (int k : {0, 1}) header.page_bytes[k] = block.pages[k].size();
  return header;
}

}  // namespace

PrefixStore::PrefixStore(std::string directory, int64_t limit_bytes, const int64_t (&page_bytes)[2])
    : directory_(std::move(directory)),
      limit_bytes_(limit_bytes),
      page_bytes_{page_bytes[0], page_bytes[1]} {}

Result<std::unique_ptr<PrefixStore>> PrefixStore::Open(const std::string& directory,
                                                       int64_t limit_bytes,
                                                       const int64_t (&page_bytes)[2]) {
  std::unique_ptr<PrefixStore> store(new PrefixStore(directory, limit_bytes, page_bytes));
  if (Status s = store->Scan(); !s.ok()) return s;
  store->thread_ = std::thread([raw = store.get()] { raw->Loop(); });
  return store;
}

PrefixStore::~PrefixStore() {
  if (!thread_.joinable()) return;
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

// Names and sizes only; contents are checked when they are read.
Status PrefixStore::Scan() {
  std::error_code error;
  fs::create_directories(directory_, error);
  if (error || access(directory_.c_str(), R_OK | W_OK | X_OK) != 0)
    return InvalidArgument("--prefix-cache-dir {}: {}", directory_,
                           error ? error.message() : std::strerror(errno));
  for (const auto& file : fs::directory_iterator(directory_, error)) {
    const std::string name = file.path().filename().string();
    struct stat info;
    if (stat(file.path().c_str(), &info) != 0 || !S_ISREG(info.st_mode)) continue;
    if (name.ends_with(".tmp") && std::time(nullptr) - info.st_mtime > 600) {
      fs::remove(file.path(), error);  // of a process that was killed
      continue;
    }
    // HASH-BLOCK.lskv
    if (!name.ends_with(kSuffix) || name.size() < 66 || name[64] != '-') continue;
    const std::optional<BlockHash> hash = FromHex(std::string_view(name).substr(0, 64));
    const std::string number = name.substr(65, name.size() - 65 - std::strlen(kSuffix));
    int32_t block = -1;
    std::from_chars(number.data(), number.data() + number.size(), block);
    if (!hash || block < 0 || std::to_string(block) != number) continue;
    entries_[*hash] = {info.st_size, 0, info.st_mtime / 60, block};
    bytes_ += info.st_size;
  }
  if (error) return InvalidArgument("--prefix-cache-dir {}: {}", directory_, error.message());
  std::lock_guard lock(mutex_);
  MakeRoom();
  return Ok();
}

std::string PrefixStore::PathOf(const BlockHash& name) const {
  const auto found = entries_.find(name);
  return fmt::format("{}/{}-{}{}", directory_, Hex(name),
                     found == entries_.end() ? 0 : found->second.block, kSuffix);
}

bool PrefixStore::Has(const BlockHash& name) const {
  std::lock_guard lock(mutex_);
  return entries_.contains(name);
}

bool PrefixStore::Has(const BlockHash& name, HeadClass cls) const {
  std::lock_guard lock(mutex_);
  const auto found = entries_.find(name);
  if (found == entries_.end()) return false;
  const int64_t whole =
      static_cast<int64_t>(kHeaderBytes + sizeof(BlockHash)) + page_bytes_[0] + page_bytes_[1];
  return cls == HeadClass::kRetrieval || found->second.bytes == whole;
}

const std::byte* PrefixStore::Load(const BlockHash& name, HeadClass cls, uint64_t used) {
  if (!loaded_ || loaded_->name != name) loaded_ = Read(name, used);
  if (!loaded_) return nullptr;
  const size_t k = static_cast<size_t>(cls);
  static const std::byte nothing{};
  if (page_bytes_[k] == 0) return &nothing;
  return loaded_->pages[k].empty() ? nullptr : loaded_->pages[k].data();
}

void PrefixStore::Forget(const BlockHash& name) {
  const auto found = entries_.find(name);
  if (found == entries_.end()) return;
  std::error_code ignored;
  fs::remove(PathOf(name), ignored);
  bytes_ -= found->second.bytes;
  entries_.erase(found);
}

std::optional<StoredBlock> PrefixStore::Read(const BlockHash& name, uint64_t used) {
  std::string path;
  int32_t number = 0;
  {
    std::lock_guard lock(mutex_);
    const auto found = entries_.find(name);
    if (found == entries_.end()) return std::nullopt;
    found->second.used = used;
    number = found->second.block;
    path = PathOf(name);
  }
  const auto skip = [&](const char* why) -> std::optional<StoredBlock> {
    spdlog::warn("{}: {}: not used", path, why);
    std::lock_guard lock(mutex_);
    Forget(name);
    return std::nullopt;
  };
  std::ifstream file(path, std::ios::binary);
  Header header;
  BlockHash checksum;
  if (!file) return skip("cannot be opened");
  if (!file.read(reinterpret_cast<char*>(&header), kHeaderBytes) ||
      !file.read(reinterpret_cast<char*>(checksum.data()), checksum.size()))
    return skip("is cut off");
  const Header expected;
  if (std::memcmp(header.magic, expected.magic, sizeof(header.magic)) != 0 ||
      header.version != expected.version)
    return skip("is of another kind or version");
  const auto size_of = [&](int k) { return static_cast<int64_t>(header.page_bytes[k]); };
  if (header.name != name || header.block != number || size_of(0) != page_bytes_[0] ||
      (size_of(1) != page_bytes_[1] && size_of(1) != 0))
    return skip("holds something else than its name says");
  StoredBlock block;
  block.name = header.name;
  block.before = header.before;
  block.block = header.block;
  block.dense = header.dense != 0;
  for (int k : {0, 1}) {
    block.pages[k].resize(header.page_bytes[k]);
    if (!file.read(reinterpret_cast<char*>(block.pages[k].data()),
                   static_cast<std::streamsize>(block.pages[k].size())))
      return skip("is cut off");
  }
  if (file.peek() != std::ifstream::traits_type::eof()) return skip("is too long");
  if (Checksum(header, block.pages) != checksum) return skip("is damaged");
  utimensat(AT_FDCWD, path.c_str(), nullptr, 0);  // the next start goes by it
  return block;
}

void PrefixStore::Use(const BlockHash& name, uint64_t used) {
  std::lock_guard lock(mutex_);
  const auto found = entries_.find(name);
  if (found != entries_.end()) found->second.used = used;
}

bool PrefixStore::ready() const {
  std::lock_guard lock(mutex_);
  return queued_bytes_ < kQueueBytes;
}

void PrefixStore::Write(StoredBlock block, uint64_t used) {
  std::lock_guard lock(mutex_);
  queued_bytes_ += static_cast<int64_t>(block.pages[0].size() + block.pages[1].size());
  queue_.push_back({std::move(block), used});
  changed_.notify_all();
}

void PrefixStore::Flush() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return queue_.empty() && !writing_; });
}

int64_t PrefixStore::bytes() const {
  std::lock_guard lock(mutex_);
  return bytes_;
}

Status PrefixStore::WriteFile(const StoredBlock& block) const {
  const Header header = HeaderOf(block);
  const BlockHash checksum = Checksum(header, block.pages);
  const std::string path =
      fmt::format("{}/{}-{}{}", directory_, Hex(block.name), block.block, kSuffix);
  const std::string temporary = fmt::format("{}.{}.tmp", path, getpid());
  std::ofstream file(temporary, std::ios::binary);
  file.write(reinterpret_cast<const char*>(&header), kHeaderBytes);
  file.write(reinterpret_cast<const char*>(checksum.data()), checksum.size());
  for (const auto& page : block.pages)
    file.write(reinterpret_cast<const char*>(page.data()),
               static_cast<std::streamsize>(page.size()));
  file.close();
  std::error_code error;
  if (file) fs::rename(temporary, path, error);
  if (file && !error) return Ok();
  std::error_code ignored;
  fs::remove(temporary, ignored);
  return Unavailable("{}: cannot be written: {}", path,
                     error ? error.message() : std::strerror(errno));
}

// Deletes the longest unused blocks until the limit is kept.
void PrefixStore::MakeRoom() {
  if (bytes_ <= limit_bytes_) return;
  std::vector<std::tuple<uint64_t, int64_t, int32_t, BlockHash>> order;
  for (const auto& [name, e] : entries_) order.push_back({e.used, e.minute, -e.block, name});
  std::sort(order.begin(), order.end());
  // Somewhat more than needed, so that this does not happen for every block.
  for (size_t i = 0; i < order.size() && bytes_ > limit_bytes_ - limit_bytes_ / 16; ++i)
    Forget(std::get<BlockHash>(order[i]));
}

void PrefixStore::Loop() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] { return stop_ || !queue_.empty(); });
    if (queue_.empty()) return;  // stopped
    const auto [block, used] = std::move(queue_.front());
    queue_.pop_front();
    writing_ = true;
    lock.unlock();
    const Status status = WriteFile(block);
    lock.lock();
    writing_ = false;
    const int64_t payload = static_cast<int64_t>(block.pages[0].size() + block.pages[1].size());
    queued_bytes_ -= payload;
    if (status.ok()) {
      failed_ = false;
      Entry& entry = entries_[block.name];
      bytes_ -= entry.bytes;
      entry = {payload + static_cast<int64_t>(kHeaderBytes + sizeof(BlockHash)), used, 0,
               block.block};
      bytes_ += entry.bytes;
      MakeRoom();
    } else if (!std::exchange(failed_, true)) {  // once, not for every block of a full disk
      spdlog::warn("{}", status.message());
    }
    changed_.notify_all();
  }
}

}  // namespace lserve
