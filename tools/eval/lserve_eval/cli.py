"""The commands: run, suite, report, generate, longbench, corpus."""
import argparse
import contextlib
import gzip
import json
import os
import pathlib
import sys
import time

from . import report, scores
from .client import Client, ServerError
from .material import Material
from .runner import Results, Run
from .sample import Sample
from .settings import Setting, by_server, from_mapping, parse
from .sizing import filler
from .tasks import all_tasks, names

DEFAULT_SAMPLES = 20


def counts_of(tasks: list[str], samples: dict | int) -> dict[str, int]:
    """Samples a task: a number, or a number for "default" and for some tasks."""
    if isinstance(samples, int):
        return dict.fromkeys(tasks, samples)
    return {task: samples.get(task, samples.get("default", DEFAULT_SAMPLES)) for task in tasks}


@contextlib.contextmanager
def server_for(args, flags: list[str]):
    """The client of a server: of args.url, or of an `lserve serve` that lives as long as the block."""
    if args.url:
        yield Client(args.url, args.served_model, args.api_key)
        return
    from local_server import LocalServer

    if not args.lserve:
        raise ValueError("--lserve PROGRAM is needed to start a server (lserve eval gives it); or --url of one that runs")
    with LocalServer(args.lserve, "--model", args.model, *flags, load_seconds=1800) as server:
        client = Client(server.url)
        client.words = server.words()
        yield client


def run_plan(args, material: Material, plan: list[dict], out: pathlib.Path) -> int:
    """Runs blocks of {tasks, lengths, samples, settings, server} one after another; returns the exit status."""
    results, known, failed = Results(out), all_tasks(material), []
    deadline = time.monotonic() + args.time_limit if args.time_limit else float("inf")
    complete = True
    for number, block in enumerate(plan, 1):
        tasks = names(block["tasks"], known)
        counts = counts_of(tasks, block["samples"])
        for flags, settings in by_server(block["settings"]):
            wanted = [(s.name, t, n, i) for s in settings for t in tasks for n in block["lengths"] for i in range(counts[t])]
            missing = sum(not results.has(*key) for key in wanted)
            if not missing:
                continue
            if time.monotonic() > deadline:
                complete = False
                continue
            print(f"-- block {number} of {len(plan)}: {missing} results of {', '.join(s.name for s in settings)}", file=sys.stderr, flush=True)
            if args.url and flags:
                raise ValueError(f"--url: setting {settings[0].name} needs a server of its own (flags {' '.join(settings[0].flags())})")
            try:
                with server_for(args, [*block["server"], *settings[0].flags()]) as client:
                    results.check_same(settings, client.model, args.seed)
                    results.add({"kind": "run", "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "model": client.model, "seed": args.seed,
                                 "flags": [*block["server"], *settings[0].flags()], "settings": [s.name for s in settings], "definitions": {s.name: s.definition() for s in settings}, "material": material.describe(),
                                 "server_words": getattr(client, "words", "")})
                    run = Run(client, results, settings, args.seed, args.concurrency, deadline)
                    complete &= run.all([known[t] for t in tasks], block["lengths"], counts)
                    failed += run.failures
            except (RuntimeError, OSError) as error:  # a server that does not start, or dies, costs its settings and not the suite
                complete = False
                failed.append(f"{', '.join(s.name for s in settings)}: {error}")
    print(f"{len(results.rows)} results in {out}" + ("" if complete else "; not complete: the same command goes on"), file=sys.stderr)
    for words in failed[:20]:
        print(f"failed: {words}", file=sys.stderr)
    return 1 if failed else 0


def finish(args, out: pathlib.Path) -> None:
    results = Results(out)
    summary = report.summarise(results.rows, results.runs, args.baseline)
    print(report.table(summary))
    report.write(summary, results.rows, out, page_map=getattr(args, "page_map", None))


def command_run(args) -> int:
    settings = [parse(spec) for spec in args.setting or ["dense", "lserve"]]
    block = {"tasks": args.tasks, "lengths": [int(n) for n in args.lengths.split(",")], "samples": args.samples, "settings": settings,
             "server": args.server_flag or []}
    status = run_plan(args, Material(args.text, args.words), [block], args.out)
    finish(args, args.out)
    return status


def read_suite(path: pathlib.Path) -> list[dict]:
    """JSON: {"server": [flags], "settings": {name: {key: value}}, "blocks": [{"tasks", "lengths", "samples", "settings": [names], "server"?}]}."""
    suite = json.loads(path.read_text())
    known = {name: from_mapping(name, values) for name, values in suite["settings"].items()}
    plan = []
    for block in suite["blocks"]:
        unknown = [name for name in block["settings"] if name not in known]
        if unknown:
            raise ValueError(f"{path}: settings {', '.join(unknown)} are not defined")
        plan.append({"tasks": block["tasks"], "lengths": block["lengths"], "samples": block["samples"],
                     "settings": [known[name] for name in block["settings"]], "server": [*suite.get("server", []), *block.get("server", [])]})
    return plan


def command_suite(args) -> int:
    status = run_plan(args, Material(args.text, args.words), read_suite(args.file), args.out)
    finish(args, args.out)
    return status


def command_report(args) -> int:
    finish(args, args.results)
    return 0


def told(sample: Sample) -> str:
    """The answers as a model would go on after the prefix."""
    listed = sample.answers
    if sample.task.startswith(("niah", "aggregate")) and len(listed) > 1:
        return " " + ", ".join(listed[:-1]) + ", and " + listed[-1]
    return (" " if sample.metric.startswith("match") else "") + " ".join(listed)


def command_generate(args) -> int:
    """Samples as JSON lines, with their token ids: for other programs, and for lserve calibrate --samples."""
    material = Material(args.text, args.words)
    known = all_tasks(material)
    with server_for(args, []) as client, args.out.open("w") as out:
        fill = filler(client, args.seed)
        for task in names(args.tasks, known):
            for length in (int(n) for n in args.lengths.split(",")):
                for index in range(args.samples):
                    sample, ids = fill.make(known[task], length, index)
                    answer = told(sample)
                    out.write(json.dumps({"task": task, "length": length, "index": index, "prompt": ids, "answer": client.tokens(answer), "answers": sample.answers,
                                          "metric": sample.metric, "max_new": sample.max_new, "text": sample.prompt, "prefix": sample.prefix,
                                          "material": material.describe()}) + "\n")
    return 0


def command_longbench(args) -> int:
    """Scores LongBench's own prediction files: JSON lines of {"pred", "answers", "all_classes"}."""
    for path in args.files:
        dataset, rows = args.dataset or path.stem, [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
        if not rows:
            raise ValueError(f"{path}: no lines")
        values = [scores.longbench(dataset, row["pred"], row["answers"], row.get("all_classes")) for row in rows]
        print(f"{dataset}\t{100 * sum(values) / len(values):.2f}\t{len(values)} samples")
    return 0


def command_corpus(args) -> int:
    """Writes the haystack's text, for a machine that has no book: LSERVE_EVAL_TEXT=FILE, or --text."""
    material = Material(args.text, args.words)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_bytes(gzip.compress(material.text.encode(), mtime=0))
    print(f"{args.out}: {material.text_source}, {len(material.words)} words")
    return 0


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lserve eval", description="Long-context tasks, and paired comparisons of attention settings.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, function, words: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=words, description=words, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        command.set_defaults(run=function)
        return command

    def material_flags(command):
        command.add_argument("--text", help="haystack: a text file, plain or .gz, or 'generated' (default: the King James Bible where Debian's package is)")
        command.add_argument("--words", help="folder with adjectivelist.txt, nounlist.txt and verblist.txt (default: the wonderwords package, else built in)")

    def server_flags(command):
        command.add_argument("--url", help="a server that runs: lserve, vLLM, llama.cpp; without it `lserve serve` is started with --model")
        command.add_argument("--served-model", help="the model's name at --url (default: the first that it lists)")
        command.add_argument("--api-key")
        command.add_argument("--model", default="smollm2-135m-longctx", help="for a server of our own")
        command.add_argument("--lserve", default=os.environ.get("LSERVE_PROGRAM"), help="the lserve program")
        command.add_argument("--seed", type=int, default=42)
        material_flags(command)

    def run_flags(command):
        server_flags(command)
        command.add_argument("--out", type=pathlib.Path, required=True, help="JSON lines; what is there is not run again. The report is written beside it")
        command.add_argument("--concurrency", type=int, default=1, help="samples at a time")
        command.add_argument("--time-limit", type=float, help="seconds after which no sample begins")
        command.add_argument("--baseline", default="dense", help="setting that the others are compared with")
        command.add_argument("--page-map", type=pathlib.Path, help="JSON of lserve calibrate --page-map, drawn in the report")

    one = add("run", command_run, "run tasks under settings and report")
    run_flags(one)
    one.add_argument("--tasks", default="niah", help="names and groups (niah, ruler, teacher, all), comma separated")
    one.add_argument("--lengths", default="4096", help="tokens of prompt and answer together, comma separated")
    one.add_argument("--samples", type=int, default=DEFAULT_SAMPLES, help="a task and length")
    one.add_argument("--setting", action="append",
                     help="NAME, or NAME:key=value,...; attention, budget and audit go into the request, other keys are flags of lserve serve (kv=kv8, profile=FILE)")
    one.add_argument("--server-flag", action="append", help="flag for every server started, as in --server-flag=--dense-below=0")

    suite = add("suite", command_suite, "run a file of blocks, as bench/accuracy/grid.json")
    suite.add_argument("file", type=pathlib.Path)
    run_flags(suite)

    again = add("report", command_report, "table, JSON and HTML page of results")
    again.add_argument("results", type=pathlib.Path)
    again.add_argument("--baseline", default="dense")
    again.add_argument("--page-map", type=pathlib.Path)

    generate = add("generate", command_generate, "write samples with their token ids")
    server_flags(generate)
    generate.add_argument("--tasks", default="niah")
    generate.add_argument("--lengths", default="4096")
    generate.add_argument("--samples", type=int, default=DEFAULT_SAMPLES)
    generate.add_argument("--out", type=pathlib.Path, required=True)

    bench = add("longbench", command_longbench, "score LongBench prediction files")
    bench.add_argument("files", type=pathlib.Path, nargs="+")
    bench.add_argument("--dataset", help="(default: the file's name)")

    corpus = add("corpus", command_corpus, "write the haystack's text to a file")
    material_flags(corpus)
    corpus.add_argument("--out", type=pathlib.Path, required=True)
    return parser


def main() -> int:
    args = make_parser().parse_args()
    try:
        return args.run(args)
    except (ServerError, ValueError, OSError) as error:
        print(f"lserve eval: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130
