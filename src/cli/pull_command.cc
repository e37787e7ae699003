#include "cli/commands.h"
#include "cli/options.h"
#include "cli/pull.h"

namespace lserve {

Command AddPull(CLI::App* app) {
  auto options = std::make_shared<PullOptions>();
  app->add_option("model", options->model, "ORG/NAME or ORG/NAME@REVISION")->required();
  app->add_option(
      "--file", options->file,
      "A .gguf file of the repository, instead of configuration, tokenizer and safetensors");
  app->add_option("--folder", options->folder, "Folder of models; empty: ~/.cache/lserve/models");
  app->add_option("--endpoint", options->endpoint,
                  "Hub to ask; empty: HF_ENDPOINT, else https://huggingface.co");
  return [options] {
    Result<std::string> path = Pull(*options);
    if (!path.ok()) return Fail(path.status());
    fmt::print("{}\n", *path);
    return 0;
  };
}

}  // namespace lserve
