#!/usr/bin/env python3
"""Do two servers of one model give the same tokens with the same probabilities? One records, the other is compared: a GPU with the CPU, a KV type with another.

    lserve serve --model M --backend cpu --weights bf16 --kv kv16 --port 8080 &
    bench/agreement.py record --url http://127.0.0.1:8080 --lengths 512,8192,32000 --out cpu.json
    bench/agreement.py compare --url http://gpu:8080 cpu.json

64 tokens are taken greedily after each prompt, each with its 20 likeliest.
`compare` prints, for each prompt: tokens before the first difference and, there, how far apart the two servers hold the two candidates; and the error of
the log probabilities: mean and worst, in nats, over all tokens that both list (above --floor) up to that difference. Exits 1 where answers part at a gap
wider than twice that worst error: no near tie. Standard library only.
"""
import argparse
import gzip
import json
import pathlib
import sys
import urllib.error
import urllib.request

CASES = pathlib.Path(__file__).resolve().parent.parent / "data" / "models" / "smollm2-135m-longctx" / "eval_reference.jsonl.gz"


def post(url: str, path: str, body: dict) -> dict:
    request = urllib.request.Request(url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=3600) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        sys.exit(f"{url}{path}: {error}: {error.read().decode(errors='replace')}")


def prompts(args, length: int) -> list[list[int]]:
    """`args.prompts` lists of `length` ids: tails of golden cases of different tasks, or pieces of --text."""
    if args.text:
        text = (gzip.open if args.text.suffix == ".gz" else open)(args.text, "rt").read()
        pieces = [text[i * 6 * length:(i + 1) * 6 * length] for i in range(args.prompts)]
        lists = [post(args.url, "/tokenize", {"prompt": piece})["tokens"] for piece in pieces]
    else:
        cases = [json.loads(line) for line in gzip.open(CASES, "rt")]
        by_task = {case["task"]: case["prompt"] for case in cases if case["length"] == 32768}
        lists = [by_task[task] for task in sorted(by_task)][:args.prompts]
    if short := [len(ids) for ids in lists if len(ids) < length]:
        sys.exit(f"--lengths {length}: {args.text or CASES.name} gives prompts of {short} tokens")
    return [ids[-length:] for ids in lists]


def answer(url: str, ids: list[int], tokens: int, attention: str) -> dict:
    out = post(url, "/v1/completions", {"prompt": ids, "max_tokens": tokens, "temperature": 0, "logprobs": 20, "ignore_eos": True,
                                        "lserve": {"attention": attention}})
    logprobs = out["choices"][0]["logprobs"]
    return {"tokens": logprobs["tokens"], "top": logprobs["top_logprobs"]}


def compare(want: dict, got: dict, floor: float) -> dict:
    same, errors = 0, []
    for ours, theirs, top, other in zip(want["tokens"], got["tokens"], want["top"], got["top"]):
        errors += [abs(value - other[text]) for text, value in top.items() if value > floor and text in other]
        if ours != theirs:
            break
        same += 1
    result = {"same": same, "of": len(want["tokens"]), "error_mean": sum(errors) / len(errors), "error_worst": max(errors)}
    if same < len(want["tokens"]):
        ours, theirs = want["tokens"][same], got["tokens"][same]
        lists = [side["top"][same] for side in (want, got)]
        result["gaps"] = [abs(top[ours] - top[theirs]) if ours in top and theirs in top else None for top in lists]
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    record = commands.add_parser("record")
    record.add_argument("--lengths", default="512,8192,32000")
    record.add_argument("--prompts", type=int, default=3, help="a length (default: %(default)s)")
    record.add_argument("--text", type=pathlib.Path, help="a text, .gz or plain, instead of the golden cases of smollm2-135m-longctx")
    record.add_argument("--tokens", type=int, default=64)
    record.add_argument("--attention", choices=["dense", "lserve"], default="dense")
    record.add_argument("--out", type=pathlib.Path, required=True)
    other = commands.add_parser("compare")
    other.add_argument("recorded", type=pathlib.Path)
    other.add_argument("--floor", type=float, default=-12, help="log probability below which differences are not counted (default: %(default)s)")
    other.add_argument("--out", type=pathlib.Path)
    for command in (record, other):
        command.add_argument("--url", default="http://127.0.0.1:8080")
    args = parser.parse_args()

    if args.command == "record":
        entries = []
        for length in map(int, args.lengths.split(",")):
            for ids in prompts(args, length):
                entries.append({"ids": ids, "attention": args.attention, **answer(args.url, ids, args.tokens, args.attention)})
                print(f"{length} tokens: {''.join(entries[-1]['tokens'])[:60]!r}", file=sys.stderr)
                args.out.write_text(json.dumps(entries))
        return

    bad, results = 0, []
    print("tokens  mode    same    error of log probabilities: mean  worst   where they part: gap recorded / here")
    for entry in json.loads(args.recorded.read_text()):
        got = answer(args.url, entry["ids"], len(entry["tokens"]), entry["attention"])
        result = {"length": len(entry["ids"]), "attention": entry["attention"], **compare(entry, got, args.floor)}
        gaps = result.get("gaps")
        far = gaps is not None and (None in gaps or min(gaps) > 2 * result["error_worst"])
        bad += far
        told = "" if gaps is None else " / ".join("not among the 20" if gap is None else f"{gap:.4f}" for gap in gaps)
        print(f"{result['length']:6}  {result['attention']:6}  {result['same']:2}/{result['of']}  {result['error_mean']:31.4f}  {result['error_worst']:.4f}  "
              f" {told}{'  no near tie' if far else ''}")
        results.append(result)
        if args.out:
            args.out.write_text(json.dumps(results, indent=1))
    sys.exit(bad > 0)


if __name__ == "__main__":
    main()
