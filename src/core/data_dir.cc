#include "core/data_dir.h"

#include <cstdlib>
#include <filesystem>

namespace lserve {

std::string DataDir() {
  namespace fs = std::filesystem;
  if (const char* given = std::getenv("LSERVE_DATA_DIR"); given && *given) return given;
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error);
  if (!error) {
    const fs::path installed = program.parent_path().parent_path() / "share" / "lserve";
    if (fs::is_directory(installed, error)) return installed;
  }
  return LSERVE_SOURCE_DIR "/data";
}

}  // namespace lserve
