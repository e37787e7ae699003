"""Runs, reports and resumes against a server of our own making."""
import html.parser
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
EVAL = ROOT / "tools" / "eval"
sys.path[:0] = [str(EVAL), str(pathlib.Path(__file__).parent)]
from fake_server import FakeServer
from lserve_eval import report, settings, suite
from lserve_eval.cli import sittings
from lserve_eval.material import Material
from lserve_eval.runner import Results
from lserve_eval.tasks import all_tasks


def find(text: str, body: dict) -> str:
    """Finds the needle's value; under the smallest budget only where it lies in the second half."""
    asked = re.search(r"for (\S+) mentioned in the provided text (?:is|are)$", text).group(1)
    needle = re.search(rf"for {asked} is: (\S+)\.", text)
    blind = body.get("lserve", {}).get("budget") == 512 and needle.start() < len(text) / 2
    return " none." if blind else f" {needle.group(1)}."


class RunnerTest(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.out = self.folder / "results.jsonl"

    def run_eval(self, url: str, *flags, status: int = 0) -> str:
        done = subprocess.run([sys.executable, str(EVAL), "run", "--url", url, "--text", "generated", "--out", str(self.out), "--lengths", "1024,2048", "--samples", "10",
                               "--tasks", "grid", "--setting", "dense", "--setting", "budget2048:budget=2048", "--setting", "budget512:budget=512", *flags],
                              capture_output=True, text=True, timeout=120)
        self.assertEqual(done.returncode, status, done.stderr)
        return done.stdout

    def test_run_report_resume(self):
        with FakeServer(find) as server:
            said = self.run_eval(server.url, "--concurrency", "4")
            self.assertEqual(len(server.requests), 60)
            self.assertIn("| budget512", said)
            # Consecutive requests of one sample have one prompt: that is what a prefix cache needs.
            results = Results(self.out)
            self.assertEqual(len(results.rows), 60)
            self.assertEqual({r["setting"] for r in results.rows}, {"dense", "budget2048", "budget512"})
            # Cut the file in the middle of a line: what is missing is asked again, and nothing else.
            lines = self.out.read_text().splitlines()
            self.out.write_text("\n".join(lines[:31]) + '\n{"setting": "den')
            server.requests.clear()
            self.run_eval(server.url)
            self.assertEqual(len(server.requests), 30)
            server.requests.clear()
            self.run_eval(server.url)
            self.assertEqual(server.requests, [])
        summary = json.loads(self.out.with_suffix(".summary.json").read_text())
        paired = {(p["setting"], p["length"]): p for p in summary["paired"]}
        self.assertEqual(paired["budget2048", "all"]["loss"], 0)
        self.assertEqual(paired["budget2048", "all"]["identical"], 1)
        worse = paired["budget512", "all"]
        self.assertAlmostEqual(worse["loss"], 50, delta=6)
        self.assertEqual((worse["flips_won"], worse["flips_lost"] > 8), (0, True))
        self.assertLess(worse["mcnemar_p"], 0.01)
        self.assertTrue(worse["interval"][0] < worse["loss"] < worse["interval"][1])
        self.assertEqual(worse["visited"], 0.2)

    def test_missed_mass_is_reported(self):
        with FakeServer(find) as server:
            said = self.run_eval(server.url, "--setting", "audited:budget=2048,audit=16")
        self.assertIn({"attention": "lserve", "budget": 2048, "audit": 16}, [r["lserve"] for r in server.requests])
        paired = {p["setting"]: p for p in json.loads(self.out.with_suffix(".summary.json").read_text())["paired"]}
        self.assertEqual(paired["audited"]["missed_mass"], 0.125)
        self.assertIsNone(paired["budget2048"]["missed_mass"])
        self.assertRegex(said, r"audited .*\| 0\.125 +\|")

    def test_a_name_stands_for_one_setting(self):
        with FakeServer(find) as server:
            self.run_eval(server.url)
            before = self.out.read_text()
            server.requests.clear()
            for changed in (["--setting", "budget2048:budget=4096"], ["--seed", "7"]):
                command = [sys.executable, str(EVAL), "run", "--url", server.url, "--text", "generated", "--out", str(self.out), "--lengths", "512", "--samples", "1", "--tasks", "grid"]
                done = subprocess.run([*command, *(changed if "--setting" in changed else ["--setting", "dense", *changed])], capture_output=True, text=True, timeout=60)
                self.assertEqual(done.returncode, 2, done.stderr)
                self.assertIn("Take another name or another file", done.stderr)
            self.assertEqual(server.requests, [])
        self.assertEqual(self.out.read_text(), before)

    def test_page(self):
        with FakeServer(find) as server:
            self.run_eval(server.url)
        page = self.out.with_suffix(".html").read_text()
        self.assertNotRegex(page, r"""(src|href)=|url\(|@import|<script""")  # nothing from elsewhere
        svgs = re.findall(r"<svg .*?</svg>", page, re.S)
        self.assertEqual(len(svgs), 4)  # three heat maps and the curve over budgets
        for svg in svgs:
            self.assertRegex(svg, r'role="img" .*aria-label="[^"]{40,}')
            self.assertIn("tokens", svg)

        class Checker(html.parser.HTMLParser):
            open_tags: list = []

            def handle_starttag(self, tag, attrs):
                if tag not in ("meta", "rect", "circle", "line", "polyline"):
                    self.open_tags.append(tag)

            def handle_startendtag(self, tag, attrs):
                pass

            def handle_endtag(checker, tag):
                self.assertEqual(checker.open_tags.pop(), tag)

        checker = Checker()
        checker.feed(page)
        self.assertEqual(checker.open_tags, [])

    def test_page_map_is_drawn(self):
        pages = {"blocks": 4, "steps": 2, "answer_block": 1, "heads": [{"layer": 0, "head": 0, "streaming": False, "reads": [2, 1, 0, 2]}, {"layer": 0, "head": 1, "streaming": True, "reads": [2, 0, 0, 2]}]}
        drawn = report.html.page_map(pages)
        self.assertIn("56 % of the pages read", drawn)
        self.assertEqual(drawn.count("<rect"), 6)

    def test_failures_are_told_and_cost_one_result(self):
        with FakeServer(lambda text, body: None if body.get("lserve", {}).get("budget") == 512 else find(text, body)) as server:
            self.run_eval(server.url, status=1)
        self.assertEqual(len(Results(self.out).rows), 40)

    def test_a_lost_server_is_given_up(self):
        with FakeServer(lambda text, body: None) as server:
            done = subprocess.run([sys.executable, str(EVAL), "run", "--url", server.url, "--text", "generated", "--out", str(self.out), "--lengths", "1024", "--samples", "60", "--tasks", "niah_single_1"],
                                  capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 1)
        self.assertIn("GIVEN UP: 40 requests failed one after the other", done.stderr)
        self.assertLess(len(server.requests), 60)

    def test_teacher_forced(self):
        with FakeServer(find) as server:
            done = subprocess.run([sys.executable, str(EVAL), "run", "--url", server.url, "--text", "generated", "--out", str(self.out), "--lengths", "1024", "--samples", "3", "--tasks", "copy_nll,perplexity"],
                                  capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr)
        summary = json.loads(self.out.with_suffix(".summary.json").read_text())
        change = summary["paired"][0]["nll_change"]
        self.assertEqual({task: round(c["mean"], 6) for task, c in change.items()}, {"copy_nll": 0.5, "perplexity": 0.5})
        self.assertEqual(list(summary["paired"][0]["nll_by_position"]), ["0-64", "64-256", "256-1024"])

    def test_settings(self):
        one = settings.parse("kv4:kv=kv4,budget=1024,no-prefix-cache")
        self.assertEqual(one.own(), {"lserve": {"attention": "lserve", "budget": 1024}})
        self.assertEqual(one.flags(), ["--kv", "kv4", "--no-prefix-cache"])
        self.assertEqual(settings.parse("vllm").own(), {})
        self.assertEqual(len(settings.by_server([one, settings.parse("dense"), settings.parse("lserve")])), 2)
        with self.assertRaisesRegex(ValueError, "budget cannot be 'much'"):
            settings.parse("a:budget=much")

    def test_shipped_suites_can_be_read(self):
        found = sorted((ROOT / "bench" / "accuracy").glob("*.json"))
        self.assertTrue(found)
        for path in found:
            lanes = suite.read(path)
            for blocks in lanes.values():
                self.assertTrue(sittings(blocks, all_tasks(Material("generated"))), path)

    def test_budgets_and_tasks_of_a_block(self):
        text = {"server": ["--dense-below", "0"], "tasks": {"two": "vt,copy"}, "settings": {"a": {"kv": "kv8"}},
                "lanes": {"x": [{"tasks": "two,cwe", "lengths": [1024], "samples": {"default": 3, "cwe": 1}, "settings": ["a"], "budgets": [512, None], "server": ["--max-running", "8"]}]}}
        (self.folder / "s.json").write_text(json.dumps(text))
        lanes = suite.read(self.folder / "s.json")
        (one,) = sittings(lanes["x"], dict.fromkeys(("vt", "copy", "cwe")))
        self.assertEqual([s.name for s in one.settings], ["a-b512", "a"])
        self.assertEqual(one.settings[0].own(), {"lserve": {"attention": "lserve", "budget": 512}})
        self.assertEqual(one.flags, ["--dense-below", "0", "--max-running", "8", "--kv", "kv8"])
        self.assertEqual(one.counts, {"vt": 3, "copy": 3, "cwe": 1})
        self.assertEqual(one.missing(Results(self.out)), (14, 7 * 1024))

    def fake_program(self, url: str) -> pathlib.Path:
        """A program that says where the fake server listens, as lserve would, until it is ended. It notes its flags; of --kv nonsense it wants nothing."""
        program = self.folder / "lserve"
        program.write_text(f"#!{sys.executable}\nimport signal, sys\n'nonsense' in sys.argv and sys.exit('no such type')\nopen('{self.folder}/flags', 'a').write(' '.join(sys.argv) + '\\n')\n"
                           f"signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\nprint('listening on {url}', file=sys.stderr, flush=True)\nsignal.pause()\n")
        program.chmod(0o755)
        return program

    def run_suite(self, server, lanes: dict, *flags) -> subprocess.CompletedProcess:
        (self.folder / "suite.json").write_text(json.dumps({"settings": {"bad": {"kv": "nonsense"}, "dense": {"attention": "dense"}, "kv8": {"kv": "kv8"}, "kv4": {"kv": "kv4"}}, "lanes": lanes}))
        return subprocess.run([sys.executable, str(EVAL), "suite", str(self.folder / "suite.json"), "--lserve", str(self.fake_program(server.url)), "--text", "generated",
                               "--out", str(self.out), *flags], capture_output=True, text=True, timeout=60)

    def test_a_server_that_does_not_start_costs_its_settings_only(self):
        """The first set of flags fails; the settings of the second are run all the same."""
        with FakeServer(find) as server:
            done = self.run_suite(server, {"only": [{"tasks": "grid", "lengths": [1024], "samples": 2, "settings": [name]} for name in ("bad", "dense")]})
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn("no such type", done.stderr)
        self.assertEqual([r["setting"] for r in Results(self.out).rows], ["dense", "dense"])

    def test_lanes_run_at_the_same_time_and_are_reported_together(self):
        block = {"tasks": "grid", "lengths": [1024], "samples": 3}
        with FakeServer(find) as server:
            done = self.run_suite(server, {"a": [block | {"settings": ["dense"]}], "b": [block | {"settings": ["kv8"], "budgets": [512, 2048]}]}, "--parallel", "--gpus", "2",
                                  "--server-flag=--max-queue=7")
        self.assertEqual(done.returncode, 0, done.stderr)
        files = [self.folder / f"results-{lane}.jsonl" for lane in "ab"]
        self.assertEqual([len(Results(file).rows) for file in files], [3, 6])
        flags = (self.folder / "flags").read_text()
        self.assertEqual(re.findall(r"--max-queue=7 --gpu=\d", "\n".join(sorted(flags.splitlines(), key=lambda f: "kv8" in f))), ["--max-queue=7 --gpu=0", "--max-queue=7 --gpu=1"])
        paired = json.loads((self.folder / "results.summary.json").read_text())["paired"]
        self.assertEqual({(p["setting"], p["pairs"]) for p in paired}, {("kv8-b512", 3), ("kv8-b2048", 3)})
        again = subprocess.run([sys.executable, str(EVAL), "report", *map(str, files), "--out", str(self.folder / "both.jsonl")], capture_output=True, text=True, timeout=60)
        self.assertEqual(again.stdout, done.stdout)
        self.assertTrue((self.folder / "both.html").exists())

    def test_a_time_limit_is_shared_by_what_is_to_be_read(self):
        """Two servers with equal work: both are cut off, neither gets nothing."""
        slow = lambda text, body: time.sleep(0.1) or find(text, body)
        with FakeServer(slow) as server:
            done = self.run_suite(server, {"only": [{"tasks": "grid", "lengths": [1024], "samples": 500, "settings": ["kv8", "kv4"]}]}, "--time-limit", "6")
        counts = [sum(r["setting"] == name for r in Results(self.out).rows) for name in ("kv8", "kv4")]
        self.assertIn("not complete", done.stderr)
        self.assertTrue(all(5 <= count <= 45 for count in counts), counts)

    def test_lanes_that_outlive_their_time_are_ended_with_their_servers(self):
        with FakeServer(lambda text, body: time.sleep(30) or "") as server:
            began = time.monotonic()
            self.run_suite(server, {"a": [{"tasks": "grid", "lengths": [1024], "samples": 2, "settings": ["dense"]}]}, "--parallel", "--time-limit", "1", "--grace", "2")
            self.assertLess(time.monotonic() - began, 20)
        left = subprocess.run(["pgrep", "-f", str(self.folder / "lserve")], capture_output=True, text=True).stdout
        self.assertEqual(left, "")

    def test_another_server(self):
        """A server that is not lserve is asked without lserve's object."""
        with FakeServer(find, owned_by="vllm") as server:
            done = subprocess.run([sys.executable, str(EVAL), "run", "--url", server.url, "--text", "generated", "--out", str(self.out), "--lengths", "1024", "--samples", "2",
                                   "--tasks", "grid", "--setting", "vllm", "--baseline", "vllm"], capture_output=True, text=True, timeout=60)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertTrue(all("lserve" not in body for body in server.requests))


if __name__ == "__main__":
    unittest.main(verbosity=1)
