#!/usr/bin/env python3
"""Measures lserve's server beside llama.cpp's: same GGUF, same threads, same machine, one after the other, and prints the ratios.

    bench/peers/llamacpp_serve.py MODEL.gguf                                        a chat's 256 tokens beside 8192: the figures of issue 5's fairness
    bench/peers/llamacpp_serve.py MODEL.gguf --long 2048 --document 1024 --rounds 1  small: does it work?

Fairness: `lserve bench serve --dataset-name mixed` (chats alone, one long prompt alone, both together) against each server. What counts is how much worse
chats and long prompt are together than alone, and how long they take.
Prefix reuse: several documents are asked about, one after the other, then all of them again with another question. What counts is the time to first token
of the second pass beside that of the first.

llama.cpp is built as bench/peers/llamacpp.py builds it. Its server runs with as many slots as chats and a prompt need, one KV memory for all of them, flash
attention, and the KV type given; else with its defaults. lserve runs dense and with LServe attention. Rounds alternate; the best of each figure counts.
Keep the machine idle meanwhile.
"""
import argparse
import http.client
import json
import pathlib
import random
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parent), str(pathlib.Path(__file__).resolve().parents[2] / "tools")]
from llamacpp import CACHE, ROOT, SOURCE, build_peer, say
from local_server import LocalServer

ROWS = {"chat_ttft": "chat, time to first token (p99)", "chat_itl": "chat, between tokens (p99)", "long_ttft": "long prompt, time to first token"}


class PeerServer:
    """llama-server on a free port."""

    def __init__(self, program: pathlib.Path, args):
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        slots = args.chats + 1
        context = max(args.long + args.chats * 2048, args.documents * (args.document + 1024))
        self.command = [program, "-m", args.model, "--host", "127.0.0.1", "--port", port, "-t", args.threads, "-tb", args.threads, "-np", slots,
                        "-c", context, "--kv-unified", "-fa", "on", "-ctk", args.peer_kv, "-ctv", args.peer_kv, "--no-webui", *args.peer_flag]

    def __enter__(self) -> "PeerServer":
        say("+ " + " ".join(map(str, self.command)))
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen([str(c) for c in self.command], stdin=subprocess.DEVNULL, stdout=self.log, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + 300
        while True:
            try:
                with urllib.request.urlopen(self.url + "/health", timeout=10):
                    return self
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self.log.seek(0)
                    self.process.kill()
                    sys.exit("llama-server did not come up:\n" + self.log.read()[-3000:])
                time.sleep(0.1)

    def __exit__(self, *_) -> None:
        self.process.terminate()
        self.process.wait(60)
        self.log.close()


def first_token(url: str, prompt: list[int]) -> tuple[float, int]:
    """Milliseconds to the first token of an answer, and how many prompt tokens were found in a cache."""
    server = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(server.hostname, server.port, timeout=7200)
    body = {"prompt": prompt, "max_tokens": 16, "temperature": 0, "ignore_eos": True, "stream": True, "stream_options": {"include_usage": True}}
    begun, first, cached = time.monotonic(), 0.0, 0
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        sys.exit(f"{url}: status {response.status}: {response.read().decode()[:500]}")
    for line in response:
        if not line.startswith(b"data: ") or line[6:].strip() == b"[DONE]":
            continue
        event = json.loads(line[6:])
        if event.get("choices") and not first:
            first = time.monotonic() - begun
        if usage := event.get("usage"):
            cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    connection.close()
    return 1000 * first, cached


def documents(url: str, args, round_number: int) -> dict:
    draw = random.Random(round_number)
    texts = [[draw.randrange(1000, 20000) for _ in range(args.document)] for _ in range(args.documents)]
    passes = [[first_token(url, text + [draw.randrange(1000, 20000) for _ in range(64)]) for text in texts] for _ in range(2)]
    middle = [sorted(ms for ms, _ in one)[len(one) // 2] for one in passes]
    return {"first": middle[0], "again": middle[1], "cached": [cached for _, cached in passes[1]]}


def mixed(url: str, args) -> dict:
    with tempfile.NamedTemporaryFile() as file:
        command = [args.lserve, "bench", "serve", "--base-url", url, "--dataset-name", "mixed", "--mixed-long-len", args.long, "--mixed-chats", args.chats,
                   "--random-input-len", args.chat, "--random-output-len", args.answer, "--num-prompts", args.prompts, "--quiet", "--result-filename", file.name]
        say("+ " + " ".join(map(str, command)))
        subprocess.run([str(c) for c in command], check=True, stdout=sys.stderr)
        result = json.load(file)
    figures = {"long_ttft": [result["long_ttft_ms"][when] for when in ("alone", "together")]}
    for figure, field in (("chat_ttft", "p99_ttft_ms"), ("chat_itl", "p99_itl_ms")):
        figures[figure] = [result[f"chats_{when}"][field] for when in ("alone", "together")]
    return figures


def measure(peer: pathlib.Path, args) -> dict:
    own = ["--model", args.model, "--threads", args.threads, "--kv", args.kv]
    servers = {"llama.cpp": lambda: PeerServer(peer, args)}
    servers |= {f"lserve {mode}": lambda mode=mode: LocalServer(args.lserve, *own, "--attention", mode) for mode in ("dense", "lserve")}
    rounds: dict[str, list[dict]] = {name: [] for name in servers}
    for number in range(args.rounds):
        for name, start in servers.items():
            say(f"round {number + 1} of {args.rounds}: {name}")
            with start() as server:
                rounds[name].append(documents(server.url, args, number) | mixed(server.url, args))
    return rounds


def report(rounds: dict, args) -> None:
    print(f"{args.chats} chats of {args.chat} + {args.answer} tokens, a prompt of {args.long}; {args.documents} documents of {args.document}; {args.threads} threads")
    print("milliseconds alone -> together (ratio), documents first -> again (ratio)")
    print(f"{'':34}" + "".join(f"{name:>32}" for name in rounds))
    for figure, label in ROWS.items():
        line = f"{label:34}"
        for runs in rounds.values():
            alone, together = min((run[figure] for run in runs), key=lambda pair: pair[1] / pair[0])
            line += f"{f'{alone:.0f} -> {together:.0f} ({together / alone:.2f}x)':>32}"
        print(line)
    line = f"{'document, time to first token':34}"
    for runs in rounds.values():
        best = min(runs, key=lambda run: run["again"] / run["first"])
        ratio, ahead = best["again"] / best["first"], f"{best['first']:.0f} -> {best['again']:.0f}"
        line += f"{f'{ahead} ({100 * ratio:.1f} %)':>32}"
    print(line)
    print(f"{'prompt tokens found again':34}" + "".join(f"{str(runs[-1]['cached']):>32}" for runs in rounds.values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a GGUF file")
    parser.add_argument("--long", type=int, default=8192, help="tokens of the long prompt (default: %(default)s)")
    parser.add_argument("--chats", type=int, default=2, help="at a time (default: %(default)s)")
    parser.add_argument("--chat", type=int, default=256, help="tokens of a chat's prompt (default: %(default)s)")
    parser.add_argument("--answer", type=int, default=64, help="tokens of a chat's answer (default: %(default)s)")
    parser.add_argument("--prompts", type=int, default=20, help="chats without the long prompt (default: %(default)s)")
    parser.add_argument("--document", type=int, default=4096, help="tokens (default: %(default)s)")
    parser.add_argument("--documents", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--kv", default="kv8", help="lserve's KV type (default: %(default)s)")
    parser.add_argument("--peer-kv", default="q8_0", help="llama.cpp's (default: %(default)s)")
    parser.add_argument("--peer-flag", action="append", default=[], help="another flag of llama-server, as --peer-flag=-b --peer-flag=512")
    parser.add_argument("--lserve", type=pathlib.Path, default=ROOT / "build" / "release" / "src" / "cli" / "lserve", help="the program (default: %(default)s)")
    parser.add_argument("--peer-folder", type=pathlib.Path, default=CACHE / "llamacpp", help="where llama.cpp is built (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=0, help="of that build; 0: as many as cores")
    parser.add_argument("--output", type=pathlib.Path, help="JSON file for the results")
    args = parser.parse_args()
    peer = build_peer(args.peer_folder, "llama-server", args.jobs)
    if not args.lserve.exists():
        sys.exit(f"{args.lserve} is missing: cmake --preset release && cmake --build --preset release")
    rounds = measure(peer, args)
    report(rounds, args)
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps({"model": pathlib.Path(args.model).name, "llamacpp": SOURCE, "rounds": rounds,
                                           "settings": {k: str(v) for k, v in vars(args).items()}}, indent=1) + "\n")


if __name__ == "__main__":
    main()
