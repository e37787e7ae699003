// How long a step will take, learned from those before: seconds = a + b * rows + c * keys read, all
// coefficients non-negative, fitted to the newest steps with prompts and the newest without (least
// squares of the relative error). One thread.
#pragma once

#include <array>
#include <cstddef>
#include <vector>

namespace lserve {

struct StepWork {
  int rows = 0;          // tokens computed
  int prompt_rows = 0;   // of them prompt tokens
  double keys_read = 0;  // by a retrieval head: sum over rows of the tokens they look at
};

class StepTime {
 public:
  void Observe(const StepWork& work, double seconds);

  // Whether steps with prompts have been seen: without, costs of prompt tokens are unknown.
  bool knows_prompts() const { return !with_prompts_.steps.empty(); }
  double Seconds(const StepWork& work) const;
  // What one more row that reads so many keys costs.
  double RowSeconds(double keys) const { return fit_[1] + fit_[2] * keys; }

 private:
  struct Sample {
    std::array<double, 3> x;  // 1, rows, keys
    double seconds;
  };
  struct Recent {
    std::vector<Sample> steps;
    size_t next = 0;
    void Add(const Sample& sample);
  };
  void Fit();

  Recent with_prompts_, without_;
  std::array<double, 3> fit_{};
};

}  // namespace lserve
