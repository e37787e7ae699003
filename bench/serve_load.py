#!/usr/bin/env python3
"""Mixed load on lserve: dense and sparse, streamed and not, clients that leave, malformed requests, prompts too long, bursts beyond the queue, pools so
small that sequences are preempted.

    bench/serve_load.py --server build/dev/src/cli/lserve                 3 minutes
    bench/serve_load.py --server build/dev/src/cli/lserve --minutes 30 --log load.jsonl
    bench/serve_load.py --url http://127.0.0.1:8080 --minutes 600         a server that runs; its memory is not looked at

Without --url it serves the model with hand-set weights (tests/golden/make_recall_model.py), whose right answers are known: each is compared.
--log appends the totals once a minute; started again with the same file, it goes on with another seed and the totals so far.

Fails unless: every accepted request is answered once, completely and right; wrong requests get their 4xx; afterwards nothing runs or waits and every page
of both pools is free; the engine counted as many answers as the clients; memory did not grow; each kind of event happened. Needs numpy only for the model.
"""
import argparse
import collections
import contextlib
import http.client
import json
import pathlib
import random
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tests" / "golden")]
from local_server import LocalServer, parse_metrics

CONTEXT, QUEUE = 4096, 12
FLAGS = ["--static-sparsity", 0.75, "--dense-below", 512, "--budget", 512, "--prefill-local", 256, "--decode-local", 256, "--max-context", CONTEXT,
         "--max-running", 6, "--max-queue", QUEUE, "--step-tokens", 256, "--keepalive", 0.5]
MALFORMED = [b"", b"{", b"[]", b"\xff\xfe", b'{"prompt": 5}', b'{"prompt": [5], "temperature": -1}', b'{"prompt": [5], "max_tokens": "many"}',
             b'{"prompt": [5], "stop": ' + b"[" * 3000, b'{"prompt": [99999999]}', b'{"prompt": [5], "n": 1000}',
             b'{"prompt": [5], "lserve": {"budget": -3}}', b'{"prompt": [5], "stream": "yes"}', b'{"prompt": [5], "prompt": [6]}']
KINDS = ["right", "sampled", "left", "malformed", "too_long", "burst_accepted", "burst_refused"]


class Wrong(Exception):
    """The server did what it must not do."""


def expect(holds, what: str) -> None:
    if not holds:
        raise Wrong(what)


class Load:
    def __init__(self, url: str, model: str, recall, seed: int):
        self.server, self.model, self.recall, self.seed = urllib.parse.urlsplit(url), model, recall, seed
        self.lock = threading.Lock()
        self.tally = collections.Counter()
        self.choices = collections.Counter()  # "complete", and "unknown": of clients that left
        self.errors: list[str] = []
        self.stop = threading.Event()

    def count(self, kind: str, n: int = 1) -> None:
        with self.lock:
            self.tally[kind] += n

    # One request.

    def post(self, body, timeout: float = 1800) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        connection = http.client.HTTPConnection(self.server.hostname, self.server.port, timeout=timeout)
        connection.request("POST", "/v1/completions", body if isinstance(body, bytes) else json.dumps(body).encode(),
                           {"Content-Type": "application/json"})
        return connection, connection.getresponse()

    def complete(self, body: dict) -> tuple[int, list[list[str]], object]:
        """Asks, retries while the queue is full, and takes the whole answer: (status, tokens of each choice, the body of an error)."""
        body = body | {"logprobs": 0, "stream_options": {"include_usage": True}} if body.get("stream") else body | {"logprobs": 0}
        connection, response = self.post(body)
        with contextlib.closing(connection):
            if response.status != 200:
                error = json.loads(response.read())
                expect(error["error"]["message"], "an error object")
                return response.status, [], (error, response.headers)
            n = body.get("n", 1)
            tokens, finished, usage = [[] for _ in range(n)], [0] * n, 0
            events = self.events(response) if body.get("stream") else [json.loads(response.read())]
            for event in events:
                expect("error" not in event, f"an accepted request failed: {event}")
                usage += bool(event.get("usage"))
                for choice in event["choices"]:
                    tokens[choice["index"]] += (choice["logprobs"] or {"tokens": []})["tokens"]
                    finished[choice["index"]] += choice["finish_reason"] is not None
            expect(finished == [1] * n, f"choices ended {finished} times")
            expect(usage == 1, f"{usage} usage objects")
            with self.lock:
                self.choices["complete"] += n
            return 200, tokens, None

    def events(self, response):
        for line in response:
            if line.startswith(b"data: "):
                if line[6:].strip() == b"[DONE]":
                    expect(not response.read().strip(), "something after [DONE]")
                    return
                yield json.loads(line[6:])
        raise Wrong("a stream ended without [DONE]")

    # Kinds of clients.

    def question(self, draw: random.Random) -> tuple[list[int], list[str] | None]:
        """A prompt, and its answer where it is known."""
        length = draw.choice([40, 200, 700, 1500, 2500])
        if not self.recall:
            return [draw.randrange(100, 1000) for _ in range(length)], None
        r = self.recall
        shared = random.Random(draw.randrange(3))  # few documents, so that their beginnings are found in the prefix cache
        ids = [r.BOS] + [r.filler(shared.randrange(r.FILLERS)) for _ in range(length)]
        name, *values = r.passkey(draw.randrange(r.PASSKEYS))
        at = 1 + draw.randrange(length - len(values) - 1)
        ids[at:at + 1 + len(values)] = [name, *values]
        return ids + [name], [f"t{v}" for v in values]

    def body(self, draw: random.Random, prompt: list[int], tokens: int) -> dict:
        return {"model": self.model, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, "add_special_tokens": False,
                "stream": draw.random() < 0.5, "lserve": {"attention": draw.choice(["dense", "lserve"])}}

    def ask(self, draw):
        prompt, answer = self.question(draw)
        # The answer, then nonsense for as long as a client likes: that is what outgrows the pools.
        status, (tokens,), error = self.until_accepted(draw, self.body(draw, prompt, draw.choice([4, 4, 60, 400])))
        expect(status == 200, f"status {status}: {error}")
        if answer:
            expect(tokens[:len(answer)] == answer, f"{answer} was asked for, {tokens[:len(answer)]} came")
        self.count("right")

    def sample(self, draw):
        prompt, _ = self.question(draw)
        body = self.body(draw, prompt, 8) | {"n": 3, "temperature": 1.5, "top_p": 0.9, "seed": draw.randrange(1000)}
        status, tokens, error = self.until_accepted(draw, body)
        expect(status == 200 and all(tokens), f"status {status}: {error}")
        self.count("sampled")

    def until_accepted(self, draw, body):
        while True:
            status, tokens, error = self.complete(body)
            if status != 429:
                return status, tokens, error
            expect(int(error[1]["Retry-After"]) >= 1, "a 429 without Retry-After")
            self.stop.wait(draw.uniform(0.05, 0.3))

    def leave(self, draw):
        prompt, _ = self.question(draw)
        body = self.body(draw, prompt, 1000) | {"stream": True}
        with self.lock:
            self.choices["unknown"] += 1
        connection, response = self.post(body)
        with contextlib.closing(connection):
            if response.status == 200:
                for _ in range(draw.choice([0, 0, 1, 30])):
                    response.readline()
                self.count("left")
            else:
                expect(response.status == 429, f"status {response.status}: {response.read()}")

    def malformed(self, draw):
        connection, response = self.post(draw.choice(MALFORMED))
        with contextlib.closing(connection):
            expect(400 <= response.status < 500 and json.loads(response.read())["error"]["message"], f"status {response.status} for a malformed request")
        self.count("malformed")

    def too_long(self, draw):
        status, _, error = self.complete(self.body(draw, [5] * (self.context + draw.randrange(1, 9999)), 4))
        expect(status == 400 and error[0]["error"]["code"] == "context_length_exceeded", f"status {status}: {error}")
        self.count("too_long")

    def burst(self, draw):
        draws = [random.Random(draw.random()) for _ in range(3 * QUEUE)]

        def one(own):
            prompt, answer = self.question(own)
            status, tokens, error = self.complete(self.body(own, prompt, 4))
            expect(status in (200, 429), f"status {status}: {error}")
            if status == 200 and answer:
                expect(tokens == [answer], f"{answer} was asked for, {tokens} came")
            self.count("burst_accepted" if status == 200 else "burst_refused")

        threads = [threading.Thread(target=self.guarded, args=(one, own)) for own in draws]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    # All together.

    def guarded(self, client, draw) -> None:
        try:
            client(draw)
        except (Wrong, OSError, ValueError, KeyError, http.client.HTTPException) as error:
            with self.lock:
                self.errors.append(f"{client.__name__}: {type(error).__name__}: {error}"[:1000])
            self.stop.set()

    def worker(self, number: int) -> None:
        draw = random.Random(self.seed * 1000 + number)
        mix = [self.ask] * 8 + [self.sample] + [self.leave] * 3 + [self.malformed] * 3 + [self.too_long]
        while not self.stop.is_set():
            self.guarded(self.burst if number == 0 and draw.random() < 0.2 else draw.choice(mix), draw)

    def run(self, seconds: float, minute) -> None:
        """`minute` is called every so often, from this thread."""
        threads = [threading.Thread(target=self.worker, args=(i,)) for i in range(6)]
        end = time.monotonic() + seconds
        for thread in threads:
            thread.start()
        while not self.stop.wait(max(0, min(60, seconds / 12, end - time.monotonic()))) and time.monotonic() < end:
            minute()
        self.stop.set()
        for thread in threads:
            thread.join()


def scrape(url: str) -> dict[str, float]:
    with urllib.request.urlopen(url + "/metrics", timeout=60) as response:
        return parse_metrics(response.read().decode())


def answers(metrics: dict[str, float]) -> float:
    return sum(metrics[f'lserve:request_success_total{{finished_reason="{reason}"}}'] for reason in ("stop", "length"))


def faults(load: Load, url: str, before: dict[str, float], memory: list[int], growth: int, own: bool) -> list[str]:
    found = list(load.errors)
    deadline = time.monotonic() + 60
    while (after := scrape(url))["lserve:num_requests_running"] + after["lserve:num_requests_waiting"] > 0 and time.monotonic() < deadline:
        time.sleep(0.05)  # clients that left last
    for name in ["lserve:num_requests_running", "lserve:num_requests_waiting", 'lserve:kv_cache_usage_perc{pool="retrieval"}',
                 'lserve:kv_cache_usage_perc{pool="streaming"}']:
        if after[name] != 0:
            found.append(f"{name} is {after[name]} after the last request")
    counted = answers(after) - answers(before)
    if not load.choices["complete"] <= counted <= load.choices["complete"] + load.choices["unknown"]:
        found.append(f"the engine counted {counted:.0f} answers, the clients {load.choices['complete']} and {load.choices['unknown']} that they left")
    if not load.errors:
        found += [f"no client was '{kind}': the load no longer does everything" for kind in KINDS if own and not load.tally[kind]]
        if own and after["lserve:num_preemptions_total"] == before["lserve:num_preemptions_total"]:
            found.append("nothing was preempted: the load no longer does everything")
    if len(memory) >= 8:
        early, late = max(memory[len(memory) // 4:len(memory) // 2]), max(memory[-len(memory) // 4:])
        print(f"memory {early >> 20} MiB in the second quarter of the time, {late >> 20} MiB in the last")
        if late - early > growth << 20:
            found.append(f"memory grew by {(late - early) >> 20} MiB, more than {growth}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--server", help="the lserve program")
    where.add_argument("--url")
    parser.add_argument("--model", help="path or name, served instead of the one with hand-set weights; answers are then not compared")
    parser.add_argument("--flag", action="append", default=[], help="another flag of `lserve serve`, as --flag=--kv=kv8")
    parser.add_argument("--minutes", type=float, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--log", type=pathlib.Path)
    parser.add_argument("--growth", type=int, default=24, help="MiB that memory may grow after the first quarter (default: %(default)s)")
    args = parser.parse_args()
    earlier = collections.Counter()
    if args.log and args.log.exists() and (lines := args.log.read_text().splitlines()):
        last = json.loads(lines[-1])
        earlier.update(last["total"])
        args.seed = last["seed"] + 1
    with contextlib.ExitStack() as stack:
        recall = server = None
        if args.server:
            flags = FLAGS + ["--kv-memory", 0.25 if args.model else 0.009]  # 72 pages of the small model, of which one request may need 64
            model = args.model
            if not model:
                import make_recall_model as recall
                model = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
                recall.write_model(model)
                flags += ["--head-pattern", model / "full_attention_heads.tsv"]
            server = stack.enter_context(LocalServer(args.server, "--model", model, *flags, *args.flag))
            args.url = server.url
        with urllib.request.urlopen(args.url + "/v1/models", timeout=60) as response:
            served = json.load(response)["data"][0]
        load = Load(args.url, served["id"], recall, args.seed)
        load.context = served["max_model_len"]
        before, memory, started = scrape(args.url), [], time.monotonic()

        def minute():
            if server:
                memory.append(server.resident_bytes())
            total = earlier + load.tally + collections.Counter(seconds=round(time.monotonic() - started))
            print(json.dumps(total | ({"MiB": memory[-1] >> 20} if memory else {})), file=sys.stderr, flush=True)
            if args.log:
                with args.log.open("a") as log:
                    log.write(json.dumps({"seed": args.seed, "total": total, "memory": memory[-1:]}) + "\n")

        load.run(args.minutes * 60, minute)
        found = faults(load, args.url, before, memory, args.growth, own=bool(server))
        after = scrape(args.url)
        print(f"seed {args.seed}: {dict(load.tally)}; {after['lserve:num_preemptions_total'] - before['lserve:num_preemptions_total']:.0f} preemptions, "
              f"{after['lserve:generation_tokens_total'] - before['lserve:generation_tokens_total']:.0f} tokens generated")
        for fault in found:
            print("WRONG:", fault)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
