// `lserve calibrate`: a head pattern for a model that nobody trained one for.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>

#include "cli/commands.h"
#include "cli/options.h"
#include "eval/head_effects.h"
#include "model/fingerprint.h"
#include "model/profile.h"
#include "model/weights.h"

namespace lserve {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

struct Flags {
  std::string model = kDefaultModel, samples, out, kv = "kv16", page_map;
  ProbeOptions probe;
  int tail = 64, max_samples = 0, random_patterns = 3;
  double target = 1, max_kl = 0.05;
  std::vector<int> budgets = {512, 1024, 2048, 4096};
  int map_budget = 1024;
  std::vector<double> sparsities = {0.25, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95};
};

void PrintProgress(const char* what, int done, int total) {
  if (done == total || done % 50 == 0) fmt::print(stderr, "\r{} {} of {} ", what, done, total);
  if (done == total) fmt::print(stderr, "\n");
}

// Spearman's rank correlation; equal values share their mean rank.
double RankCorrelation(const std::vector<double>& a, const std::vector<double>& b) {
  const auto ranks = [](const std::vector<double>& values) {
    std::vector<size_t> order(values.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::sort(order.begin(), order.end(),
              [&](size_t i, size_t j) { return values[i] < values[j]; });
    std::vector<double> out(values.size());
    for (size_t i = 0, j; i < order.size(); i = j) {
      for (j = i; j < order.size() && values[order[j]] == values[order[i]];) ++j;
      for (size_t k = i; k < j; ++k) out[order[k]] = static_cast<double>(i + j - 1) / 2;
    }
    return out;
  };
  const std::vector<double> x = ranks(a), y = ranks(b);
  const double middle = static_cast<double>(a.size() - 1) / 2;
  double over = 0, xx = 0, yy = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    over += (x[i] - middle) * (y[i] - middle);
    xx += (x[i] - middle) * (x[i] - middle);
    yy += (y[i] - middle) * (y[i] - middle);
  }
  return xx > 0 && yy > 0 ? over / std::sqrt(xx * yy) : 0;
}

// What a calibrated pattern has to beat at equal sparsity.
HeadPattern RandomPattern(const HeadPattern& like, unsigned seed) {
  HeadPattern pattern = like;
  std::mt19937 draw(seed);
  for (float& gate : pattern.gates) gate = static_cast<float>(draw() >> 8) / (1 << 24);
  return pattern;
}

// The heuristic: heads of the middle layers retrieve, those of the first and last ones stream.
HeadPattern MiddleLayers(const HeadPattern& like) {
  HeadPattern pattern = like;
  const double middle = 0.5 * (like.layers - 1);
  for (int layer = 0; layer < like.layers; ++layer)
    for (int head = 0; head < like.kv_heads; ++head)
      pattern.gates[static_cast<size_t>(layer * like.kv_heads + head)] =
          static_cast<float>(1 - std::abs(layer - middle) / like.layers);
  return pattern;
}

// What may be lost: `points` of the samples that dense answers and, because few samples decide
// about few points, `kl` nats a token between the two distributions.
struct Allowed {
  double points, kl;
};

bool Keeps(const SplitScore& score, const Allowed& allowed) {
  return 100.0 * (score.dense_right - score.right) <= allowed.points * score.samples &&
         score.kl <= allowed.kl;
}

// The largest static sparsity such that it, and every smaller one, loses no more than is allowed.
SplitScore ChooseSparsity(std::span<const SplitScore> scores, const Allowed& allowed) {
  SplitScore chosen;
  for (const SplitScore& score : scores) {
    if (!Keeps(score, allowed)) break;
    chosen = score;
  }
  return chosen;
}

// Likewise the smallest budget; 0: none does. `scores` by ascending budget.
int ChooseBudget(std::span<const SplitScore> scores, const Allowed& allowed) {
  int chosen = 0;
  for (size_t i = scores.size(); i-- > 0 && Keeps(scores[i], allowed);) chosen = scores[i].budget;
  return chosen;
}

Json ScoresJson(std::span<const SplitScore> scores) {
  Json list = Json::array();
  for (const SplitScore& s : scores)
    list.push_back({{"static_sparsity", s.sparsity},
                    {"budget", s.budget},
                    {"streaming", s.streaming},
                    {"samples", s.samples},
                    {"dense_right", s.dense_right},
                    {"right", s.right},
                    {"lost", s.lost},
                    {"won", s.won},
                    {"kl", s.kl},
                    {"nll_change", s.nll}});
  return list;
}

Status WriteText(const fs::path& path, const std::string& text) {
  std::ofstream out(path, std::ios::binary);
  out << text;
  out.close();
  if (!out) return Unavailable("{} could not be written", path.string());
  return Ok();
}

std::string Table(const std::vector<double>& values, int columns) {
  std::string text;
  for (size_t i = 0; i < values.size(); ++i)
    text += fmt::format("{:.9g}{}", values[i],
                        (i + 1) % static_cast<size_t>(columns) == 0 ? "\n" : "\t");
  return text;
}

// Decodes one answer with selection and tells which pages which head read.
Json PageMap(Probe* probe, const RecallSample& sample, const HeadSplit& split, int budget) {
  probe->Begin({sample.prompt.data(), sample.prompt.size() - 1});
  std::vector<int32_t> ids = {sample.prompt.back()};
  ids.insert(ids.end(), sample.answer.begin(), sample.answer.end() - 1);
  PageReads reads;
  const LogitRows logits = probe->Decode(ids, split.layers, budget, &reads);
  const AnswerChange change = Compare(logits, logits, sample.answer, probe->pool());
  // Where the document says it, as far as its tokens are the answer's.
  const auto& needle = sample.answer.size() > 2
                           ? std::vector(sample.answer.begin() + 1, sample.answer.end() - 1)
                           : sample.answer;
  const auto found =
      std::search(sample.prompt.begin(), sample.prompt.end(), needle.begin(), needle.end());
  Json map = {{"task", sample.task},     {"prompt_tokens", sample.prompt.size()},
              {"steps", reads.steps},    {"blocks", reads.blocks},
              {"budget", budget},        {"right", change.all_first},
              {"answer_block", nullptr}, {"heads", Json::array()}};
  if (found != sample.prompt.end())
    map["answer_block"] = (found - sample.prompt.begin()) / kBlockTokens;
  for (size_t layer = 0; layer < reads.reads.size(); ++layer)
    for (size_t head = 0; head < reads.reads[layer].size(); ++head)
      map["heads"].push_back({{"layer", layer},
                              {"head", head},
                              {"streaming", split.layers[layer].streaming(static_cast<int>(head))},
                              {"reads", reads.reads[layer][head]}});
  return map;
}

struct Rival {
  std::string name;
  HeadPattern pattern;
};

Status Calibrate(Flags* flags) {
  Result<KvTypes> types = ParseKvTypes(flags->kv);
  if (!types.ok()) return types.status().Annotate("--kv");
  flags->probe.kv = *types;
  std::sort(flags->sparsities.begin(), flags->sparsities.end());
  std::sort(flags->budgets.begin(), flags->budgets.end());
  flags->probe.max_budget = flags->map_budget;
  for (const int budget : flags->budgets)
    flags->probe.max_budget = std::max(flags->probe.max_budget, budget);
  for (const int budget :
       {flags->budgets.empty() ? kBlockTokens * 8 : flags->budgets.front(), flags->map_budget}) {
    SparsityConfig sparsity;
    sparsity.budget = budget / kBlockTokens * kBlockTokens;
    if (Status s = Planner::Check(sparsity); !s.ok()) return s;
  }
  Result<std::string> path = FindModel(flags->model);
  if (!path.ok()) return path.status();
  Result<ModelFiles> files = OpenModel(*path);
  if (!files.ok()) return files.status();
  const ModelConfig& c = files->config;
  Result<std::vector<RecallSample>> loaded = LoadSamples(flags->samples, c.vocab);
  if (!loaded.ok()) return loaded.status().Annotate("--samples");
  if (loaded->size() < 2)
    return InvalidArgument("--samples {}: one half calibrates, the other judges: two at least",
                           flags->samples);
  for (const RecallSample& sample : *loaded)
    flags->probe.max_length = std::max(
        flags->probe.max_length, static_cast<int>(sample.prompt.size() + sample.answer.size()));
  std::error_code error;
  fs::create_directories(flags->out, error);
  if (error) return Unavailable("--out {}: {}", flags->out, error.message());
  Result<std::unique_ptr<Probe>> probe = Probe::Make(*files, flags->probe);
  if (!probe.ok()) return probe.status();

  // By turns: tasks and lengths stand together in the file.
  std::vector<RecallSample> fit, judge;
  int easy = 0;
  for (RecallSample& sample : *loaded) {
    std::vector<RecallSample>& half = fit.size() <= judge.size() ? fit : judge;
    if (flags->max_samples > 0 && static_cast<int>(half.size()) >= flags->max_samples) break;
    if (NeedsContext(probe->get(), sample, flags->tail))
      half.push_back(std::move(sample));
    else
      ++easy;
  }
  if (easy > 0)
    fmt::print(stderr, "{} samples left out: their answers are the same when every head streams\n",
               easy);
  if (judge.empty())
    return InvalidArgument(
        "--samples {}: fewer than two samples need more than {} sink and {} window tokens at the "
        "end of their prompt (--tail {})",
        flags->samples, flags->probe.sink, flags->probe.window, flags->tail);

  const HeadEffects effects = MeasureHeads(probe->get(), fit, flags->tail, [](int done, int total) {
    PrintProgress("heads", done, total);
  });
  std::vector<Rival> rivals = {{"calibrated", GatesOf(effects)}};
  const HeadPattern gates = rivals[0].pattern;
  Result<std::optional<KnownModel>> known = FindKnownModel(*files);
  double correlation = 0;
  bool compared = false;
  if (known.ok() && *known) {
    Result<HeadPattern> shipped = LoadHeadPattern((*known)->head_pattern);
    if (shipped.ok() && shipped->gates.size() == gates.gates.size()) {
      correlation = RankCorrelation(effects.kl, {shipped->gates.begin(), shipped->gates.end()});
      compared = true;
      rivals.push_back({"known", std::move(*shipped)});
    }
  }
  rivals.push_back({"middle layers", MiddleLayers(gates)});
  for (int i = 1; i <= flags->random_patterns; ++i)
    rivals.push_back({fmt::format("random {}", i), RandomPattern(gates, static_cast<unsigned>(i))});
  std::vector<HeadPattern> patterns;
  for (const Rival& rival : rivals) patterns.push_back(rival.pattern);
  const std::vector<SplitScore> scores =
      ScoreSplits(probe->get(), judge, flags->tail, patterns, flags->sparsities,
                  [](int done, int total) { PrintProgress("splits", done, total); });
  const auto of = [&](size_t rival) {
    return std::span(scores).subspan(rival * flags->sparsities.size(), flags->sparsities.size());
  };
  const SplitScore best = ChooseSparsity(of(0), {flags->target, flags->max_kl});
  const double chosen = best.sparsity;
  const HeadSplit split = SplitHeads(gates, chosen);
  const std::vector<SplitScore> budgets =
      ScoreBudgets(probe->get(), judge, split, chosen, flags->budgets,
                   [](int done, int total) { PrintProgress("budgets", done, total); });
  // The streaming heads have had theirs.
  const int budget = ChooseBudget(budgets, {flags->target, best.kl + flags->max_kl});
  if (Status s = (*probe)->Health(); !s.ok()) return s;

  fmt::print("{:<14} {:>8} {:>10} {:>12} {:>8} {:>10} {:>12}\n", "pattern", "static", "streaming",
             "right/dense", "of", "KL, nats", "NLL change");
  Json judged = Json::object();
  for (size_t r = 0; r < rivals.size(); ++r) {
    for (const SplitScore& s : of(r))
      fmt::print("{:<14} {:>8} {:>10} {:>12} {:>8} {:>10.4f} {:>12.4f}\n", rivals[r].name,
                 s.sparsity, s.streaming, fmt::format("{}/{}", s.right, s.dense_right), s.samples,
                 s.kl, s.nll);
    judged[rivals[r].name] = ScoresJson(of(r));
  }
  if (compared) fmt::print("rank correlation with the known gates: {:.3f}\n", correlation);
  fmt::print(
      "static sparsity {} keeps all but {} points and {} nats on {} samples that did not "
      "calibrate\n",
      chosen, flags->target, flags->max_kl, judge.size());

  for (const SplitScore& s : budgets)
    fmt::print("budget {:>6}, static {}: {}/{} of {}, KL {:.4f}, NLL change {:.4f}\n", s.budget,
               s.sparsity, s.right, s.dense_right, s.samples, s.kl, s.nll);
  if (budget > 0)
    fmt::print("budget {} keeps them while answers are written\n", budget);
  else if (!budgets.empty())
    fmt::print("no budget of --budgets keeps them while answers are written\n");

  Json record = {{"model", files->path},
                 {"fingerprint", Fingerprint(*files)},
                 {"method", "one-head ablation of the answer: KL(dense || head streams)"},
                 {"gate", "kl / (kl + median of the positive ones)"},
                 {"layers", c.layers},
                 {"kv_heads", c.kv_heads},
                 {"sink_size", flags->probe.sink},
                 {"recent_size", flags->probe.window},
                 {"tail", flags->tail},
                 {"kv", flags->kv},
                 {"samples", flags->samples},
                 {"left_out", easy},
                 {"calibrated_on", fit.size()},
                 {"judged_on", judge.size()},
                 {"target_points", flags->target},
                 {"max_kl", flags->max_kl},
                 {"static_sparsity", chosen},
                 {"budget", budget},
                 {"judged", judged},
                 {"judged_budgets", ScoresJson(budgets)}};
  if (compared) record["rank_correlation_with_known"] = correlation;
  Profile profile;
  profile.fingerprint = Fingerprint(*files);
  profile.model = c.name;
  profile.head_pattern = "full_attention_heads.tsv";
  SparsityConfig found;
  found.static_sparsity = chosen;
  found.decode_sink = flags->probe.sink;
  found.decode_local = flags->probe.window;
  found.prefill_sink = std::max(found.prefill_sink, found.decode_sink);
  found.prefill_local = std::max(found.prefill_local, found.decode_local);
  if (budget > 0) found.budget = budget / kBlockTokens * kBlockTokens;
  if (Status s = Planner::Check(found); !s.ok()) return s;
  profile.settings = AllSettings(found);
  Json what = Json::array({"head_pattern", "static_sparsity"});
  if (budget > 0) what.push_back("budget");
  const Json provenance = {
      {"by", "lserve calibrate"},
      {"samples", flags->samples},
      {"calibrated_on", fit.size()},
      {"judged_on", judge.size()},
      {"target_points", flags->target},
      {"max_kl", flags->max_kl},
      {"found", what},
      {"given", Json::array({"decode_sink", "decode_local"})},
      {"everything else", budget > 0 ? "the program's defaults"
                                     : "the program's defaults; no budget that was tried kept the "
                                       "answers"},
      {"record", "config.json"}};
  profile.provenance = provenance.dump();
  const fs::path out = flags->out;
  const std::vector<double> values(gates.gates.begin(), gates.gates.end());
  if (Status s = WriteText(out / "full_attention_heads.tsv", Table(values, c.kv_heads)); !s.ok())
    return s;
  if (Status s = WriteText(out / "ablation_kl.tsv", Table(effects.kl, c.kv_heads)); !s.ok())
    return s;
  if (Status s = WriteText(out / "config.json", record.dump(1) + "\n"); !s.ok()) return s;
  if (Status s = WriteText(out / "profile.json", ProfileText(profile)); !s.ok()) return s;
  fmt::print("{}: use it with --profile {}\n", out.string(), (out / "profile.json").string());
  if (flags->page_map.empty()) return Ok();
  return WriteText(flags->page_map,
                   PageMap(probe->get(), judge[0], split, flags->map_budget).dump() + "\n");
}

}  // namespace

Command AddCalibrate(CLI::App* app) {
  auto flags = std::make_shared<Flags>();
  app->add_option("-m,--model", flags->model, "GGUF file, Hugging Face directory or default model")
      ->capture_default_str();
  app->add_option("--samples", flags->samples,
                  "JSON lines of lserve eval generate (or with prompt and answer as token ids); "
                  "every other one calibrates, the rest judges")
      ->required();
  app->add_option(
         "-o,--out", flags->out,
         "Folder for profile.json, full_attention_heads.tsv, config.json and ablation_kl.tsv")
      ->required();
  app->add_option("--target", flags->target,
                  "Points of exact answers that static sparsity, or a budget, may cost")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app->add_option("--max-kl", flags->max_kl,
                  "Nats a token of an answer by which either may move the model's distribution")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app->add_option("--sparsities", flags->sparsities, "Static sparsities to judge")
      ->check(CLI::Range(0.0, 1.0))
      ->delimiter(',');
  app->add_option("--tail", flags->tail,
                  "Tokens of the prompt's end, with the answer, for which heads stream")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app->add_option("--sink", flags->probe.sink, "First tokens a streaming head sees")
      ->capture_default_str();
  app->add_option("--window", flags->probe.window, "Newest tokens a streaming head sees")
      ->capture_default_str();
  app->add_option("--max-samples", flags->max_samples, "Most samples of each half; 0: all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  app->add_option("--random-patterns", flags->random_patterns, "Random patterns to compare with")
      ->check(CLI::Range(0, 100))
      ->capture_default_str();
  app->add_option("--page-map", flags->page_map,
                  "File for the pages that one answer's heads read, for lserve eval report");
  app->add_option("--budgets", flags->budgets,
                  "Budgets to judge, tokens; a context that fits in one is read whole")
      ->check(CLI::Range(kBlockTokens, 1 << 28))
      ->delimiter(',');
  app->add_option("--map-budget", flags->map_budget, "Budget of --page-map, tokens")
      ->check(CLI::Range(kBlockTokens, 1 << 28))
      ->capture_default_str();
  app->add_option("--kv", flags->kv, "KV cache type")->capture_default_str();
  app->add_option("--backend,--device", flags->probe.backend,
                  "auto (cuda where there is a GPU, else cpu), cuda, cpu or ref")
      ->check(CLI::IsMember({"auto", "cuda", "cpu", "ref"}))
      ->capture_default_str();
  app->add_option("--gpu", flags->probe.gpu, "Which GPU")->capture_default_str();
  app->add_option("-t,--threads", flags->probe.threads, "Compute threads; 0: one a core")
      ->capture_default_str();
  return [flags] {
    const Status status = Calibrate(flags.get());
    return status.ok() ? 0 : Fail(status);
  };
}

}  // namespace lserve
