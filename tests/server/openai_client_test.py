"""The official openai client against `lserve serve` with the default model: right answers, alone and eight at a time.

usage: openai_client_test.py LSERVE MODEL
"""
import concurrent.futures
import math
import pathlib
import sys
import time
import unittest

import openai

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tools"))
from local_server import LocalServer

PROGRAM, MODEL = sys.argv[1:3]
NOUNS = "harbour lantern orchard compass meadow anchor chapel ferry".split()
FILLER = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.\n"


def question(i: int, lines: int = 40) -> str:
    """A needle in a haystack, worded as in RULER, which the model was trained on; the answer is number(i)."""
    text = [FILLER] * lines
    text.insert(lines * (i + 1) // 9, f"One of the special magic numbers for {NOUNS[i]} is: {number(i)}.\n")
    return ("A special magic number is hidden within the following text. Make sure to memorize it. I will quiz you about the number afterwards.\n"
            f"{''.join(text)}What is the special magic number for {NOUNS[i]} mentioned in the provided text?")


def number(i: int) -> str:
    return str(1_234_567 + 911_111 * i)


class Conversation(unittest.TestCase):
    FLAGS = ["--kv-memory", "1", "--deterministic"]

    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(LocalServer(PROGRAM, "--model", MODEL, *cls.FLAGS))
        cls.client = openai.OpenAI(base_url=cls.server.url + "/v1", api_key="none", max_retries=0, timeout=300)
        cls.model = cls.client.models.list().data[0].id

    def chat(self, text, **more):
        return self.client.chat.completions.create(model=self.model, messages=[{"role": "user", "content": text}],
                                                   **{"temperature": 0, "max_tokens": 24} | more)

    def complete(self, prompt, **more):
        return self.client.completions.create(model=self.model, prompt=prompt, **{"temperature": 0, "max_tokens": 24} | more)

    def wait_for(self, what: str, holds):
        """Asks /metrics until `holds` does."""
        deadline = time.monotonic() + 60
        while not holds(metrics := self.server.metrics()):
            self.assertLess(time.monotonic(), deadline, f"{what}: {metrics}")
        return metrics

    # Right content.

    def test_chat_is_right(self):
        answer = self.chat(question(0))
        self.assertIn(number(0), answer.choices[0].message.content)
        self.assertEqual((answer.object, answer.choices[0].message.role, answer.choices[0].finish_reason), ("chat.completion", "assistant", "stop"))
        self.assertEqual(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens)
        self.assertGreater(answer.usage.prompt_tokens, 800)

    def test_chat_stream_says_the_same(self):
        whole = self.chat(question(1))
        chunks = list(self.chat(question(1), stream=True, stream_options={"include_usage": True}))
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        self.assertIn(number(1), text)
        self.assertEqual(text, whole.choices[0].message.content)
        self.assertGreater(sum(bool(c.choices and c.choices[0].delta.content) for c in chunks), 3, "not streamed")
        self.assertEqual([c.choices[0].finish_reason for c in chunks if c.choices][-1], "stop")
        self.assertEqual(chunks[-1].usage.completion_tokens, whole.usage.completion_tokens)

    def test_completion_is_right_streamed_and_not(self):
        prompt = question(2) + f" The special magic number for {NOUNS[2]} mentioned in the provided text is"
        whole = self.complete(prompt, max_tokens=12)
        self.assertIn(number(2), whole.choices[0].text)
        streamed = "".join(c.choices[0].text for c in self.complete(prompt, max_tokens=12, stream=True))
        self.assertEqual(streamed, whole.choices[0].text)

    def test_dense_is_right(self):
        answer = self.chat(question(3), extra_body={"lserve": {"attention": "dense"}})
        self.assertIn(number(3), answer.choices[0].message.content)
        own = answer.usage.model_extra["lserve"]
        self.assertEqual(own["pages_read"], own["pages_total"])

    # Parameters.

    def test_chat_logprobs(self):
        choice = self.chat(question(0), logprobs=True, top_logprobs=3).choices[0]
        tokens = choice.logprobs.content
        text = b"".join(bytes(t.bytes) for t in tokens if t.token != "<|im_end|>").decode()
        self.assertEqual(text, choice.message.content)
        for token in tokens:
            top = [t.logprob for t in token.top_logprobs]
            self.assertEqual(len(top), 3)
            self.assertEqual(top, sorted(top, reverse=True))
            self.assertAlmostEqual(token.logprob, top[0], 5)  # greedy
            self.assertLessEqual(sum(map(math.exp, top)), 1 + 1e-5)

    def test_completion_logprobs_and_echo(self):
        prompt = "The grass is green."
        choice = self.complete(prompt, max_tokens=4, logprobs=2, echo=True, extra_body={"ignore_eos": True}).choices[0]
        self.assertTrue(choice.text.startswith(prompt))
        self.assertEqual("".join(choice.logprobs.tokens), choice.text)
        self.assertIsNone(choice.logprobs.token_logprobs[0])
        self.assertTrue(all(x <= 0 for x in choice.logprobs.token_logprobs[1:]))
        self.assertTrue(all(len(top) >= 2 for top in choice.logprobs.top_logprobs[1:]))

    def test_n_and_seed(self):
        draw = lambda seed: self.chat("Tell me a story.", n=3, temperature=1.0, seed=seed, max_tokens=16)
        first, again, other = draw(5), draw(5), draw(6)
        texts = lambda answer: [c.message.content for c in answer.choices]
        self.assertEqual([c.index for c in first.choices], [0, 1, 2])
        self.assertEqual(len(set(texts(first))), 3)
        self.assertEqual(texts(first), texts(again))
        self.assertNotEqual(texts(first), texts(other))

    def test_stop(self):
        whole = self.chat(question(4)).choices[0].message.content
        self.assertIn(number(4), whole)
        stop = number(4)[3:6]  # inside the number, across its tokens
        cut = self.chat(question(4), stop=[stop, "never said"]).choices[0]
        self.assertEqual(cut.message.content, whole[:whole.index(stop)])
        self.assertEqual(cut.finish_reason, "stop")
        streamed = "".join(c.choices[0].delta.content or "" for c in self.chat(question(4), stop=stop, stream=True))
        self.assertEqual(streamed, cut.message.content)

    def test_length(self):
        choice = self.chat(question(5), max_tokens=2).choices[0]
        self.assertEqual(choice.finish_reason, "length")

    def test_errors_are_the_client_s(self):
        with self.assertRaises(openai.BadRequestError) as caught:
            self.complete([5] * 200_000)
        self.assertEqual(caught.exception.code, "context_length_exceeded")
        with self.assertRaises(openai.BadRequestError) as caught:
            self.chat("x", temperature=-1)
        self.assertEqual(caught.exception.param, "temperature")
        with self.assertRaises(openai.NotFoundError):
            self.client.chat.completions.create(model="another", messages=[{"role": "user", "content": "x"}])

    # Together.

    def answer(self, i: int):
        """Tokens and text of question i; the eight differ in length, so that their chunks and pages do not line up."""
        choice = self.chat(question(i, 20 + 9 * i), logprobs=True, top_logprobs=0).choices[0]
        return [t.token for t in choice.logprobs.content], choice.message.content

    def test_eight_at_a_time_are_right_and_as_alone(self):
        alone = [self.answer(i) for i in range(8)]
        before = self.server.metrics()
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            together = list(pool.map(self.answer, range(8)))
        after = self.server.metrics()
        for i in range(8):
            self.assertIn(number(i), together[i][1])
            self.assertEqual(together[i], alone[i], f"question {i}")
        added = lambda name: after[f"lserve:{name}"] - before[f"lserve:{name}"]
        batch = added("generation_tokens_total") / added("iteration_tokens_total_count")
        self.assertGreater(batch, 1, "they did not run together")

    def test_a_client_that_leaves_ends_its_request(self):
        before = self.server.metrics()
        aborted = 'lserve:request_success_total{finished_reason="abort"}'
        stream = self.chat("Count to one million.", stream=True, max_tokens=20_000, extra_body={"ignore_eos": True})
        for _, chunk in zip(range(4), stream):
            self.assertTrue(chunk.choices)
        self.wait_for("the request runs", lambda m: m["lserve:num_requests_running"] == 1)
        stream.close()
        after = self.wait_for("the request ends", lambda m: m["lserve:num_requests_running"] == 0 and m[aborted] == before[aborted] + 1)
        self.assertLess(after["lserve:generation_tokens_total"] - before["lserve:generation_tokens_total"], 5_000)

    def test_a_client_that_leaves_during_its_prompt(self):
        before = self.server.metrics()
        with self.assertRaises(openai.APITimeoutError):
            self.client.with_options(timeout=1).completions.create(model=self.model, prompt=[1000 + i % 999 for i in range(40_000)], max_tokens=1)
        after = self.wait_for("the request ends", lambda m: m["lserve:num_requests_running"] == 0)
        self.assertLess(after["lserve:prompt_tokens_total"] - before["lserve:prompt_tokens_total"], 39_000)


class SmallSteps(unittest.TestCase):
    """Another chunk size and another number of sequences that may run: the same tokens."""

    def test_chunks_do_not_matter(self):
        answers = []
        for flags in (["--step-tokens", "512"], ["--step-tokens", "96", "--max-running", "3"]):
            with LocalServer(PROGRAM, "--model", MODEL, "--kv-memory", "1", "--deterministic", *flags) as server:
                client = openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0, timeout=300)
                model = client.models.list().data[0].id

                def tokens(i):
                    choice = client.chat.completions.create(model=model, messages=[{"role": "user", "content": question(i, 20 + 9 * i)}], temperature=0,
                                                            max_tokens=24, logprobs=True).choices[0]
                    return [(t.token, t.logprob) for t in choice.logprobs.content]

                with concurrent.futures.ThreadPoolExecutor(4) as pool:
                    answers.append(list(pool.map(tokens, range(4))))
        self.assertEqual(answers[0], answers[1])


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
