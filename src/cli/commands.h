// The commands of `lserve`. Each adds its flags to its subcommand and returns what to run; the
// result is the exit status. Main thread.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>

namespace lserve {

using Command = std::function<int()>;

Command AddServe(CLI::App* app);
Command AddGenerate(CLI::App* app);
Command AddChat(CLI::App* app);
Command AddPull(CLI::App* app);
Command AddBench(CLI::App* app);
Command AddBenchServe(CLI::App* app);  // a subcommand of bench
Command AddInspect(CLI::App* app);
Command AddEval(CLI::App* app);
Command AddCalibrate(CLI::App* app);

}  // namespace lserve
