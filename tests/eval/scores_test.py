"""Metrics and statistics on cases made by hand."""
import pathlib
import random
import sys
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools" / "eval"))
from lserve_eval import scores, stats


class ScoresTest(unittest.TestCase):
    def test_match(self):
        self.assertEqual(scores.match_all("it is Abc,\x0012.", ["abc", "12"]), 1)
        self.assertEqual(scores.match_all("abc", ["abc", "12", "13", "14"]), 0.25)
        self.assertEqual(scores.match_part("in Oakwell.", ["Redford", "oakwell"]), 1)
        self.assertEqual(scores.match_part("in Oakwell.", ["Redford"]), 0)

    def test_prefix_words(self):
        self.assertEqual(scores.prefix_words("alpha Bravo, kilo delta", ["alpha bravo charlie delta"]), 0.5)
        self.assertEqual(scores.prefix_words("", ["alpha"]), 0)

    def test_json_f1(self):
        self.assertEqual(scores.json_f1('a", "b", "c"]', ["a", "b", "c"]), 1)  # goes on after ["
        self.assertAlmostEqual(scores.json_f1('a", "b", "x', ["a", "b"]), 1)  # cut off: the last string is not whole
        self.assertAlmostEqual(scores.json_f1('["a", "a", "a"]', ["a", "b", "c"]), 1 / 3)
        self.assertEqual(scores.json_f1("nothing", ["a"]), 0)

    def test_exact_number(self):
        self.assertEqual(scores.exact_number(" 7 notes", ["7"]), 1)
        self.assertEqual(scores.exact_number(" 17", ["7"]), 0)

    def test_longbench(self):
        self.assertAlmostEqual(scores.longbench("hotpotqa", "The Eiffel tower!", ["Eiffel Tower", "x"]), 1)
        self.assertAlmostEqual(scores.longbench("qasper", "red and blue", ["blue car"]), 0.4)
        self.assertEqual(scores.longbench("triviaqa", "\nParis\nLondon", ["paris"]), 1)  # first line only
        self.assertAlmostEqual(scores.longbench("gov_report", "a b c d", ["a c e"]), 2 * 2 / 7)
        self.assertEqual(scores.longbench("trec", "Location or Number", ["Number"], ["Number", "Location", "Date"]), 0.5)
        self.assertEqual(scores.longbench("trec", "Number of days", ["Number of days"], ["Number", "Number of days"]), 1)
        self.assertEqual(scores.longbench("passage_retrieval_en", "Paragraph 3 or 5", ["Paragraph 3"]), 0.5)
        self.assertEqual(scores.longbench("lcc", "```python\n# a comment\nreturn x\n", ["return x"]), 1)
        self.assertLess(scores.longbench("lcc", "import y", ["return x"]), 0.6)
        with self.assertRaises(ValueError):
            scores.longbench("nonsense", "", [""])
        self.assertEqual(scores.middle_removed(list(range(10)), 4), [0, 1, 8, 9])

    def test_mcnemar(self):
        self.assertEqual(stats.mcnemar(0, 0), 1)
        self.assertAlmostEqual(stats.mcnemar(5, 0), 2 / 32)
        self.assertAlmostEqual(stats.mcnemar(1, 9), 2 * 11 / 1024)
        self.assertEqual(stats.mcnemar(4, 4), 1)
        self.assertLess(stats.mcnemar(700, 500), 1e-6)

    def test_bootstrap(self):
        draw = random.Random(1)
        values = [draw.gauss(2, 1) for _ in range(400)]
        low, high = stats.bootstrap([values])
        self.assertTrue(low < sum(values) / 400 < high)
        self.assertAlmostEqual(high - low, 2 * 1.96 / 20, delta=0.03)
        self.assertEqual(stats.bootstrap([[1.0, 1.0], [3.0]]), (2, 2))  # tasks weigh alike

    def test_kl(self):
        self.assertAlmostEqual(stats.kl_of_tops({"a": -0.1, "b": -3.0}, {"a": -0.1, "b": -3.0}), 0, places=6)
        self.assertGreater(stats.kl_of_tops({"a": -0.01, "b": -5.0}, {"b": -0.01, "a": -5.0}), 4)
        self.assertGreater(stats.kl_of_tops({"a": -0.01}, {"b": -0.01}), -1e-9)

    def test_rank_correlation(self):
        self.assertAlmostEqual(stats.rank_correlation([1, 2, 3, 4], [10, 20, 30, 99]), 1)
        self.assertAlmostEqual(stats.rank_correlation([1, 2, 3, 4], [4, 3, 2, 1]), -1)
        self.assertAlmostEqual(stats.rank_correlation([1, 1, 2, 2], [1, 2, 1, 2]), 0)


if __name__ == "__main__":
    unittest.main(verbosity=1)
