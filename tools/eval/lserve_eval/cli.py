"""The commands: run, suite, report, generate, longbench, corpus."""
import argparse
import contextlib
import gzip
import json
import os
import pathlib
import sys
import time
import typing

from . import report, scores, suite
from .client import Client, ServerError
from .material import Material
from .runner import Results, Run
from .sample import Sample
from .settings import Setting, by_server, parse
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


class Sitting(typing.NamedTuple):
    """What one server is started for."""

    settings: list[Setting]
    flags: list[str]
    tasks: list[str]
    lengths: list[int]
    counts: dict[str, int]  # samples by task

    def missing(self, results: Results) -> tuple[int, int]:
        """Results that are not there yet, and the tokens of their prompts: what a server with a prefix cache has to read."""
        open_ = {(n, t, i): sum(not results.has(s.name, t, n, i) for s in self.settings) for n in self.lengths for t in self.tasks for i in range(self.counts[t])}
        return sum(open_.values()), sum(n for (n, _, _), count in open_.items() if count)


def sittings(plan: list[dict], known) -> list[Sitting]:
    found = []
    for block in plan:
        tasks = names(block["tasks"], known)
        for _, settings in by_server(block["settings"]):
            found.append(Sitting(settings, [*block["server"], *settings[0].flags()], tasks, block["lengths"], counts_of(tasks, block["samples"])))
    return found


def run_plan(args, material: Material, plan: list[dict], out: pathlib.Path) -> int:
    """Runs blocks of {tasks, lengths, samples, settings, server} one after another; returns the exit status. Of a time limit every server gets the
    share that its part is of the tokens still to be read, so that a run that is cut off has something of everything."""
    results, known, failed = Results(out), all_tasks(material), []
    end = time.monotonic() + args.time_limit if args.time_limit else float("inf")
    complete, left = True, sittings(plan, known)
    while left:
        one, *left = left
        (missing, tokens), later = one.missing(results), sum(s.missing(results)[1] for s in left)
        if not missing:
            continue
        now = time.monotonic()
        if now > end:
            complete = False
            continue
        print(f"-- {missing} results of {', '.join(s.name for s in one.settings)}", file=sys.stderr, flush=True)
        if args.url and one.settings[0].server:
            raise ValueError(f"--url: setting {one.settings[0].name} needs a server of its own (flags {' '.join(one.settings[0].flags())})")
        try:
            with server_for(args, [*one.flags, *(args.server_flag or [])]) as client:
                results.check_same(one.settings, client.model, args.seed)
                results.add({"kind": "run", "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "model": client.model, "seed": args.seed,
                             "flags": one.flags, "settings": [s.name for s in one.settings], "definitions": {s.name: s.definition() for s in one.settings},
                             "material": material.describe(), "server_words": getattr(client, "words", "")})
                run = Run(client, results, one.settings, args.seed, args.concurrency, now + (end - now) * tokens / (tokens + later))
                complete &= run.all([known[t] for t in one.tasks], one.lengths, one.counts)
                failed += run.failures
        except (RuntimeError, OSError) as error:  # a server that does not start, or dies, costs its settings and not the suite
            complete = False
            failed.append(f"{', '.join(s.name for s in one.settings)}: {error}")
    print(f"{len(results.rows)} results in {out}" + ("" if complete else "; not complete: the same command goes on"), file=sys.stderr)
    for words in failed[:20]:
        print(f"failed: {words}", file=sys.stderr)
    return 1 if failed else 0


def finish(args, files: list[pathlib.Path], out: pathlib.Path) -> None:
    """The report of all files together, beside `out`. Of results of one setting on one sample the first counts."""
    rows, runs = {}, []
    for results in map(Results, files):
        runs += results.runs
        for row in results.rows:
            rows.setdefault(Results.key(row), row)
    summary = report.summarise(list(rows.values()), runs, args.baseline)
    print(report.table(summary))
    report.write(summary, list(rows.values()), out, page_map=getattr(args, "page_map", None))


def command_run(args) -> int:
    settings = [parse(spec) for spec in args.setting or ["dense", "lserve"]]
    block = {"tasks": args.tasks, "lengths": [int(n) for n in args.lengths.split(",")], "samples": args.samples, "settings": settings, "server": []}
    status = run_plan(args, Material(args.text, args.words), [block], args.out)
    finish(args, [args.out], args.out)
    return status


def command_suite(args) -> int:
    lanes = suite.read(args.file)
    if args.lane:
        if args.lane not in lanes:
            raise ValueError(f"--lane {args.lane}: {args.file} has {', '.join(lanes)}")
        lanes = {args.lane: lanes[args.lane]}
    if args.parallel:
        status, files = suite.run_parallel(args, list(lanes))
    else:
        status, files = run_plan(args, Material(args.text, args.words), [block for blocks in lanes.values() for block in blocks], args.out), [args.out]
    if args.report:
        finish(args, files, args.out)
    return status


def command_report(args) -> int:
    finish(args, args.results, args.out or args.results[0])
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
        command.add_argument("--time-limit", type=float, help="seconds after which no sample begins; servers share them by what they have to read")
        command.add_argument("--server-flag", action="append", help="flag for every server started, as in --server-flag=--dense-below=0")
        command.add_argument("--baseline", default="dense", help="setting that the others are compared with")
        command.add_argument("--page-map", type=pathlib.Path, help="JSON of lserve calibrate --page-map, drawn in the report")

    one = add("run", command_run, "run tasks under settings and report")
    run_flags(one)
    one.add_argument("--tasks", default="niah", help="names and groups (niah, ruler, teacher, all), comma separated")
    one.add_argument("--lengths", default="4096", help="tokens of prompt and answer together, comma separated")
    one.add_argument("--samples", type=int, default=DEFAULT_SAMPLES, help="a task and length")
    one.add_argument("--setting", action="append",
                     help="NAME, or NAME:key=value,...; attention, budget and audit go into the request, other keys are flags of lserve serve (kv=kv8, profile=FILE)")

    several = add("suite", command_suite, "run a file of blocks, as bench/accuracy/smollm2.json")
    several.add_argument("file", type=pathlib.Path)
    several.add_argument("--lane", help="only this part of the file")
    several.add_argument("--parallel", action="store_true", help="all lanes at once, each with servers and a file of results of its own (OUT-LANE.jsonl); the report is of all")
    several.add_argument("--gpus", type=int, default=0, help="with --parallel: lanes go to this many GPUs by turns; 0: servers are not told")
    several.add_argument("--grace", type=float, default=30, help="with --parallel: seconds beyond --time-limit after which lanes are ended")
    several.add_argument("--report", action=argparse.BooleanOptionalAction, default=True, help="tables and page at the end")
    run_flags(several)

    again = add("report", command_report, "table, JSON and HTML page of results")
    again.add_argument("results", type=pathlib.Path, nargs="+", help="files whose results are put together")
    again.add_argument("--out", type=pathlib.Path, help="beside which file the report is written (default: the first)")
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
