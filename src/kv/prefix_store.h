// Blocks of the prefix cache in files, so that they survive a restart. A file a block, named by the
// block's hash, which covers all that its contents depend on: files of another model or version are
// simply never asked for. Files are written under another name and renamed, and carry a checksum;
// one that is cut off, damaged or foreign is skipped with a warning. The directory is bounded: the
// longest unused blocks go first, of those used together the later ones of a prompt. Several
// processes may share it.
//
// `used` is a time that the caller counts; blocks that are used together have the same.
//
// For one thread, the engine's; a thread of its own writes.
//
// The file, little endian: kHeaderBytes of header (magic, version, block number, dense flag, bytes
// of the retrieval and the streaming page, name, name of the block before), SHA-256 of header and
// pages, pages.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "core/status.h"
#include "kv/block_hash.h"
#include "kv/prefix_tier.h"

namespace lserve {

struct StoredBlock {
  BlockHash name{}, before{};
  int32_t block = 0;
  bool dense = false;
  std::vector<std::byte> pages[2];  // by HeadClass; the streaming one may be empty
};

class PrefixStore : public PrefixTier {
 public:
  // `page_bytes`: of whole pages, by HeadClass. Errors name the directory.
  static Result<std::unique_ptr<PrefixStore>> Open(const std::string& directory,
                                                   int64_t limit_bytes,
                                                   const int64_t (&page_bytes)[2]);
  ~PrefixStore() override;  // after what is queued is written

  bool Has(const BlockHash& name) const;
  bool Has(const BlockHash& name, HeadClass cls) const override;
  const std::byte* Load(const BlockHash& name, HeadClass cls, uint64_t used) override;
  // Nothing when there is no such file or it is not what it should be; it is forgotten then.
  std::optional<StoredBlock> Read(const BlockHash& name, uint64_t used);
  void Use(const BlockHash& name, uint64_t used) override;
  // Room in the queue for another block.
  bool ready() const;
  void Write(StoredBlock block, uint64_t used);
  void Flush();  // waits until everything queued is written

  int64_t bytes() const;  // in files

 private:
  struct Entry {
    int64_t bytes = 0;
    uint64_t used = 0;   // 0: not since the start
    int64_t minute = 0;  // of the file's time, for those
    int32_t block = 0;
  };
  PrefixStore(std::string directory, int64_t limit_bytes, const int64_t (&page_bytes)[2]);
  Status Scan();
  std::string PathOf(const BlockHash& name) const;
  Status WriteFile(const StoredBlock& block) const;
  void Loop();
  void MakeRoom();  // REQUIRES: mutex_
  void Forget(const BlockHash& name);

  const std::string directory_;
  const int64_t limit_bytes_, page_bytes_[2];
  std::optional<StoredBlock> loaded_;  // the newest: both its pages are usually wanted

  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::unordered_map<BlockHash, Entry, BlockHashBits> entries_;
  std::deque<std::pair<StoredBlock, uint64_t>> queue_;
  int64_t bytes_ = 0, queued_bytes_ = 0;
  bool writing_ = false, stop_ = false, failed_ = false;

  std::thread thread_;
};

}  // namespace lserve
