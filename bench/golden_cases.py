#!/usr/bin/env python3
"""Runs the golden cases of smollm2-135m-longctx against a running lserve and compares with the answers recorded from the dense model (bfloat16, greedy).

    lserve serve --port 8080 &
    bench/golden_cases.py --out cases.jsonl                      3 cases a task at 4K, 1 at 16K, dense and lserve
    bench/golden_cases.py --out cases.jsonl --all                all 576; goes on where it was stopped

Prints, for each attention mode and length: answers identical to the recorded ones, the mean score beside the recorded mean, and how many got better or worse.
Exits 1 if fewer than 90 % of the dense answers are identical. Standard library only.
"""
import argparse
import collections
import gzip
import json
import pathlib
import sys
import urllib.request

CASES = pathlib.Path(__file__).resolve().parent.parent / "data" / "models" / "smollm2-135m-longctx" / "eval_reference.jsonl.gz"
ROUTINE = {4096: 3, 16384: 1}  # cases a task


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


def ask(url: str, model: str, case: dict, attention: str, budget: int | None) -> dict:
    own = {"attention": attention} | ({"budget": budget} if budget and attention == "lserve" else {})
    body = {"model": model, "prompt": case["prompt"], "max_tokens": case["max_new"], "temperature": 0, "lserve": own}
    request = urllib.request.Request(url + "/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=3600) as response:
        return json.load(response)


def report(results: list[dict]) -> float:
    """Prints the table; returns the least share of identical dense answers."""
    groups = collections.defaultdict(list)
    for r in results:
        groups[r["attention"], r["length"]].append(r)
    least = 1.0
    print("| attention | length | cases | identical | score | recorded | better | worse | pages read |")
    print("|---|---|---|---|---|---|---|---|---|")
    for (attention, length), rows in sorted(groups.items()):
        identical = sum(r["identical"] for r in rows) / len(rows)
        if attention == "dense":
            least = min(least, identical)
        mean = lambda key: 100 * sum(r[key] for r in rows) / len(rows)
        better, worse = sum(r["score"] > r["recorded"] for r in rows), sum(r["score"] < r["recorded"] for r in rows)
        pages = 100 * sum(r["pages_read"] for r in rows) / max(1, sum(r["pages_total"] for r in rows))
        print(f"| {attention} | {length} | {len(rows)} | {100 * identical:.1f} % | {mean('score'):.1f} | {mean('recorded'):.1f} | {better} | {worse} | {pages:.0f} % |")
    return least


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--out", required=True, type=pathlib.Path, help="JSON lines, one a case; those already there are not run again")
    parser.add_argument("--modes", default="dense,lserve")
    parser.add_argument("--budget", type=int, default=2048, help="tokens, for lserve (default: %(default)s)")
    parser.add_argument("--lengths", default="4096,16384", help="with --per-task or --all (default: %(default)s)")
    parser.add_argument("--per-task", type=int, help="cases a task at every length")
    parser.add_argument("--all", action="store_true", help="every case of every length")
    args = parser.parse_args()
    with urllib.request.urlopen(args.url + "/v1/models", timeout=30) as response:
        model = json.load(response)["data"][0]["id"]
    results = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out.exists() else []
    done = {(r["attention"], r["task"], r["length"], r["index"]) for r in results}
    taken = collections.Counter()
    lengths = {int(n) for n in args.lengths.split(",")}
    with gzip.open(CASES, "rt") as lines, args.out.open("a") as out:
        for case in map(json.loads, lines):
            limit = sys.maxsize if args.all else (args.per_task or ROUTINE.get(case["length"], 0)) if case["length"] in lengths else 0
            taken[case["task"], case["length"]] += 1
            if taken[case["task"], case["length"]] > limit:
                continue
            for attention in args.modes.split(","):
                if (attention, case["task"], case["length"], case["index"]) in done:
                    continue
                answer = ask(args.url, model, case, attention, args.budget)
                text, own = answer["choices"][0]["text"], answer["usage"]["lserve"]
                results.append({"attention": attention, "task": case["task"], "length": case["length"], "index": case["index"], "text": text,
                                "identical": text == case["dense_text"], "score": score(case, text), "recorded": case["dense_score"],
                                "pages_read": own["pages_read"], "pages_total": own["pages_total"]})
                out.write(json.dumps(results[-1]) + "\n")
                out.flush()
                print(f"{attention} {case['task']} {case['length']} #{case['index']}: "
                      f"{'identical' if results[-1]['identical'] else repr(text[:80])} score {results[-1]['score']:.2f}", file=sys.stderr)
    return 0 if report(results) >= 0.9 else 1


if __name__ == "__main__":
    sys.exit(main())
