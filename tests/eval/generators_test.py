"""Generators against the definitions: structure of every task, golden samples, lengths within the limit, shuffled answers at chance level."""
import collections
import hashlib
import json
import pathlib
import random
import re
import sys
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools" / "eval"))
from lserve_eval import scores, tasks_count, tasks_needle
from lserve_eval.material import Material
from lserve_eval.sample import draw_for
from lserve_eval.sizing import Filler
from lserve_eval.tasks import all_tasks, names

GOLDEN = pathlib.Path(__file__).with_name("golden_samples.json")
MATERIAL = Material("generated", None)
TASKS = all_tasks(MATERIAL)


def render(sample) -> list[str]:
    """Words and marks in place of a model's tokens."""
    return re.findall(r"\w+|[^\w\s]", sample.prompt + sample.prefix)


def make(name: str, units: int = 120, limit: int = 4096, index: int = 0):
    return TASKS[name].make(draw_for(42, name, limit, index), units, limit, index)


def digest(sample) -> str:
    return hashlib.sha256(json.dumps([sample.prompt, sample.prefix, sample.answers, sample.metric, sample.max_new]).encode()).hexdigest()[:16]


class GeneratorsTest(unittest.TestCase):
    def test_golden_samples(self):
        """The same seed gives the same bytes; material is pinned to the generated text and the built-in lists."""
        if MATERIAL.words_source != "built-in lists":
            self.skipTest("wonderwords is installed: other words than the recorded ones")
        made = {f"{name}/{i}": digest(make(name, index=i)) for name in TASKS for i in (0, 1)}
        if "--write" in sys.argv:
            GOLDEN.write_text(json.dumps(made, indent=1) + "\n")
        self.assertEqual(json.loads(GOLDEN.read_text()), made)

    def test_samples_differ(self):
        for name in TASKS:
            self.assertNotEqual(digest(make(name, index=0)), digest(make(name, index=1)), name)

    def test_niah_has_its_needles_once(self):
        for name, (haystack, key, value, keys, values, queries) in tasks_needle.NIAH.items():
            with self.subTest(name):
                sample = make(name)
                kind = f"special magic {value}"
                lines = re.findall(rf"One of the {kind} for (\S+) is: (\S+)\.", sample.prompt)
                self.assertEqual(len(lines), max(keys, queries) * values + (120 if haystack == "needle" else 0))
                self.assertEqual(len(sample.answers), values * queries)
                for answer in sample.answers:
                    self.assertEqual(sample.prompt.count(answer), 1)
                self.assertEqual(sample.max_new, 128)
                if value == "uuids":
                    self.assertRegex(sample.answers[0], r"^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$")
                else:
                    self.assertTrue(10**6 <= int(sample.answers[0]) < 10**7)

    def test_niah_wording(self):
        one, many = make("niah_single_2"), make("niah_multiquery")
        self.assertTrue(one.prompt.startswith("A special magic number is hidden within the following text. Make sure to memorize it. I will quiz you about the number afterwards.\n"))
        self.assertRegex(one.prompt, r"\nWhat is the special magic number for \w+-\w+ mentioned in the provided text\?$")
        self.assertRegex(one.prefix, r"^ The special magic number for \w+-\w+ mentioned in the provided text is$")
        self.assertTrue(many.prompt.startswith("Some special magic numbers are hidden"))
        self.assertRegex(many.prefix, r"for \S+, \S+, \S+, and \S+ mentioned in the provided text are$")

    def test_grid_depth_is_where_the_needle_lies(self):
        for index in range(10):
            sample = make("grid", units=3000, index=index)
            context = sample.prompt.split("\n")[1]
            self.assertAlmostEqual(100 * context.find("One of the special") / len(context), 100 * index / 9, delta=2)

    def test_vt_is_a_chain(self):
        sample = make("vt")
        text = sample.prompt.rsplit("Memorize and track", 1)[1]
        places = [text.find(f"VAR {name} =") for name in sample.answers]
        self.assertEqual(places, sorted(places))
        self.assertGreater(places[0], 0)
        for before, name in zip(sample.answers, sample.answers[1:]):
            self.assertIn(f"VAR {name} = VAR {before} ", text)
        value = re.search(r"assigned the value (\d+) in the text above", text).group(1)
        self.assertIn(f"VAR {sample.answers[0]} = {value}", text)
        self.assertEqual(len(sample.answers), 5)
        self.assertNotIn(". \n", text)

    def test_cwe_counts(self):
        sample = make("cwe", units=60)
        counts = collections.Counter(tasks_count.numbered_words(sample.prompt.rsplit("Below is a numbered", 1)[1]))
        self.assertEqual({word for word, n in counts.items() if n == 30}, set(sample.answers))
        self.assertEqual(collections.Counter(counts.values()), {30: 10, 3: 50})

    def test_fwe_counts(self):
        sample = make("fwe", units=2000)
        text = sample.prompt.split("coded words. ", 1)[1].split("\nQuestion", 1)[0]
        ranked = collections.Counter(text.split()).most_common(4)
        self.assertEqual([ranked[0][0], {word for word, _ in ranked[1:]}], ["...", set(sample.answers)])
        for rank, (_, count) in enumerate(ranked, 1):
            self.assertEqual(count, int(2000 / rank**2 / (3.141592653589793**2 / 6)))

    def test_synthqa_needs_its_documents(self):
        one, two = make("synthqa_1", units=40), make("synthqa_2", units=40)
        for sample in (one, two):
            self.assertEqual(len(re.findall(r"Document \d+:\n", sample.prompt)), 40)
        documents = two.prompt.split("\n\nDocument ")
        person = re.search(r"employer of (.+) founded", two.prompt).group(1)
        home = next(d for d in documents if person in d and "employ" in d)
        firm = re.search(r"employed by (.+?)\.|is (.+? & .+?), and has", home)
        firm = firm.group(1) or firm.group(2)
        self.assertIn(two.answers[0], next(d for d in documents if d is not home and firm in d))
        self.assertNotIn(person, next(d for d in documents if d is not home and firm in d))

    def test_passkeys(self):
        sample = make("passkey", units=2000)
        keys = re.findall(r"Remeber this sequence of words, it's the (\w+) passkey to the vault: ([a-z ]+)\n\n", sample.prompt)
        self.assertEqual([ordinal for ordinal, _ in keys], tasks_needle.ORDINALS)
        self.assertEqual(dict(keys)["first"], sample.answers[0])
        self.assertTrue(all(len(key.split()) == 32 for _, key in keys))

    def test_copy_begins_its_answer(self):
        sample = make("copy", units=500)
        block = sample.prompt.split()[-4:] + sample.answers[0].split()
        self.assertEqual(len(block), 32)
        self.assertIn(" ".join(block), sample.prompt + sample.answers[0])
        self.assertGreaterEqual((sample.prompt + sample.answers[0]).count(" ".join(block)), 2)

    def test_length_control(self):
        for limit in (2048, 4096, 16384):
            filler = Filler(render, 42)
            for name, task in TASKS.items():
                if name == "passkey" and limit == 2048:
                    continue
                with self.subTest(task=name, limit=limit):
                    for index in range(2):
                        sample, ids = filler.make(task, limit, index)
                        self.assertLessEqual(len(ids) + sample.max_new, limit)
                    more = task.make(draw_for(42, name, limit, 0), sample.extra["units"] + 2 * task.increment(limit) + 1, limit, 0)
                    if not name.startswith("cwe"):  # cwe may run out of words
                        self.assertGreater(len(render(more)) + more.max_new, limit)

    def test_too_short_a_limit_is_an_error(self):
        with self.assertRaisesRegex(ValueError, "niah_single_1: 60 tokens are too few"):
            Filler(render, 42).make(TASKS["niah_single_1"], 60, 0)

    def test_shuffled_answers_score_at_chance(self):
        """The right answers are worth 1, those of other samples next to nothing."""
        for name in ("niah_single_2", "niah_multikey_3", "niah_multivalue", "niah_multiquery", "vt", "fwe", "synthqa_1", "synthqa_2", "passkey", "copy", "aggregate_list"):
            samples = [make(name, units=400, index=i) for i in range(30)]
            said = [" ".join(s.answers) for s in samples]
            own = [scores.METRICS[s.metric](text, s.answers) for s, text in zip(samples, said)]
            others = said[1:] + said[:1]
            wrong = [scores.METRICS[s.metric](text, s.answers) for s, text in zip(samples, others)]
            self.assertEqual(min(own), 1, name)
            self.assertLess(sum(wrong) / len(wrong), 0.1, name)

    def test_names(self):
        self.assertEqual(names("ruler,vt,passkey", TASKS)[-1], "passkey")
        self.assertEqual(len(names("ruler", TASKS)), 13)
        with self.assertRaisesRegex(ValueError, "nonsense is none of"):
            names("nonsense", TASKS)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=1)
