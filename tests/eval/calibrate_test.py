"""lserve calibrate finds the roles of the model with hand-set weights, whose induction head is (layer 1, KV head 0), and names what is wrong with its input.

usage: calibrate_test.py LSERVE
"""
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import unittest

TESTS = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS / "golden"))
import make_recall_model as recall

LENGTH = 1024


def samples(count: int, places=(150, 300, 450, 600)):
    """Four passkeys, between the sinks and the window unless other places are given; one of them is asked for."""
    draw = random.Random(3)
    for i in range(count):
        ids = [recall.BOS] + [recall.filler(draw.randrange(recall.FILLERS)) for _ in range(LENGTH - 2)]
        keys = draw.sample(range(recall.PASSKEYS), 4)
        for place, key in zip(places, keys):
            ids[place:place + recall.STEPS] = recall.passkey(key)
        name, *values = recall.passkey(keys[i % 4])
        yield {"task": "recall", "prompt": [*ids, name], "answer": values}


class CalibrateTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        recall.write_model(cls.folder / "model")

    def calibrate(self, lines: list[str], *flags) -> subprocess.CompletedProcess:
        path = self.folder / "samples.jsonl"
        path.write_text("".join(line + "\n" for line in lines))
        return subprocess.run([sys.argv[1], "calibrate", "--backend", "cpu", "--model", str(self.folder / "model"), "--samples", str(path), "--out", str(self.folder / "out"),
                               "--threads", "1", *flags], capture_output=True, text=True, timeout=120)

    def test_known_roles(self):
        done = self.calibrate([json.dumps(s) for s in samples(8)], "--sparsities", "0.25,0.5,0.75,1", "--budgets", "512,4096", "--map-budget", "512", "--page-map", str(self.folder / "map.json"))
        self.assertEqual(done.returncode, 0, done.stderr)
        effects = [[float(v) for v in line.split("\t")] for line in (self.folder / "out" / "ablation_kl.tsv").read_text().splitlines()]
        self.assertEqual((len(effects), len(effects[0])), (2, 2))
        self.assertGreater(effects[1][0], 1)
        self.assertLess(max(effects[0] + effects[1][1:]), 0.01)
        record = json.loads((self.folder / "out" / "config.json").read_text())
        self.assertEqual(record["static_sparsity"], 0.75)
        judged = {name: {s["static_sparsity"]: s for s in scores} for name, scores in record["judged"].items()}
        self.assertEqual((judged["calibrated"][0.75]["right"], judged["calibrated"][0.75]["lost"]), (4, 0))
        self.assertEqual(judged["calibrated"][1.0]["right"], 0)  # the answers lie outside the window
        self.assertGreater(judged["calibrated"][1.0]["nll_change"], 1)
        self.assertEqual(judged["calibrated"][1.0]["dense_right"], 4)
        self.assertEqual(record["budget"], 512)
        self.assertEqual([(s["budget"], s["right"]) for s in record["judged_budgets"]], [(512, 4), (4096, 4)])
        pages = json.loads((self.folder / "map.json").read_text())
        self.assertTrue(pages["right"])
        read = {(h["layer"], h["head"]): h for h in pages["heads"]}
        self.assertEqual([key for key, h in read.items() if not h["streaming"]], [(1, 0)])
        answer = pages["answer_block"]
        self.assertEqual(read[1, 0]["reads"][answer], pages["steps"])
        self.assertEqual(read[0, 0]["reads"][answer], 0)

    def test_the_pattern_serves(self):
        self.assertEqual(self.calibrate([json.dumps(s) for s in samples(4)]).returncode, 0)
        done = subprocess.run([sys.argv[1], "inspect", str(self.folder / "model"), "--head-pattern", str(self.folder / "out" / "full_attention_heads.tsv"), "--static-sparsity", "0.75"],
                              capture_output=True, text=True, timeout=60)
        self.assertIn("3 of 4 KV heads stream", done.stdout)
        self.assertIn("retrieval heads a layer: 0 1", done.stdout)

    def test_the_profile_serves(self):
        self.assertEqual(self.calibrate([json.dumps(s) for s in samples(4)]).returncode, 0)
        path = self.folder / "out" / "profile.json"
        profile, record = json.loads(path.read_text()), json.loads((self.folder / "out" / "config.json").read_text())
        self.assertEqual(profile["static_sparsity"], record["static_sparsity"])
        self.assertEqual(profile["fingerprint"], record["fingerprint"])
        if record["budget"]:
            self.assertEqual(profile["budget"], record["budget"])

        def inspect(*flags):
            return subprocess.run([sys.argv[1], "inspect", str(self.folder / "model"), "--profile", str(path), *flags], capture_output=True, text=True, timeout=60)
        done = inspect()
        self.assertIn("3 of 4 KV heads stream", done.stdout)
        self.assertRegex(done.stdout, rf"static_sparsity +{record['static_sparsity']} +profile")
        self.assertRegex(inspect("--static-sparsity", "0.25").stdout, r"static_sparsity +0.25 +flag")
        path.write_text(json.dumps(profile | {"fingerprint": "llama-of-somebody-else"}))
        done = inspect()
        self.assertEqual(done.returncode, 2)
        self.assertIn("llama-of-somebody-else", done.stderr)
        self.assertIn(profile["fingerprint"], done.stderr)
        self.assertIn("made for another model", inspect("--force-profile").stdout)

    def test_samples_that_tell_nothing_are_left_out(self):
        near = [json.dumps(s) for s in samples(4, (20, 60, 900, 960))]
        done = self.calibrate(near)
        self.assertEqual(done.returncode, 2)
        self.assertIn("fewer than two samples need more than 128 sink and 256 window tokens", done.stderr)
        done = self.calibrate(near + [json.dumps(s) for s in samples(4)])
        self.assertIn("4 samples left out", done.stderr)
        self.assertEqual(done.returncode, 0)

    def test_errors_name_the_line(self):
        good = json.dumps(next(samples(1)))
        for line, words in (("[1]", ":2: not a JSON object"), ("{", ":2: not a JSON object"), ('{"prompt": [1]}', ":2: answer must be a list"), ('{"prompt": [], "answer": [1]}', ":2: prompt must be"),
                            ('{"prompt": [1, -1], "answer": [1]}', ":2: prompt: -1 is no token id"), ('{"prompt": [1], "answer": [1000000]}', ":2: answer: 1000000 is no token id")):
            with self.subTest(line):
                done = self.calibrate([good, line])
                self.assertEqual(done.returncode, 2, done.stderr)
                self.assertIn(words, done.stderr)
        self.assertIn("leave no page to select", self.calibrate([good, good], "--budgets", "64").stderr)
        self.assertIn("two at least", self.calibrate([good]).stderr)
        self.assertIn("no samples", self.calibrate([""]).stderr)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
