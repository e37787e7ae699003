#!/usr/bin/env python3
"""Measures lserve beside llama.cpp: same GGUF, same threads, same machine, one after the other, and prints the ratios.

llama.cpp is built once from the pinned source package of llama-cpp-python on the Python package index (it carries the whole of
llama.cpp), for this machine's CPU. For each figure its best setting counts: KV in f16 with and without flash attention, and in q8_0.
lserve runs with --kv kv8, once dense and once with LServe attention.

Figures: prompt of 512, decode after 512, prompt of LENGTH, decode after LENGTH (default 16384). Rounds alternate between the two
programs, so that a slow minute of the machine hits both; the best round of each counts.
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
SHORT, DECODED = 512, 64
PEER_SETTINGS = {"f16": ["-ctk", "f16", "-ctv", "f16", "-fa", "off"], "f16, flash attention": ["-ctk", "f16", "-ctv", "f16", "-fa", "on"],
                 "q8_0, flash attention": ["-ctk", "q8_0", "-ctv", "q8_0", "-fa", "on"]}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def build_peer(folder: pathlib.Path) -> pathlib.Path:
    """llama-bench, built if it is not there."""
    program = folder / "build" / "bin" / "llama-bench"
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
           ("BUILD_TESTS", "BUILD_EXAMPLES", "BUILD_SERVER", "BUILD_APP", "BUILD_UI", "USE_PREBUILT_UI", "OPENSSL")]
    subprocess.run(["cmake", "-S", source, "-B", folder / "build", "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON",
                    "-DBUILD_SHARED_LIBS=OFF", *off], check=True, stdout=sys.stderr)
    subprocess.run(["ninja", "-C", folder / "build", "llama-bench"], check=True, stdout=sys.stderr)
    return program


def json_lines(command: list) -> list[dict]:
    say("+ " + " ".join(map(str, command)))
    output = subprocess.run([str(c) for c in command], check=True, stdout=subprocess.PIPE, text=True).stdout
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


def peer_figures(program, args, prompt: int, setting: str) -> dict[str, float]:
    common = [program, "-m", args.model, "-t", args.threads, "-r", 1, "-o", "jsonl", *PEER_SETTINGS[setting]]
    rows = json_lines([*common, "-p", prompt, "-n", 0]) + json_lines([*common, "-p", 0, "-n", DECODED, "-d", prompt])
    return {"prefill" if row["n_prompt"] else "decode": row["avg_ts"] for row in rows}


def own_figures(program, args, prompt: int, attention: str) -> dict[str, float]:
    rows = json_lines([program, "bench", "--model", args.model, "--threads", args.threads, "--kv", args.kv, "--modes", attention, "--json",
                       "-r", 1, "-p", prompt, "-n", DECODED, "-d", prompt, "--budget", args.budget])
    return {row["test"]: row["tokens_per_second"] for row in rows}


def measure(peer, own, args) -> dict:
    """{(program, prompt, "prefill" | "decode"): (tokens a second, setting)}, the best of all rounds."""
    best = {}
    for number in range(args.rounds):
        for prompt in (SHORT, args.length):
            say(f"round {number + 1} of {args.rounds}, {prompt} tokens")
            # Later rounds repeat the settings that won something in the first.
            settings = PEER_SETTINGS if number == 0 else {best["llama.cpp", prompt, test][1] for test in ("prefill", "decode")}
            turns = [("llama.cpp", setting, lambda s=setting: peer_figures(peer, args, prompt, s)) for setting in settings]
            turns += [(f"lserve {mode}", f"{args.kv}, {mode}", lambda m=mode: own_figures(own, args, prompt, m)) for mode in ("dense", "lserve")]
            for name, setting, run in turns:
                for test, speed in run().items():
                    if speed > best.get((name, prompt, test), (0, ""))[0]:
                        best[name, prompt, test] = (speed, setting)
    return best


def report(best: dict, args) -> dict:
    rows = []
    print(f"{'':22}{'llama.cpp':>12}{'lserve dense':>22}{'lserve sparse':>22}   tokens a second (ratio); llama.cpp's best setting")
    for prompt in (SHORT, args.length):
        for test in ("prefill", "decode"):
            peer, setting = best["llama.cpp", prompt, test]
            dense, sparse = (best[f"lserve {mode}", prompt, test][0] for mode in ("dense", "lserve"))
            rows.append({"prompt": prompt, "test": test, "llamacpp": peer, "llamacpp_setting": setting, "dense": dense, "sparse": sparse,
                         "dense_ratio": dense / peer, "sparse_ratio": sparse / peer})
            where = f"{test} of {prompt}" if test == "prefill" else f"{test} after {prompt}"
            print(f"{where:22}{peer:12.1f}{dense:13.1f} ({dense / peer:5.2f}x){sparse:13.1f} ({sparse / peer:5.2f}x)   {setting}")
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    return {"date": datetime.date.today().isoformat(), "cpu": cpu, "threads": args.threads, "model": pathlib.Path(args.model).name, "kv": args.kv,
            "budget": args.budget, "rounds": args.rounds, "llamacpp": SOURCE, "lserve": commit, "figures": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a GGUF file")
    parser.add_argument("--length", type=int, default=16384, help="the long prompt, tokens (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--kv", default="kv8", help="lserve's KV type (default: %(default)s)")
    parser.add_argument("--budget", type=int, default=4096, help="tokens a retrieval head reads at decode (default: %(default)s)")
    parser.add_argument("--lserve", type=pathlib.Path, default=ROOT / "build" / "release" / "src" / "cli" / "lserve", help="the program (default: %(default)s)")
    parser.add_argument("--peer-folder", type=pathlib.Path, default=CACHE / "llamacpp", help="where llama.cpp is built (default: %(default)s)")
    parser.add_argument("--output", type=pathlib.Path, help="JSON file for the results, e.g. bench/results/DATE-MACHINE.json")
    args = parser.parse_args()
    peer = build_peer(args.peer_folder)
    if not args.lserve.exists():
        sys.exit(f"{args.lserve} is missing: cmake --preset release && cmake --build --preset release")
    result = report(measure(peer, args.lserve, args), args)
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
