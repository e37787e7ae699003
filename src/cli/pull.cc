#include "cli/pull.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <thread>

#include "cli/checksum.h"
#include "cli/http_client.h"
#include "cli/hub.h"
#include "cli/url.h"

namespace lserve {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr size_t kMaxAnswerBytes = 16 << 20;  // of the hub's API and of the shard index
constexpr auto kProgressInterval = std::chrono::milliseconds(200);

std::string Environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

double Seconds(Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

void PrintProgress(const PullProgress& p) {
  constexpr double kMega = 1e6;
  bool tty = isatty(STDERR_FILENO) == 1;
  bool whole = p.done == p.total;
  std::fprintf(stderr, "%s%d/%d %s: %.1f of %.1f MB, %.1f MB/s%s", tty ? "\r\033[K" : "",
               p.file_number, p.files, p.file.c_str(), p.done / kMega, p.total / kMega,
               p.bytes_per_second / kMega, tty && !whole ? "" : "\n");
  std::fflush(stderr);
}

// A file that grows at its end. Errors name it.
class PartFile {
 public:
  static Result<PartFile> Open(const fs::path& path) {
    int fd = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0) return Error(path);
    return PartFile(fd, path);
  }
  PartFile(PartFile&& other) noexcept
      : fd_(std::exchange(other.fd_, -1)), path_(std::move(other.path_)) {}
  PartFile& operator=(PartFile&&) = delete;
  ~PartFile() {
    if (fd_ >= 0) close(fd_);
  }

  // Adds all bytes there are to the checksum and moves to the end; how many there are.
  Result<int64_t> ReadAll(Checksum& checksum) {
    std::string piece(1 << 20, '\0');
    int64_t size = 0;
    if (lseek(fd_, 0, SEEK_SET) < 0) return Error(path_);
    for (;;) {
      ssize_t count = read(fd_, piece.data(), piece.size());
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) return Error(path_);
      if (count == 0) return size;
      checksum.Add({piece.data(), static_cast<size_t>(count)});
      size += count;
    }
  }
  Status Append(std::string_view bytes) {
    while (!bytes.empty()) {
      ssize_t count = write(fd_, bytes.data(), bytes.size());
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) return Error(path_);
      bytes.remove_prefix(static_cast<size_t>(count));
    }
    return Ok();
  }
  Status Clear() {
    if (ftruncate(fd_, 0) != 0 || lseek(fd_, 0, SEEK_SET) < 0) return Error(path_);
    return Ok();
  }
  Status Flush() { return fsync(fd_) == 0 ? Ok() : Error(path_); }

 private:
  PartFile(int fd, fs::path path) : fd_(fd), path_(std::move(path)) {}
  static Status Error(const fs::path& path) {
    std::string text = fmt::format("{}: {}", path.string(), std::strerror(errno));
    return {errno == ENOSPC ? Code::kResourceExhausted : Code::kUnavailable, text};
  }

  int fd_;
  fs::path path_;
};

class Puller {
 public:
  Puller(const PullOptions& options, const std::string& token)
      : options_(options), client_({options.timeout, 10, token}) {}

  Result<std::string> Run(const HubName& name, const Url& endpoint, const fs::path& models) {
    endpoint_ = endpoint;
    if (endpoint_.target.back() == '/') endpoint_.target.pop_back();
    repository_ = name.Repository();
    folder_ = models / name.FolderName();

    const std::string path =
        "/api/models/" + repository_ + "/revision/" + EncodeSegment(name.revision) + "?blobs=true";
    Result<std::string> answer = GetText(path);
    if (!answer.ok()) return answer.status();
    Result<HubModel> model = ParseModelInfo(*answer, At(path).ToString());
    if (!model.ok()) return model.status();
    commit_ = model->commit;
    if (Status s = MakeFolder(); !s.ok()) return s;
    return options_.file.empty() ? PullDirectory(*model) : PullGguf(*model);
  }

 private:
  Url At(const std::string& path) const {
    Url url = endpoint_;
    url.target += path;
    return url;
  }
  Url FileUrl(const HubFile& file) const {
    return At("/" + repository_ + "/resolve/" + commit_ + "/" + EncodePath(file.name));
  }

  Status MakeFolder() const {
    std::error_code error;
    fs::create_directories(folder_, error);
    return error ? Unavailable("{}: {}", folder_.string(), error.message()) : Ok();
  }

  Result<std::string> PullGguf(const HubModel& model) {
    Result<HubFile> file = ChooseGguf(model, options_.file);
    if (!file.ok()) return file.status().Annotate(repository_);
    if (Status s = Plan({*file}); !s.ok()) return s;
    if (Status s = Fetch(*file); !s.ok()) return s;
    return Target(*file).string();
  }

  Result<std::string> PullDirectory(const HubModel& model) {
    Result<std::vector<HubFile>> files = ChooseConfiguration(model);
    if (!files.ok()) return files.status().Annotate(repository_);
    std::string index;
    for (const HubFile& file : *files) {
      if (file.name != kShardIndex) continue;
      Result<std::string> text = GetText(FileUrl(file).target.substr(endpoint_.target.size()));
      if (!text.ok()) return text.status();
      index = std::move(*text);
    }
    Result<std::vector<HubFile>> weights = ChooseWeights(model, index);
    if (!weights.ok()) return weights.status().Annotate(repository_);
    files->insert(files->begin(), weights->begin(), weights->end());
    if (Status s = Plan(*files); !s.ok()) return s;
    for (const HubFile& file : *files) {
      if (Status s = Fetch(file); !s.ok()) return s;
    }
    return folder_.string();
  }

  // Sums up what will be fetched and looks whether the disk has room for it.
  Status Plan(const std::vector<HubFile>& files) {
    int64_t missing = 0;
    for (const HubFile& file : files) {
      total_ += file.size;
      std::error_code error;
      int64_t there = 0;
      for (const fs::path& path : {Target(file), Part(file)}) {
        uintmax_t size = fs::file_size(path, error);
        if (!error) there = std::max(there, static_cast<int64_t>(size));
      }
      missing += std::max<int64_t>(0, file.size - there);
    }
    files_ = static_cast<int>(files.size());
    std::error_code error;
    fs::space_info space = fs::space(folder_, error);
    if (!error && static_cast<int64_t>(space.available) < missing) {
      return ResourceExhausted("{}: {:.1f} GB are missing, the disk has {:.1f} GB left",
                               folder_.string(), missing / 1e9, space.available / 1e9);
    }
    return Ok();
  }

  fs::path Target(const HubFile& file) const { return folder_ / fs::path(file.name).filename(); }
  // Named by checksum, so that no bytes of another revision are continued.
  fs::path Part(const HubFile& file) const {
    return Target(file).string() + "." + file.checksum.substr(0, 16) + ".part";
  }

  Status Fetch(const HubFile& file) {
    ++file_number_;
    const fs::path target = Target(file), part = Part(file);
    std::error_code error;
    if (fs::exists(target, error)) {
      Result<PartFile> there = PartFile::Open(target);
      if (!there.ok()) return there.status();
      Checksum checksum(file.kind, file.size);
      Result<int64_t> size = there->ReadAll(checksum);
      if (!size.ok()) return size.status();
      if (*size == file.size && checksum.Finish() == file.checksum) {
        done_ += file.size;
        Report(file, 0, true);
        return Ok();
      }
    }
    if (Status s = Download(file, part); !s.ok()) return s;
    fs::rename(part, target, error);
    if (error) return Unavailable("{}: {}", target.string(), error.message());
    done_ += file.size;
    Report(file, 0, true);
    return Ok();
  }

  // Until `part` holds the whole file with the right checksum.
  Status Download(const HubFile& file, const fs::path& part) {
    auto delay = options_.retry_delay;
    int failures = 0;
    for (;;) {
      int64_t before = 0, after = 0;
      Status s = Attempt(file, part, &before, &after);
      if (s.ok() || s.code() != Code::kUnavailable || final_) return s;
      if (after > before) {
        failures = 0;
        delay = options_.retry_delay;
      }
      if (++failures >= options_.attempts) {
        return s.Annotate(fmt::format("{}: given up after {} attempts (call again to go on)",
                                      file.name, failures));
      }
      std::this_thread::sleep_for(delay);
      delay *= 2;
    }
  }

  // One request for what is missing. `before` and `after`: bytes in the part file.
  Status Attempt(const HubFile& file, const fs::path& part, int64_t* before, int64_t* after) {
    Result<PartFile> out = PartFile::Open(part);
    if (!out.ok()) return out.status();
    auto checksum = std::make_unique<Checksum>(file.kind, file.size);
    Result<int64_t> there = out->ReadAll(*checksum);
    if (!there.ok()) return there.status();
    int64_t have = *there;
    auto start_over = [&]() -> Status {
      have = 0;
      checksum = std::make_unique<Checksum>(file.kind, file.size);
      return out->Clear();
    };
    if (have > file.size) {
      if (Status s = start_over(); !s.ok()) return s;
    }
    *before = *after = have;

    if (have < file.size || file.size == 0) {
      auto head = [&](const HttpResponse& response) -> Status {
        if (response.status == 206 && response.range_begin != have) {
          return Unavailable("{}: the server sends another range than was asked for", file.name);
        }
        // Without 206 the server sends the file from its start.
        return response.status == 206 || have == 0 ? Ok() : start_over();
      };
      auto body = [&](std::string_view piece) -> Status {
        if (static_cast<int64_t>(piece.size()) > file.size - have) {
          return DataLoss("{}: the server sends more than the {} bytes it announced", file.name,
                          file.size);
        }
        if (Status s = out->Append(piece); !s.ok()) return s;
        checksum->Add(piece);
        have += static_cast<int64_t>(piece.size());
        received_ += static_cast<int64_t>(piece.size());
        *after = std::max(*after, have);
        Report(file, have, false);
        return Ok();
      };
      Result<HttpResponse> response = client_.Get(FileUrl(file), have, head, body);
      if (!response.ok()) return response.status();
      if (Status s = CheckStatus(*response, file.name); !s.ok()) return s;
    }
    if (have < file.size) {
      return Unavailable("{}: the server sent {} of {} bytes", file.name, have, file.size);
    }
    if (std::string got = checksum->Finish(); got != file.checksum) {
      std::error_code error;
      fs::remove(part, error);
      return DataLoss("{}: checksum {}, expected {}; the download was deleted", file.name, got,
                      file.checksum);
    }
    return out->Flush();
  }

  // What an answer that is not 2xx means. Sets final_ if asking again is no use.
  Status CheckStatus(const HttpResponse& response, const std::string& what) {
    if (response.status / 100 == 2) return Ok();
    final_ = response.status / 100 == 4 && response.status != 408 && response.status != 429;
    switch (response.status) {
      case 401:
      case 403:
        return Unavailable(
            "{}: {} answers {}: it does not exist, or it is private or gated: set HF_TOKEN to a "
            "token that may read it",
            what, endpoint_.Origin(), response.status);
      case 404:
        return NotFound("{}: {} answers 404: no such model, revision or file", what,
                        endpoint_.Origin());
      default:
        return Unavailable("{}: {} answers {}: {}", what, endpoint_.Origin(), response.status,
                           response.error_body.substr(0, 200));
    }
  }

  Result<std::string> GetText(const std::string& path) {
    std::string text;
    auto body = [&](std::string_view piece) -> Status {
      if (text.size() + piece.size() > kMaxAnswerBytes) {
        return ResourceExhausted("{}: the answer is longer than {} MiB", At(path).ToString(),
                                 kMaxAnswerBytes >> 20);
      }
      text += piece;
      return Ok();
    };
    auto delay = options_.retry_delay;
    for (int attempt = 1;; ++attempt) {
      text.clear();
      Result<HttpResponse> response = client_.Get(
          At(path), 0, [](const HttpResponse&) { return Ok(); }, body);
      Status s = response.ok() ? CheckStatus(*response, repository_) : response.status();
      if (s.ok()) return text;
      if (s.code() != Code::kUnavailable || final_ || attempt >= options_.attempts) return s;
      std::this_thread::sleep_for(delay);
      delay *= 2;
    }
  }

  void Report(const HubFile& file, int64_t in_file, bool always) {
    Clock::time_point now = Clock::now();
    if (!always && now - reported_ < kProgressInterval) return;
    reported_ = now;
    PullProgress progress{file.name, file_number_, files_, done_ + in_file, total_, 0};
    if (double seconds = Seconds(now - started_); seconds > 0) {
      progress.bytes_per_second = static_cast<double>(received_) / seconds;
    }
    options_.progress ? options_.progress(progress) : PrintProgress(progress);
  }

  const PullOptions& options_;
  HttpClient client_;
  Url endpoint_;            // target without the last '/'
  std::string repository_;  // ORG/NAME
  std::string commit_;
  fs::path folder_;
  bool final_ = false;
  int files_ = 0, file_number_ = 0;
  int64_t total_ = 0, done_ = 0, received_ = 0;
  Clock::time_point started_ = Clock::now(), reported_;
};

}  // namespace

std::string DefaultModelFolder() {
  std::string cache = Environment("LSERVE_CACHE");
  if (cache.empty()) cache = Environment("HOME") + "/.cache/lserve";
  return cache + "/models";
}

Result<std::string> Pull(const PullOptions& options) {
  Result<HubName> name = ParseHubName(options.model);
  if (!name.ok()) return name.status();
  std::string endpoint = options.endpoint.empty() ? Environment("HF_ENDPOINT") : options.endpoint;
  if (endpoint.empty()) endpoint = "https://huggingface.co";
  Result<Url> url = ParseUrl(endpoint);
  if (!url.ok()) return url.status().Annotate("HF_ENDPOINT");
  std::string token = options.token.empty() ? Environment("HF_TOKEN") : options.token;
  std::string folder = options.folder.empty() ? DefaultModelFolder() : options.folder;
  return Puller(options, token).Run(*name, *url, folder);
}

}  // namespace lserve
