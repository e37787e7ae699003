"""Suites: files of blocks, in lanes that can run at the same time, each with servers of its own.

    {"server": [flags], "settings": {NAME: {key: value}}, "tasks": {NAME: tasks},
     "lanes": {LANE: [{"tasks", "lengths", "samples", "settings": [names], "budgets"?: [tokens or null], "server"?: [flags]}]}}

"budgets" asks every setting of the block with each of them, as NAME-bTOKENS; null is the setting as it is. All lanes may name all settings; a sample is
the same in all of them, so that the report pairs what different lanes answered.
"""
import argparse
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

from .settings import from_mapping


def read(path: pathlib.Path) -> dict[str, list[dict]]:
    """Blocks by lane, settings as objects, "server" with the suite's own flags in front."""
    suite = json.loads(path.read_text())
    named, lanes = suite.get("tasks", {}), {}

    def setting(name: str, budget: int | None):
        if name not in suite["settings"]:
            raise ValueError(f"{path}: setting {name} is not defined")
        values = suite["settings"][name]
        return from_mapping(name, values) if budget is None else from_mapping(f"{name}-b{budget}", values | {"budget": budget})

    for lane, blocks in suite["lanes"].items():
        lanes[lane] = [{"tasks": ",".join(named.get(part, part) for part in block["tasks"].split(",")), "lengths": block["lengths"], "samples": block["samples"],
                        "settings": [setting(name, budget) for name in block["settings"] for budget in block.get("budgets", [None])],
                        "server": [*suite.get("server", []), *block.get("server", [])]} for block in blocks]
    return lanes


def run_parallel(args: argparse.Namespace, lanes: list[str]) -> tuple[int, list[pathlib.Path]]:
    """Runs every lane in a process of its own, its words in OUT-LANE.log. Those that outlive the time limit by --grace are ended with their servers:
    what they have is in their files. Returns the exit status and the files."""
    if args.url:
        raise ValueError("--parallel: lanes start their own servers, --url does not go with it")
    end = time.monotonic() + args.time_limit + args.grace if args.time_limit else float("inf")
    out = args.out.with_suffix("")
    running: dict[str, subprocess.Popen] = {}
    files = [pathlib.Path(f"{out}-{lane}.jsonl") for lane in lanes]
    out.parent.mkdir(parents=True, exist_ok=True)
    for number, (lane, file) in enumerate(zip(lanes, files)):
        given = {"--lane": lane, "--out": file, "--model": args.model, "--lserve": args.lserve, "--seed": args.seed, "--concurrency": args.concurrency,
                 "--time-limit": args.time_limit, "--text": args.text, "--words": args.words}
        flags = [f"{flag}={value}" for flag, value in given.items() if value is not None]
        flags += [f"--server-flag={flag}" for flag in args.server_flag or []]
        if args.gpus:
            flags.append(f"--server-flag=--gpu={number % args.gpus}")
        with file.with_suffix(".log").open("a") as log:
            running[lane] = subprocess.Popen([sys.executable, str(pathlib.Path(__file__).resolve().parent.parent), "suite", str(args.file), "--no-report", *flags],
                                             stdout=log, stderr=log, stdin=subprocess.DEVNULL, preexec_fn=os.setpgrp)
    failed = False
    try:
        for lane, process in running.items():
            try:
                status = process.wait(max(0, end - time.monotonic()) if args.time_limit else None)
                told = "done" if status == 0 else f"exit status {status}, see {out}-{lane}.log"
                failed |= status != 0
            except subprocess.TimeoutExpired:
                told = "ended at the time limit"
                _end(process)
            print(f"-- lane {lane}: {told}", file=sys.stderr, flush=True)
    finally:
        for process in running.values():
            _end(process)
    return int(failed), [file for file in files if file.exists()]


def _end(process: subprocess.Popen) -> None:
    """With its servers, which are of its group."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
