"""Passkeys at every depth of 16K tokens, asked of the model with hand-set weights (tests/golden/make_recall_model.py) through the API.

With the induction head as the only retrieval head of four KV heads every answer is right; with it streaming none is that lies outside its window.
usage: recall_test.py LSERVE
"""
import json
import pathlib
import random
import sys
import tempfile
import unittest
import urllib.request

TESTS = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS.parent / "tools"), str(TESTS / "golden")]
import make_recall_model as recall
from local_server import LocalServer

LENGTH, SINK, WINDOW = 16384, 128, 256
SPACING = (LENGTH - 1) // recall.PASSKEYS  # 255: starts fall on every offset within a page of 64 tokens


def start(i: int) -> int:
    return 1 + i * SPACING


def document() -> list[int]:
    draw = random.Random(7)
    ids = [recall.BOS] + [recall.filler(draw.randrange(recall.FILLERS)) for _ in range(LENGTH - 2)]
    for i in range(recall.PASSKEYS):
        ids[start(i):start(i) + recall.STEPS] = recall.passkey(i)
    return ids


class RecallTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        recall.write_model(cls.folder)
        cls.document = document()

    def serve(self, *flags, retrieval_layer: int = 1):
        gates = self.folder / f"gates{retrieval_layer}.tsv"
        recall.write_gates(gates, retrieval_layer)
        return LocalServer(sys.argv[1], "--model", self.folder, "--kv-memory", "0.5", "--head-pattern", gates, "--static-sparsity", "0.75",
                           "--dense-below", "0", "--budget", "1024", "--prefill-local", WINDOW, "--decode-local", WINDOW, *flags)

    def complete(self, server, last: int, count: int, **own) -> dict:
        """The answer after the document and the token `last`."""
        body = {"model": server.model(), "prompt": self.document + [last], "max_tokens": count, "temperature": 0, "ignore_eos": True,
                "logprobs": 0, "add_special_tokens": False, "lserve": own}
        request = urllib.request.Request(server.url + "/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=600) as response:
            return json.load(response)

    def ask(self, server, i: int, attention: str = "lserve", **own) -> tuple[bool, dict]:
        """The name of passkey i comes last in the prompt; the rest of it is the answer."""
        name, *values = recall.passkey(i)
        answer = self.complete(server, name, len(values), attention=attention, **own)
        self.assertEqual(answer["usage"]["prompt_tokens"], LENGTH)
        return answer["choices"][0]["logprobs"]["tokens"] == [f"t{v}" for v in values], answer["usage"]["lserve"]

    def test_every_depth_with_a_quarter_of_the_heads(self):
        self.assertEqual({start(i) % 64 for i in range(recall.PASSKEYS)}, set(range(64)))
        with self.serve() as server:
            self.assertIn("3 of 4 KV heads stream", server.words())
            for i in range(recall.PASSKEYS):
                with self.subTest(passkey=i, position=start(i)):
                    right, pages = self.ask(server, i)
                    self.assertTrue(right)
                    self.assertLess(pages["pages_read"], 0.1 * pages["pages_total"])

    def test_an_audit_tells_whether_what_was_looked_for_was_read(self):
        with self.serve("--audit-interval", "1") as server:
            right, own = self.ask(server, 7)
            self.assertTrue(right)
            self.assertEqual(own["audited"], 3, "steps after the first token, of the one layer with a retrieval head")
            self.assertLess(own["missed_mass_max"], 0.001)
            self.assertEqual(self.ask(server, 7, attention="dense")[1]["audited"], 0)
            self.assertNotIn("audited", self.ask(server, 7, audit=0)[1])
            # A filler occurs on every other page: the induction head looks at all those places, six pages hold few of them.
            own = self.complete(server, recall.filler(5), 8, budget=6 * 64)["usage"]["lserve"]
            self.assertEqual(own["audited"], 7)
            self.assertGreater(own["missed_mass_mean"], 0.5)
            self.assertLessEqual(own["missed_mass_mean"], own["missed_mass_max"])

    def test_dense_and_other_codecs(self):
        for kv in ("kv8", "kv4"):
            with self.serve("--kv", kv) as server:
                for i in range(0, recall.PASSKEYS, 9):
                    with self.subTest(kv=kv, passkey=i):
                        self.assertTrue(self.ask(server, i)[0])
                        if kv == "kv8":
                            self.assertTrue(self.ask(server, i, "dense")[0])

    def test_a_streaming_induction_head_knows_only_its_window(self):
        with self.serve(retrieval_layer=0) as server:
            self.assertIn("3 of 4 KV heads stream", server.words())
            for i in range(0, recall.PASSKEYS, 3):
                if start(i) + recall.STEPS > SINK and start(i) < LENGTH - WINDOW:
                    with self.subTest(passkey=i):
                        self.assertFalse(self.ask(server, i)[0])


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
