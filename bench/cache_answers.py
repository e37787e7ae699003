#!/usr/bin/env python3
"""Does an answer depend on where its KV came from? Asks the same questions of a real model fresh, from the prefix cache, under another salt, while
sequences preempt each other, from host memory after small pools gave it away, and after a restart with the file store, and compares tokens and log
probabilities with the fresh answer's, bit for bit.

    bench/cache_answers.py build/release/src/cli/lserve --model smollm2-135m-longctx
    bench/cache_answers.py build/release/src/cli/lserve --model smollm2-135m-longctx --backend cuda --kv kv16,kv8

Every KV type and both attention modes; every server runs with --deterministic. Exits 1 if a pair differs or the cache was not used where it should be.
Standard library only.
"""
import argparse
import concurrent.futures
import gzip
import json
import pathlib
import re
import sys
import tempfile
import urllib.error
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tools"))
from local_server import LocalServer

CASES = pathlib.Path(__file__).resolve().parent.parent / "data" / "models" / "smollm2-135m-longctx" / "eval_reference.jsonl.gz"
ANSWER = 160  # tokens of an answer that shall be preempted: two pages or three beside its prompt's
SPARSE = ["--dense-below", 0, "--prefill-local", 1024]  # so that short prompts stream and select


def ask(url: str, ids: list[int], mode: str, salt: str = "", tokens: int = 24) -> dict:
    body = {"prompt": ids, "max_tokens": tokens, "temperature": 0, "logprobs": 3, "ignore_eos": True, "lserve": {"attention": mode, "budget": 1024}}
    if mode == "dense":
        del body["lserve"]["budget"]
    if salt:
        body["cache_salt"] = salt
    request = urllib.request.Request(url + "/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=3600) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        raise RuntimeError(f"status {error.code}: {error.read().decode(errors='replace')}") from None


def content(answer: dict) -> tuple:
    logprobs = answer["choices"][0]["logprobs"]
    return answer["choices"][0]["text"], logprobs["token_logprobs"], logprobs["top_logprobs"]


def cached(answer: dict) -> int:
    return answer["usage"]["prompt_tokens_details"]["cached_tokens"]


class Report:
    failed = 0

    def line(self, what: str, same: bool, note: str = "") -> None:
        print(f"{'same   ' if same else 'DIFFERS'}  {what}{'  ' + note if note else ''}", flush=True)
        self.failed += not same

    def nothing(self, what: str, why: str) -> None:
        """What was to be shown did not happen, which is a failure of the run, not of an answer."""
        print(f"NOTHING  {what}  {why}", flush=True)
        self.failed += 1


def check(program: str, flags: list, prompts: list[list[int]], mode: str, name: str, report: Report) -> None:
    with tempfile.TemporaryDirectory() as store:
        kept = [*flags, "--prefix-cache-dir", store]
        with LocalServer(program, *kept) as server:
            fresh = [ask(server.url, ids, mode) for ids in prompts]
            for again, what in (("", "from the cache"), ("other", "another salt"), ("other", "that salt, from the cache")):
                answers = [ask(server.url, ids, mode, again) for ids in prompts]
                hits = [cached(answer) for answer in answers]
                used = all(hits) if "from" in what else not any(hits)
                report.line(f"{name}: {what}", used and all(content(a) == content(f) for a, f in zip(answers, fresh)), f"cached {hits}")
            # The answer is part of the second turn's prompt. Another salt computes all of it.
            turn = [[*ids, *fresh_ids(server.url, f), *ids[:40]] for ids, f in zip(prompts, fresh)]
            second = [ask(server.url, ids, mode) for ids in turn]
            whole = [ask(server.url, ids, mode, "third") for ids in turn]
            report.line(f"{name}: second turn", all(content(a) == content(b) for a, b in zip(second, whole)), f"cached {[cached(a) for a in second]}")
        with LocalServer(program, *kept) as server:
            answers = [ask(server.url, ids, mode) for ids in prompts]
            report.line(f"{name}: after a restart", all(map(cached, answers)) and all(content(a) == content(f) for a, f in zip(answers, fresh)),
                        f"cached {[cached(a) for a in answers]}")


def fresh_ids(url: str, answer: dict) -> list[int]:
    body = json.dumps({"prompt": answer["choices"][0]["text"]}).encode()
    with urllib.request.urlopen(urllib.request.Request(url + "/tokenize", body, {"Content-Type": "application/json"}), timeout=60) as response:
        return json.load(response)["tokens"]


class SmallPools:
    """Pools that hold one prompt with its answer, and two prompts and a single page for their answers: the second that reaches the end of its last page is
    preempted. By default a GPU's two pools differ, by what sparse requests need of each; a server that is dense by default gives both the same."""

    def __init__(self, program: str, flags: list, tokens: int):
        some = 2  # GiB, of more pages than are asked for, so that half a page is not lost in rounding
        with LocalServer(program, *flags, "--attention", "dense", "--kv-memory", some) as server:
            pages = int(re.search(r"; (\d+) and \d+ pages", server.words()).group(1))
        self.pages = 2 * -(-tokens // 64) + 1
        self.flags = ["--attention", "dense", "--kv-memory", some * (self.pages + 0.5) / pages]


def check_preemption(program: str, flags: list, pools: SmallPools, prompts: list[list[int]], mode: str, name: str, report: Report) -> None:
    """All prompts at once in small pools, against one at a time."""
    with LocalServer(program, *flags, "--no-prefix-cache") as server:
        alone = [ask(server.url, ids, mode, tokens=ANSWER) for ids in prompts]
    with LocalServer(program, *flags, *pools.flags) as server, concurrent.futures.ThreadPoolExecutor(len(prompts)) as threads:
        together = list(threads.map(lambda ids: ask(server.url, ids, mode, tokens=ANSWER), prompts))
        preempted = sum(value for key, value in server.metrics().items() if key.startswith("lserve:num_preemptions"))
    equal = all(content(a) == content(b) for a, b in zip(together, alone))
    what = f"{name}: {len(prompts)} at once in pools of {pools.pages} pages"
    if equal and preempted == 0:
        report.nothing(what, "the answers are equal, but none was preempted")
    else:
        report.line(what, equal, f"preempted {preempted:.0f} times")


def check_host(program: str, flags: list, pools: SmallPools, prompts: list[list[int]], mode: str, name: str, report: Report) -> None:
    """One after the other, twice, in small pools, with host memory for what they give away."""
    with LocalServer(program, *flags, *pools.flags, "--prefix-cache-host-gb", 1) as server:
        fresh, again = [[ask(server.url, ids, mode) for ids in prompts] for _ in range(2)]
    brought = [answer["usage"]["lserve"]["cached_from_host"] for answer in again]
    what, equal = f"{name}: from host memory, pools of {pools.pages} pages", all(content(a) == content(f) for a, f in zip(again, fresh))
    if equal and not any(brought):
        report.nothing(what, "the pools gave nothing away")
    else:
        report.line(what, equal and all(map(cached, again)), f"cached {[cached(a) for a in again]}, of that from host memory {brought}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--model", required=True)
    parser.add_argument("--backend", default="cpu")
    parser.add_argument("--kv", default="kv16,kv8,kv4")
    parser.add_argument("--modes", default="dense,lserve")
    parser.add_argument("--tokens", type=int, default=3000, help="of a prompt (default: %(default)s)")
    args = parser.parse_args()
    cases = [json.loads(line) for line in gzip.open(CASES, "rt")]
    by_task = {case["task"]: case["prompt"] for case in cases if case["length"] == 4096}
    prompts = [by_task[task][-args.tokens:] for task in sorted(by_task)]
    report = Report()
    for kv in args.kv.split(","):
        for mode in args.modes.split(","):
            flags = ["--model", args.model, "--backend", args.backend, "--kv", kv, "--deterministic", *SPARSE]
            check(args.program, flags, prompts[:2], mode, f"{args.backend} {kv} {mode}", report)
            pools = SmallPools(args.program, flags, max(map(len, prompts[2:6])))
            check_host(args.program, flags, pools, prompts[2:6], mode, f"{args.backend} {kv} {mode}", report)
            check_preemption(args.program, flags, pools, prompts[2:6], mode, f"{args.backend} {kv} {mode}", report)
    print(f"{report.failed} differ or showed nothing" if report.failed else "all the same")
    sys.exit(report.failed > 0)


if __name__ == "__main__":
    main()
