#!/usr/bin/env python3
"""Kills a server in the middle of its work, again and again, and looks at what the next one makes of the prefix cache's files.

    bench/kill_rounds.py --server build/dev/src/cli/lserve --rounds 100

Serves the model with hand-set weights (tests/golden/make_recall_model.py) or --model. Each round: the server starts on the files that the last one left,
answers a set of questions whose answers, with log probabilities, were taken down from a server without cache, comes under load, and is killed with SIGKILL
at a random moment. Before every second round some files are damaged: cut off, a bit turned, emptied. Fails unless every server comes up, every answer is
the same to the last bit, files were used, damaged ones were met and skipped with a warning, the directory stays within its bound, and the last server
ends in order. Needs numpy for the model.
"""
import argparse
import contextlib
import http.client
import json
import pathlib
import random
import sys
import tempfile
import threading
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tests" / "golden"), str(ROOT / "bench")]
from local_server import LocalServer
from serve_load import FLAGS, Load, Wrong

BOUND = 24 << 20  # bytes of files: less than the load writes, so that old ones go


def ask(url: str, prompt: list[int]) -> dict:
    body = json.dumps({"prompt": prompt, "max_tokens": 8, "temperature": 0, "ignore_eos": True, "add_special_tokens": False, "logprobs": 3}).encode()
    request = urllib.request.Request(url + "/v1/completions", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=600) as response:
        return json.load(response)


def content(answer: dict) -> tuple:
    logprobs = answer["choices"][0]["logprobs"]
    return answer["choices"][0]["text"], logprobs["token_logprobs"], logprobs["top_logprobs"]


def stored_bytes(store: pathlib.Path) -> int:
    """Of the server's files, which it may be deleting meanwhile."""
    total = 0
    for path in store.glob("*.lskv"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def damage(store: pathlib.Path, draw: random.Random, files: int) -> int:
    chosen = sorted(path for path in store.glob("*.lskv") if path.stat().st_size > 0)
    for path in draw.sample(chosen, min(files, len(chosen))):
        data = bytearray(path.read_bytes())
        if (way := draw.randrange(3)) == 0:
            data = data[:draw.randrange(len(data))]
        elif way == 1:
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        else:
            data = b""
        path.write_bytes(data)
    return min(files, len(chosen))


class Rounds:
    def __init__(self, program: str, flags: list, recall, store: pathlib.Path, seed: int):
        self.program, self.flags, self.recall, self.store = program, flags, recall, store
        self.draw = random.Random(seed)
        self.wrong: list[str] = []
        self.cached = self.restored = self.warnings = self.damaged = self.written = 0
        asker = Load("http://none", "", recall, seed)
        self.prompts = [asker.question(random.Random(seed * 100 + i))[0] for i in range(6)]
        with LocalServer(program, *flags, "--no-prefix-cache") as server:
            self.answers = [content(ask(server.url, prompt)) for prompt in self.prompts]

    def look(self, server: LocalServer, number: int) -> None:
        for i, prompt in enumerate(self.prompts):
            answer = ask(server.url, prompt)
            self.cached += answer["usage"]["prompt_tokens_details"]["cached_tokens"]
            if content(answer) != self.answers[i]:
                self.wrong.append(f"round {number}: question {i} was answered differently")
        self.restored += int(server.metrics()["lserve:prefix_cache_restored_blocks_total"])
        self.warnings += server.words().count("not used")
        if (size := stored_bytes(self.store)) > 1.1 * BOUND:
            self.wrong.append(f"round {number}: {size} bytes of files, {BOUND} are allowed")

    def one(self, number: int) -> None:
        if number % 2:
            self.damaged += damage(self.store, self.draw, 12)
        with LocalServer(self.program, *self.flags, "--prefix-cache-dir", self.store, "--prefix-cache-dir-gb", BOUND / (1 << 30)) as server:
            self.look(server, number)
            killed = threading.Event()
            load = Load(server.url, server.model(), self.recall, self.draw.randrange(1 << 30))
            load.stop = killed

            def client(seed: int) -> None:
                draw = random.Random(seed)
                while not killed.is_set():
                    try:
                        load.ask(draw)
                    except (Wrong, OSError, ValueError, KeyError, http.client.HTTPException) as error:
                        if not killed.is_set():
                            self.wrong.append(f"round {number}: {type(error).__name__}: {error}")

            threads = [threading.Thread(target=client, args=(self.draw.randrange(1 << 30),)) for _ in range(4)]
            for thread in threads:
                thread.start()
            killed.wait(self.draw.uniform(0.05, 1.5))
            killed.set()
            server.kill()
            for thread in threads:
                thread.join()
        self.written += len(list(self.store.glob("*.lskv")))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", required=True, help="the lserve program")
    parser.add_argument("--model", help="path or name, instead of the one with hand-set weights; the load's answers are then not compared")
    parser.add_argument("--flag", action="append", default=[], help="another flag of `lserve serve`, as --flag=--kv=kv8")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        recall, model, flags = None, args.model, []
        if not model:
            import make_recall_model as recall
            model = pathlib.Path(folder) / "model"
            model.mkdir()
            recall.write_model(model)
            flags = ["--head-pattern", model / "full_attention_heads.tsv"]
        store = pathlib.Path(folder) / "store"
        store.mkdir()
        flags = ["--model", model, *flags, *FLAGS, "--kv-memory", 0.25 if args.model else 0.02, "--deterministic", *args.flag]
        rounds = Rounds(args.server, flags, recall, store, args.seed)
        for number in range(args.rounds):
            rounds.one(number)
            print(f"round {number + 1}: {rounds.cached} prompt tokens found, {rounds.restored} blocks read, {rounds.damaged} files damaged, "
                  f"{rounds.warnings} warnings, {len(rounds.wrong)} wrong", file=sys.stderr, flush=True)
        with LocalServer(args.server, *flags, "--prefix-cache-dir", store, "--prefix-cache-dir-gb", BOUND / (1 << 30)) as server:
            rounds.look(server, args.rounds)
    if not rounds.restored:
        rounds.wrong.append("no block was read from a file")
    if rounds.damaged and not rounds.warnings:
        rounds.wrong.append("no damaged file was looked at")
    for what in rounds.wrong:
        print("WRONG:", what)
    print(f"{args.rounds} rounds: {rounds.restored} blocks read from files, {rounds.damaged} files damaged, {rounds.warnings} skipped with a warning, "
          f"{len(rounds.wrong)} wrong")
    return 1 if rounds.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
