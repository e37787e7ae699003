#!/usr/bin/env python3
"""Measures lserve beside llama.cpp: same GGUF, same threads, same machine, one after the other, and prints the ratios.

llama.cpp is built once from the pinned source package of llama-cpp-python on the Python package index (it carries the whole of
llama.cpp), for this machine's CPU. For each figure its best setting counts: KV in f16 with and without flash attention, and in q8_0.
lserve runs with --kv kv8, once dense and once with LServe attention.

Figures: prompt of 512, decode after 512, prompt of 16384, decode after 16384 (--prompts, --tests). Rounds alternate between the two
programs, so that a slow minute of the machine hits both; the best round of each counts. One setting after another (--settings) takes
an hour for a model of 0.5B parameters on two cores; runs of one setting or one test each can be put together afterwards.
Needs cmake, ninja and a compiler (./quickstart installs them). Keep the machine idle meanwhile.
"""
import argparse
import datetime
import json
import os
import pathlib
import platform
import subprocess
import sys

SOURCE = "llama-cpp-python==0.3.36"
ROOT = pathlib.Path(__file__).resolve().parents[2]
CACHE = pathlib.Path(os.environ.get("LSERVE_CACHE") or pathlib.Path.home() / ".cache" / "lserve")
DECODED = 64
LONG = 4096  # from here on a prompt is not run once more to warm up
PEER_SETTINGS = {"f16": ["-ctk", "f16", "-ctv", "f16", "-fa", "off"], "f16-fa": ["-ctk", "f16", "-ctv", "f16", "-fa", "on"],
                 "q8_0-fa": ["-ctk", "q8_0", "-ctv", "q8_0", "-fa", "on"]}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def build_peer(folder: pathlib.Path, name: str, jobs: int = 0) -> pathlib.Path:
    """One of llama.cpp's programs, built if it is not there."""
    program = folder / "build" / "bin" / name
    if program.exists():
        return program
    folder.mkdir(parents=True, exist_ok=True)
    if not (archives := list(folder.glob("llama_cpp_python-*.tar.gz"))):
        subprocess.run([sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", "llama-cpp-python", "--dest", folder, SOURCE],
                       check=True, stdout=sys.stderr)
        archives = list(folder.glob("llama_cpp_python-*.tar.gz"))
    subprocess.run(["tar", "-C", folder, "-xzf", archives[0]], check=True)
    source = folder / archives[0].name.removesuffix(".tar.gz") / "vendor" / "llama.cpp"
    off = [f"-DLLAMA_{part}=OFF" for part in
           ("BUILD_TESTS", "BUILD_EXAMPLES", "BUILD_APP", "BUILD_UI", "USE_PREBUILT_UI", "OPENSSL")]
    subprocess.run(["cmake", "-S", source, "-B", folder / "build", "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON",
                    "-DBUILD_SHARED_LIBS=OFF", *off], check=True, stdout=sys.stderr)
    subprocess.run(["ninja", "-C", folder / "build", *(["-j", str(jobs)] if jobs else []), name], check=True, stdout=sys.stderr)
    return program


def json_lines(command: list) -> list[dict]:
    say("+ " + " ".join(map(str, command)))
    output = subprocess.run([str(c) for c in command], check=True, stdout=subprocess.PIPE, text=True).stdout
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


def peer_figure(program, args, prompt: int, test: str, setting: str) -> float:
    sizes = ["-p", prompt, "-n", 0] if test == "prefill" else ["-p", 0, "-n", DECODED, "-d", prompt]
    cold = ["--no-warmup"] if prompt >= LONG else []
    (row,) = json_lines([program, "-m", args.model, "-t", args.threads, "-r", 1, "-o", "jsonl", *cold, *PEER_SETTINGS[setting], *sizes])
    return row["avg_ts"]


def own_figure(program, args, prompt: int, test: str, attention: str) -> float:
    sizes = ["-p", prompt, "-n", 0] if test == "prefill" else ["-p", 0, "-n", DECODED, "-d", prompt]
    (row,) = json_lines([program, "bench", "--backend", "cpu", "--model", args.model, "--threads", args.threads, "--kv", args.kv, "--modes", attention, "--json",
                         "-r", 1, *sizes, *(["--budget", args.budget] if args.budget else [])])
    return row["tokens_per_second"]


def measure(peer, own, args) -> dict:
    """{(program, prompt, test): (tokens a second, setting)}, the best of all rounds."""
    best = {}
    for number in range(args.rounds):
        for prompt in args.prompts:
            for test in args.tests:
                say(f"round {number + 1} of {args.rounds}: {test}, {prompt} tokens")
                # Later rounds repeat the setting that won the first.
                settings = args.settings if number == 0 else [best["llama.cpp", prompt, test][1]]
                turns = [("llama.cpp", setting, lambda s=setting: peer_figure(peer, args, prompt, test, s)) for setting in settings]
                turns += [(f"lserve {mode}", args.kv, lambda m=mode: own_figure(own, args, prompt, test, m)) for mode in args.modes]
                for name, setting, run in turns:
                    speed = run()
                    say(f"  {name}, {setting}: {speed:.1f} tokens a second")
                    if speed > best.get((name, prompt, test), (0, ""))[0]:
                        best[name, prompt, test] = (speed, setting)
    return best


def report(best: dict, args) -> dict:
    rows = []
    print(f"{'':22}{'llama.cpp':>12}" + "".join(f"{'lserve, ' + mode:>22}" for mode in args.modes) + "   tokens a second (ratio); llama.cpp's best setting")
    for prompt in args.prompts:
        for test in args.tests:
            peer, setting = best["llama.cpp", prompt, test]
            row = {"prompt": prompt, "test": test, "llamacpp": peer, "llamacpp_setting": setting}
            line = f"{test + (' of ' if test == 'prefill' else ' after ') + str(prompt):22}{peer:12.1f}"
            for mode in args.modes:
                speed = best[f"lserve {mode}", prompt, test][0]
                row |= {mode: speed, f"{mode}_ratio": speed / peer}
                line += f"{speed:13.1f} ({speed / peer:5.2f}x)"
            rows.append(row)
            print(f"{line}   {setting}")
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    return {"date": datetime.date.today().isoformat(), "cpu": cpu, "threads": args.threads, "model": pathlib.Path(args.model).name, "kv": args.kv,
            "budget": args.budget, "rounds": args.rounds, "llamacpp": SOURCE, "lserve": commit, "figures": rows}


def list_of(convert, allowed=None):
    """A comma-separated argument."""
    def parse(text: str) -> list:
        values = [convert(word) for word in text.split(",")]
        if allowed and (wrong := [v for v in values if v not in allowed]):
            raise argparse.ArgumentTypeError(f"{wrong[0]!r}: expected one of {', '.join(allowed)}")
        return values
    return parse


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a GGUF file")
    parser.add_argument("--prompts", type=list_of(int), default=[512, 16384], help="tokens, comma separated (default: 512,16384)")
    parser.add_argument("--tests", type=list_of(str, ["prefill", "decode"]), default=["prefill", "decode"], help="prefill, decode or both (default)")
    parser.add_argument("--settings", type=list_of(str, list(PEER_SETTINGS)), default=list(PEER_SETTINGS),
                        help=f"of llama.cpp's KV (default: all, {','.join(PEER_SETTINGS)})")
    parser.add_argument("--modes", type=list_of(str, ["dense", "lserve"]), default=["dense", "lserve"], help="of lserve's attention (default: dense,lserve)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--kv", default="kv8", help="lserve's KV type (default: %(default)s)")
    parser.add_argument("--budget", type=int, help="tokens a retrieval head reads at decode (default: the model's profile or the program's)")
    parser.add_argument("--lserve", type=pathlib.Path, default=ROOT / "build" / "release" / "src" / "cli" / "lserve", help="the program (default: %(default)s)")
    parser.add_argument("--peer-folder", type=pathlib.Path, default=CACHE / "llamacpp", help="where llama.cpp is built (default: %(default)s)")
    parser.add_argument("--output", type=pathlib.Path, help="JSON file for the results, e.g. bench/results/DATE-MACHINE.json")
    args = parser.parse_args()
    peer = build_peer(args.peer_folder, "llama-bench")
    if not args.lserve.exists():
        sys.exit(f"{args.lserve} is missing: cmake --preset release && cmake --build --preset release")
    result = report(measure(peer, args.lserve, args), args)
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
