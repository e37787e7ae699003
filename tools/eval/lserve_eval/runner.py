"""Runs samples under settings and keeps one JSON line a result, so that a run goes on where it was cut off.

All settings of a sample are asked one after another: a server with a prefix cache reads the prompt once for all that treat it alike.
"""
import concurrent.futures
import json
import pathlib
import sys
import threading
import time

from . import scores
from .client import Client
from .sample import Sample, Task
from .settings import Setting
from .sizing import filler

GIVE_UP = 40  # failures in a row that mean the server is lost
BUCKETS = [0, 64, 256, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072, 1 << 30]


class Results:
    """The file of results. Lines of kind "run" tell what made those after them; a line that was cut off is dropped."""

    def __init__(self, path: pathlib.Path):
        self.path, self.rows, self.runs = path, [], []
        self._lock = threading.Lock()
        if path.exists():
            kept = []
            for line in path.read_text().splitlines():
                try:
                    row = json.loads(line)
                except ValueError:
                    continue
                kept.append(line)
                (self.runs if row.get("kind") == "run" else self.rows).append(row)
            path.write_text("".join(line + "\n" for line in kept))
        self._done = {self.key(row) for row in self.rows}

    @staticmethod
    def key(row: dict) -> tuple:
        return row["setting"], row["task"], row["length"], row["index"]

    def check_same(self, settings: list[Setting], model: str, seed: int) -> None:
        """That results under these names, if there are any, came about as they would now: else the file would mix what no report can tell apart."""
        for run in self.runs:
            for s in settings:
                then = run.get("definitions", {}).get(s.name)
                if then is not None and (then, run["model"], run["seed"]) != (s.definition(), model, seed):
                    raise ValueError(f"{self.path}: has results of setting {s.name} made with {then}, model {run['model']}, seed {run['seed']}; "
                                     f"now it is {s.definition()}, {model}, {seed}. Take another name or another file")

    def has(self, *key) -> bool:
        return key in self._done

    def add(self, row: dict) -> None:
        with self._lock:
            (self.runs if row.get("kind") == "run" else self.rows).append(row)
            if row.get("kind") != "run":
                self._done.add(self.key(row))
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as out:
                out.write(json.dumps(row) + "\n")


def ask(client: Client, sample: Sample, ids: list[int], setting: Setting) -> dict:
    """One result: score or negative log-likelihoods, pages and speed."""
    own = setting.own()
    row = {"setting": setting.name, "task": sample.task, "length": sample.length, "index": sample.index, "metric": sample.metric, "digest": sample.digest(),
           "prompt_tokens": len(ids), "extra": {k: v for k, v in sample.extra.items() if k != "before"}}
    if sample.metric in ("nll", "nll_by_position"):
        answer = client.tokens(sample.answers[0]) if sample.metric == "nll" else []
        started = time.monotonic()
        logprobs, usage = client.prompt_logprobs(ids + answer, own)
        row["seconds"] = time.monotonic() - started
        if sample.metric == "nll":
            told = [-value for value in logprobs[-len(answer):]]
            row["nll"] = sum(told) / len(told)
            if "before" in sample.extra:  # where the first of the two copies lies
                row["extra"]["offset"] = len(client.tokens(sample.extra["before"], special=True)) % 64
        else:
            buckets = [[0.0, 0] for _ in BUCKETS[1:]]
            for position, value in enumerate(logprobs, 1):
                bucket = next(i for i in range(len(buckets)) if position < BUCKETS[i + 1])
                buckets[bucket][0] -= value
                buckets[bucket][1] += 1
            row["buckets"] = {f"{BUCKETS[i]}-{BUCKETS[i + 1]}": total / count for i, (total, count) in enumerate(buckets) if count}
            row["nll"] = -sum(logprobs) / len(logprobs)
    else:
        free = sample.metric == "agreement"
        answer = client.complete(ids, sample.max_new, own, logprobs=20 if free else None, ignore_eos=free)
        usage = answer["usage"]
        row |= {"text": answer["text"], "finish": answer["finish"], "seconds": answer["seconds"], "answer_tokens": usage.get("completion_tokens")}
        if free:
            given = answer["logprobs"]
            row |= {"tokens": given["tokens"], "top": [{t: round(p, 4) for t, p in top.items()} for top in given["top_logprobs"]]}
        else:
            row["score"] = scores.METRICS[sample.metric](answer["text"], sample.answers)
            row["answers"] = sample.answers
    pages = usage.get("lserve") or {}
    row |= {key: pages[key] for key in ("pages_total", "pages_read", "prefill_blocks_total", "prefill_blocks_read", "audited", "missed_mass_mean", "missed_mass_max")
            if key in pages}
    row["cached_tokens"] = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    return row


class Run:
    """Samples 0 .. counts[task] - 1 of every task and length under every setting. `deadline`: no sample begins after it (time.monotonic)."""

    def __init__(self, client: Client, results: Results, settings: list[Setting], seed: int = 42, concurrency: int = 1, deadline: float = float("inf"),
                 out=sys.stderr):
        self._client, self._results, self._settings = client, results, settings
        self._filler, self._concurrency, self._deadline, self._out = filler(client, seed), concurrency, deadline, out
        self._lock = threading.Lock()
        self._finished = self._total = 0
        self._started = time.monotonic()
        self._failed_in_a_row = 0
        self.failures: list[str] = []

    def all(self, tasks: list[Task], lengths: list[int], counts: dict[str, int]) -> bool:
        """Whether everything was run. Errors of single samples are kept in `failures` and do not end the run; GIVE_UP in a row do."""
        jobs = []
        for length in lengths:
            for index in range(max(counts.values())):  # all tasks grow together, so that a run that is cut off is of use
                for task in (t for t in tasks if index < counts[t.name]):
                    missing = [s for s in self._settings if not self._results.has(s.name, task.name, length, index)]
                    if missing:
                        jobs.append((task, length, index, missing))
        self._total = sum(len(missing) for *_, missing in jobs)
        complete = True
        with concurrent.futures.ThreadPoolExecutor(self._concurrency) as pool:
            running: set = set()
            for task, length, index, missing in jobs:
                if time.monotonic() > self._deadline or self._failed_in_a_row >= GIVE_UP:
                    complete = False
                    break
                try:
                    sample, ids = self._filler.make(task, length, index)  # this thread alone
                except ValueError as error:
                    self._fail(str(error), len(missing))
                    continue
                running.add(pool.submit(self._sample, sample, ids, missing))
                if len(running) >= 2 * self._concurrency:
                    done, running = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
                    for one in done:
                        one.result()
            for one in running:
                one.result()
        return complete and not self.failures

    def _sample(self, sample: Sample, ids: list[int], settings: list[Setting]) -> None:
        for setting in settings:
            if self._failed_in_a_row >= GIVE_UP:
                return
            try:
                row = ask(self._client, sample, ids, setting)
            except Exception as error:  # a failed request costs its result, not the run
                self._fail(f"{setting.name} {sample.task} {sample.length} #{sample.index}: {error}", 1)
                continue
            self._failed_in_a_row = 0
            self._results.add(row)
            self._progress(row)

    def _fail(self, words: str, results: int) -> None:
        with self._lock:
            self._finished += results
            self.failures.append(words)
            print(f"FAILED {words}", file=self._out, flush=True)
            self._failed_in_a_row += 1
            if self._failed_in_a_row == GIVE_UP:
                print(f"GIVEN UP: {GIVE_UP} requests failed one after the other", file=self._out, flush=True)

    def _progress(self, row: dict) -> None:
        with self._lock:
            self._finished += 1
            passed = time.monotonic() - self._started
            left = passed / self._finished * (self._total - self._finished)
            value = f"score {row['score']:.2f}" if "score" in row else f"nll {row['nll']:.3f}" if "nll" in row else "done"
            print(f"[{self._finished}/{self._total}, {left / 60:.0f} min left] {row['setting']} {row['task']} {row['length']} #{row['index']}: {value} "
                  f"({row['seconds']:.1f} s)", file=self._out, flush=True)

