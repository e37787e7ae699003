// How long a step will take, learned from those before:
//   seconds = a + b * rows + c * keys read + d * context of its prompts,
// all coefficients non-negative, fitted to the newest steps with prompts and the newest without
// (least squares of the relative error). The last term is what a chunk costs however short it is: a
// GPU gathers the keys before it. One thread.
#pragma once

#include <array>
#include <cstddef>
#include <vector>

namespace lserve {

struct StepWork {
  int rows = 0;          // tokens computed
  int prompt_rows = 0;   // of them prompt tokens
  double keys_read = 0;  // by a retrieval head: sum over rows of the tokens they look at
  double context = 0;    // sum over prompts that take part: tokens stored after the step
};

class StepTime {
 public:
  void Observe(const StepWork& work, double seconds);

  // Whether steps with prompts have been seen: without, costs of prompt tokens are unknown.
  bool knows_prompts() const { return !with_prompts_.steps.empty(); }
  double Seconds(const StepWork& work) const;
  // What one more row that reads so many keys costs.
  double RowSeconds(double keys) const { return fit_[1] + fit_[2] * keys; }
  // What a prompt costs beside its rows.
  double PromptSeconds(double context) const { return fit_[3] * context; }

  static constexpr int kTerms = 4;
  using Terms = std::array<double, kTerms>;

 private:
  struct Sample {
    Terms x;  // 1, rows, keys, context
    double seconds;
  };
  struct Recent {
    std::vector<Sample> steps;
    size_t next = 0;
    void Add(const Sample& sample);
  };
  void Fit();

  Recent with_prompts_, without_;
  Terms fit_{};
};

}  // namespace lserve
