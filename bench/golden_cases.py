#!/usr/bin/env python3
"""Runs the golden cases of smollm2-135m-longctx against a running lserve and compares with the answers recorded from the dense model (bfloat16, greedy).

    lserve serve --port 8080 &
    bench/golden_cases.py --out cases.jsonl                      3 cases a task at 4K, 1 at 16K, dense and lserve
    bench/golden_cases.py --out cases.jsonl --all                all 576; goes on where it was stopped
    bench/golden_cases.py --short --server build/dev/src/cli/lserve      what ./check runs, with a server of its own

Prints, for each attention mode and length: answers identical to the recorded ones, the mean score beside the recorded mean, and how many got better or worse.
Exits 1 if fewer than 90 % of the dense answers are identical; if the score of dense, or of lserve where no pages are selected (contexts up to 12288
tokens), lies below the recorded one by more than the sampling error (twice the standard error of the recorded scores, and at least one case); or if
lserve with selected pages loses more than half of it. Standard library only.
"""
import argparse
import collections
import concurrent.futures
import contextlib
import gzip
import json
import math
import pathlib
import statistics
import sys
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tools"))
from local_server import LocalServer

CASES = pathlib.Path(__file__).resolve().parent.parent / "data" / "models" / "smollm2-135m-longctx" / "eval_reference.jsonl.gz"
MODEL = "smollm2-135m-longctx"
BUDGET = 2048
DENSE_BELOW = 12288  # --dense-below's default: retrieval heads read shorter contexts whole
ROUTINE = {4096: 3, 16384: 1}  # cases a task


def short(attention: str, task: str, length: int) -> int:
    """Cases of --short: at 16K, where pages are selected, only the two tasks that mistreated heads lose first, and lserve alone: each takes minutes."""
    if length == 4096:
        return 2 if attention == "dense" else 1
    return int(attention == "lserve" and length == 16384 and task in ("vt", "niah_multikey_3"))


def score(case: dict, text: str) -> float:
    """match_all: the share of the answers that occur; prefix_words: the share of the words that are right before the first error."""
    if case["metric"] == "match_all":
        return sum(answer.lower() in text.lower() for answer in case["answers"]) / len(case["answers"])
    wanted = " ".join(case["answers"]).split()
    right = 0
    for word, given in zip(wanted, text.split()):
        if word.lower() != given.lower().strip(".,"):
            break
        right += 1
    return right / len(wanted)


def ask(url: str, model: str, case: dict, attention: str, budget: int | None, audit: int = 0) -> dict:
    own = {"attention": attention} | ({"budget": budget} if budget and attention == "lserve" else {}) | ({"audit": audit} if audit else {})
    body = {"model": model, "prompt": case["prompt"], "max_tokens": case["max_new"], "temperature": 0, "lserve": own}
    request = urllib.request.Request(url + "/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=3600) as response:
        return json.load(response)


def report(results: list[dict]) -> bool:
    """Prints the tables; returns whether all is as good as it is meant to be."""
    groups = collections.defaultdict(list)
    for r in results:
        groups[r["attention"], r["length"]].append(r)
    print("| attention | length | cases | identical | score | recorded | better | worse | pages read | missed mass |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for (attention, length), rows in sorted(groups.items()):
        mean = lambda key: 100 * statistics.fmean(r[key] for r in rows)
        better, worse = sum(r["score"] > r["recorded"] for r in rows), sum(r["score"] < r["recorded"] for r in rows)
        pages = 100 * sum(r["pages_read"] for r in rows) / max(1, sum(r["pages_total"] for r in rows))
        audited = [r["missed_mass"] for r in rows if r.get("missed_mass") is not None]
        missed = f"{statistics.fmean(audited):.3f}" if audited else "-"
        print(f"| {attention} | {length} | {len(rows)} | {mean('identical'):.1f} % | {mean('score'):.1f} | {mean('recorded'):.1f} | {better} | {worse} | {pages:.0f} % | {missed} |")
    ours = {(r["task"], r["length"], r["index"]): r["score"] for r in results if r["attention"] == "dense"}
    for (attention, length), rows in sorted(groups.items()):
        pairs = [(r["score"], ours[key]) for r in rows if attention != "dense" and (key := (r["task"], r["length"], r["index"])) in ours]
        if pairs:
            change = 100 * statistics.fmean(own - dense for own, dense in pairs)
            print(f"{attention} at {length} beside our dense, {len(pairs)} pairs: {change:+.1f} points, {sum(o > d for o, d in pairs)} better, {sum(o < d for o, d in pairs)} worse")
    good = True
    for attention in sorted({a for a, _ in groups}):
        rows = [r for r in results if r["attention"] == attention]
        if len({length for _, length in groups}) > 1:
            print(f"{attention}, all: {100 * statistics.fmean(r['identical'] for r in rows):.1f} % identical, score {100 * statistics.fmean(r['score'] for r in rows):.1f}, recorded {100 * statistics.fmean(r['recorded'] for r in rows):.1f}")
        identical = statistics.fmean(r["identical"] for r in rows)
        if attention == "dense" and identical < 0.9:
            print(f"dense: only {100 * identical:.1f} % identical, 90 % are meant")
            good = False
        # Half of the heads streaming is claimed to be dense's equal, a budget of 2048 is not: with pages ranked by bounds it lost, over all
        # cases, 24 points at 16K, 32 at 32K and 45 at 64K beside our dense. So where pages are selected the loss is printed, and judged only for
        # what a broken selection would do.
        selected = [r for r in rows if attention != "dense" and r["length"] > DENSE_BELOW]
        equal = [r for r in rows if r not in selected]
        good &= judge(attention, equal, lambda part: max(2 * statistics.pstdev(r["recorded"] for r in part) / math.sqrt(len(part)), 1 / len(part)))
        good &= judge(attention + ", pages selected", selected, lambda part: max(statistics.fmean(r["recorded"] for r in part) / 2, 1 / len(part)))
    return good


def judge(name: str, rows: list[dict], allowed) -> bool:
    if not rows:
        return True
    loss, bar = statistics.fmean(r["recorded"] - r["score"] for r in rows), allowed(rows)
    print(f"{name}: {len(rows)} cases, {100 * loss:.1f} points below the recorded scores, {100 * bar:.1f} allowed")
    return loss <= bar + 1e-9


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--url", default="http://127.0.0.1:8080", help="a server that runs (default: %(default)s)")
    where.add_argument("--server", help="the lserve program: start one with the default model, and end it")
    parser.add_argument("--out", type=pathlib.Path, help="JSON lines, one a case; those already there are not run again (default: not kept)")
    parser.add_argument("--modes", default="dense,lserve")
    parser.add_argument("--budget", default=str(BUDGET), help="tokens, for lserve; several, comma separated, are told apart (default: %(default)s)")
    parser.add_argument("--audit", type=int, default=0, help="audit one layer-step in so many: how much attention mass selection missed (default: none)")
    parser.add_argument("--concurrency", type=int, default=1, help="requests at a time")
    parser.add_argument("--lengths", default="4096,16384", help="with --per-task (default: %(default)s)")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--per-task", type=int, help="cases a task at every length")
    what.add_argument("--all", action="store_true", help="every case of every length")
    what.add_argument("--short", action="store_true", help="two dense and one lserve case a task at 4K, two tasks in lserve at 16K")
    args = parser.parse_args()
    with contextlib.ExitStack() as stack:
        if args.server:
            args.url = stack.enter_context(LocalServer(args.server, "--model", MODEL)).url
        return 0 if report(run(args)) else 1


def wanted(args, attention: str, case: dict, number: int) -> bool:
    """Whether the number-th case (from 0) of its task and length is to be run."""
    if args.short:
        return number < short(attention, case["task"], case["length"])
    if args.all:
        return True
    return case["length"] in {int(n) for n in args.lengths.split(",")} and number < (args.per_task or ROUTINE.get(case["length"], 0))


def run(args) -> list[dict]:
    with urllib.request.urlopen(args.url + "/v1/models", timeout=30) as response:
        model = json.load(response)["data"][0]["id"]
    results = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out and args.out.exists() else []
    done = {(r["attention"], r["task"], r["length"], r["index"]) for r in results}
    taken = collections.Counter()
    budgets = [int(b) for b in args.budget.split(",")]
    jobs = []
    with gzip.open(CASES, "rt") as lines:
        for case in map(json.loads, lines):
            number = taken[case["task"], case["length"]]
            taken[case["task"], case["length"]] += 1
            for mode in args.modes.split(","):
                for budget in budgets if mode == "lserve" else [None]:
                    label = mode if budget is None or len(budgets) == 1 else f"{mode} {budget}"
                    if wanted(args, mode, case, number) and (label, case["task"], case["length"], case["index"]) not in done:
                        jobs.append((label, mode, budget, case))

    def one(job) -> dict:
        label, mode, budget, case = job
        answer = ask(args.url, model, case, mode, budget, args.audit)
        text, own = answer["choices"][0]["text"], answer["usage"]["lserve"]
        return {"attention": label, "task": case["task"], "length": case["length"], "index": case["index"], "text": text,
                "identical": text == case["dense_text"], "score": score(case, text), "recorded": case["dense_score"],
                "pages_read": own["pages_read"], "pages_total": own["pages_total"],
                "missed_mass": own.get("missed_mass_mean")}

    with concurrent.futures.ThreadPoolExecutor(args.concurrency) as pool, (args.out.open("a") if args.out else contextlib.nullcontext()) as out:
        for result in concurrent.futures.as_completed([pool.submit(one, job) for job in jobs]):
            r = result.result()
            results.append(r)
            if out:
                out.write(json.dumps(r) + "\n")
                out.flush()
            print(f"{r['attention']} {r['task']} {r['length']} #{r['index']}: "
                  f"{'identical' if r['identical'] else repr(r['text'][:80])} score {r['score']:.2f}", file=sys.stderr)
    return results


if __name__ == "__main__":
    sys.exit(main())
