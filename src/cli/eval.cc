// `lserve eval`: the accuracy laboratory, a Python program of the standard library alone.
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "cli/commands.h"
#include "cli/options.h"
#include "core/data_dir.h"

namespace lserve {
namespace {

namespace fs = std::filesystem;

// Installed it lies in the data folder, in a source tree beside it.
Result<std::string> FindLaboratory() {
  const fs::path data = DataDir();
  for (const fs::path& folder : {data / "tools" / "eval", data.parent_path() / "tools" / "eval"}) {
    std::error_code error;
    if (fs::is_regular_file(folder / "__main__.py", error)) return folder.string();
  }
  return NotFound("eval: tools/eval is neither in {} nor beside it (LSERVE_DATA_DIR)",
                  data.string());
}

// Becomes Python; returns only when that failed.
Status RunLaboratory(const std::vector<std::string>& given) {
  Result<std::string> folder = FindLaboratory();
  if (!folder.ok()) return folder.status();
  const char* named = std::getenv("LSERVE_PYTHON");
  std::string python = named && *named ? named : "python3";
  std::error_code error;
  const fs::path self = fs::read_symlink("/proc/self/exe", error);
  if (!error) setenv("LSERVE_PROGRAM", self.c_str(), 1);  // for servers of its own
  std::vector<std::string> words = {python, *folder};
  words.insert(words.end(), given.begin(), given.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  execvp(argv[0], argv.data());
  return Unavailable("eval: {} could not be started: {} (LSERVE_PYTHON names another Python)",
                     python, std::strerror(errno));
}

}  // namespace

Command AddEval(CLI::App* app) {
  // Everything after it is the laboratory's, --help too: nothing falls through to the program.
  app->prefix_command()->fallthrough(false);
  app->set_help_flag();
  return [app] { return Fail(RunLaboratory(app->remaining())); };
}

}  // namespace lserve
