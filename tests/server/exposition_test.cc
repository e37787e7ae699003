// The text that Prometheus reads.
#include "server/exposition.h"

#include <gtest/gtest.h>

namespace lserve {
namespace {

TEST(Exposition, WritesFamiliesAndSamples) {
  Exposition out;
  out.Family("a_total", "What it counts.", "counter");
  out.Sample({}, int64_t{9007199254740993});
  out.Family("b", "Half.", "gauge");
  out.Sample({{"model_name", "m"}, {"pool", "x"}}, 0.5);
  EXPECT_EQ(out.text(),
            "# HELP a_total What it counts.\n# TYPE a_total counter\na_total 9007199254740993\n"
            "# HELP b Half.\n# TYPE b gauge\nb{model_name=\"m\",pool=\"x\"} 0.5\n");
}

TEST(Exposition, LabelsAreEscaped) {
  Exposition out;
  out.Family("a", "b", "gauge");
  out.Sample({{"model_name", "C:\\m \"x\"\n"}}, int64_t{1});
  EXPECT_NE(out.text().find("a{model_name=\"C:\\\\m \\\"x\\\"\\n\"} 1\n"), std::string::npos)
      << out.text();
}

TEST(Exposition, BucketsAreCumulativeAndIncludeTheirBound) {
  Histogram histogram({0.001, 1, 2560});
  histogram.Observe(0.0005);
  histogram.Observe(1, 2);
  histogram.Observe(5000);
  Exposition out;
  out.Family("h", "b", "histogram");
  histogram.Write({{"m", "n"}}, &out);
  EXPECT_EQ(out.text(),
            "# HELP h b\n# TYPE h histogram\n"
            "h_bucket{m=\"n\",le=\"0.001\"} 1\nh_bucket{m=\"n\",le=\"1\"} 3\n"
            "h_bucket{m=\"n\",le=\"2560\"} 3\nh_bucket{m=\"n\",le=\"+Inf\"} 4\n"
            "h_sum{m=\"n\"} 5002.0005\nh_count{m=\"n\"} 4\n");
}

}  // namespace
}  // namespace lserve
