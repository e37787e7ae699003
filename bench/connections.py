#!/usr/bin/env python3
"""Clients that hold connections and want nothing, or want it slowly: does the server go on answering the others?

    bench/connections.py --server build/dev/src/cli/lserve                    300 idle connections: two minutes
    bench/connections.py --server build/dev/src/cli/lserve --idle 10000       open files are raised to the hard limit (ulimit -Hn)

Serves the model with hand-set weights (tests/golden/make_recall_model.py), whose right answers are known: once with a limit of connections that holds them
all, and once with a limit of a third, where new connections take the place of the longest idle. Three times each, a crowd comes and goes:

    idle connections     All (or as many as the limit allows) are held by the server, before and after a new client's requests, whose time in the median
                         has to be that of the same requests, taking turns, to a server without a crowd. Memory a connection is told.
    unpleasant clients   besides: headers and bodies that come a byte at a time, connections whose sending half is closed, streams that nobody reads. Real
                         requests have to be answered right, and /health within a second.
    the end              The time limits have to end all of it: no connection, request, page or open file is left. What memory the first two crowds
                         leave behind is the allocator's; the third has to find it enough.

Exits 1 if something is wrong. Needs numpy for the model.
"""
import argparse
import contextlib
import json
import pathlib
import random
import resource
import select
import socket
import statistics
import sys
import tempfile
import threading
import time
import urllib.parse

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tests" / "golden"), str(ROOT / "bench")]
from local_server import LocalServer
from serve_load import FLAGS, Load

PARTIAL, WRITE = 4, 4  # seconds: --header-timeout and --body-timeout, --write-timeout
BODY = b'POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 4000\r\n\r\n{"prompt": "'
PROBES = 30
SLOWER, EACH, GROWTH = 0.005, 16 << 10, 2 << 20  # seconds in the median, bytes a connection held, bytes from one crowd to the next


class Crowd:
    """Connections that are a burden."""

    def __init__(self, url: str):
        parts = urllib.parse.urlsplit(url)
        self.address = (parts.hostname, parts.port)
        self.heard: list[socket.socket] = []  # these learn when the server has closed them
        self.deaf: list[socket.socket] = []  # these do not: it is behind what they do not read
        self.slow: list[tuple[socket.socket, bytes]] = []
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.trickle)

    def connect(self, receive: int = 0) -> socket.socket:
        one = socket.socket()
        if receive:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
        one.settimeout(30)
        one.connect(self.address)
        (self.deaf if receive else self.heard).append(one)
        return one

    def idle(self, many: int) -> None:
        for _ in range(many):
            self.connect()

    def unpleasant(self, few: int, unread: int) -> None:
        for _ in range(few):
            self.slow.append((self.connect(), b"GET /health HTTP/1.1\r\nHost: x\r\nX-Slow: " + b"x" * 1000))
            self.slow.append((self.connect(), BODY + b"x" * 1000))
            half = self.connect()
            half.sendall(b"GET /health HTT")
            half.shutdown(socket.SHUT_WR)
        stream = json.dumps({"prompt": [5] * 20, "max_tokens": 3000, "n": 8, "temperature": 1, "ignore_eos": True, "add_special_tokens": False,
                             "stream": True, "logprobs": 5}).encode()
        for _ in range(unread):
            self.connect(receive=4096).sendall(
                b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(stream) + stream)
        self.thread.start()

    def trickle(self) -> None:
        at = 0
        while not self.stop.wait(0.2):
            for one, text in self.slow:
                with contextlib.suppress(OSError):  # the server has closed it
                    one.send(text[at:at + 1], socket.MSG_NOSIGNAL)
            at += 1

    def open(self) -> int:
        """How many the server has not closed, of those that hear of it."""
        poll = select.poll()
        for one in self.heard:
            poll.register(one, select.POLLRDHUP)
        return len(self.heard) - len(poll.poll(0))

    def close(self) -> None:
        self.stop.set()
        self.thread.join()
        for one in self.heard + self.deaf:
            one.close()


class Trial:
    def __init__(self, server: LocalServer, load: Load, other: Load, most: int | None):
        """`other`: of a server without a crowd. `most`: how many connections the server may hold; None: all."""
        self.server, self.load, self.other, self.most = server, load, other, most
        self.wrong = 0
        self.ask_for(1)
        self.probe()  # its prompt is in the prefix cache from now on
        time.sleep(0.5)  # the server hears of the end of a connection later than the client
        self.files, self.memory = self.open_files(), server.resident_bytes()

    def expect(self, holds: bool, what: str) -> None:
        print(f"{'right' if holds else 'WRONG'}  {what}", flush=True)
        self.wrong += not holds

    def open_files(self) -> int:
        return len(list(pathlib.Path(f"/proc/{self.server.process.pid}/fd").iterdir()))

    def probe(self) -> tuple[float, float]:
        """Seconds in the median of a new connection's request, here and at the server without a crowd."""
        loads, body = (self.load, self.other), self.load.body(random.Random(1), [5] * 100, 4) | {"stream": False}
        waited = [], []
        for i in range(2 * PROBES):
            begun = time.monotonic()
            status, tokens, error = loads[i % 2].complete(body)
            waited[i % 2].append(time.monotonic() - begun)
            if status != 200 or len(tokens[0]) != 4:
                self.expect(False, f"status {status}, {tokens}: {error}")
        return statistics.median(waited[0]), statistics.median(waited[1])

    def ask_for(self, seconds: float) -> list[float]:
        """Real requests, and looks at /health meanwhile: how long each of the latter took."""
        waited, ended = [], threading.Event()

        def ask():
            end, draw = time.monotonic() + seconds, random.Random(1)
            while time.monotonic() < end:
                self.load.guarded(self.load.ask, draw)
            ended.set()

        thread = threading.Thread(target=ask)
        thread.start()
        while not ended.wait(0.05):
            begun = time.monotonic()
            self.server.get("/health")
            waited.append(time.monotonic() - begun)
        thread.join()
        return waited

    def until(self, holds, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not holds() and time.monotonic() < end:
            time.sleep(0.1)

    def crowd(self, many: int, few: int, unread: int, idle_time: float) -> int:
        """One comes and goes; the bytes of memory afterwards."""
        held = min(many, self.most or many)
        crowd, begun = Crowd(self.server.url), time.monotonic()
        crowd.idle(many)
        # What the server holds are its own open files: a client is connected before it is accepted, too.
        self.until(lambda: self.open_files() - self.files >= held and crowd.open() <= held, 10)
        here, memory, took = self.open_files() - self.files, self.server.resident_bytes(), time.monotonic() - begun
        self.expect(held <= here <= held + 1, f"{here} idle connections held of {many}, after {took:.1f} s")
        each = (memory - self.memory) / held
        if not self.load.tally["unpleasant"]:  # else there is room that others left
            self.expect(each < EACH, f"{self.memory >> 20} MiB before, {memory >> 20} with them: {each / 1024:.1f} KiB each")
        now, usual = self.probe()
        self.expect(now < 1.5 * usual + SLOWER, f"a new client's request {1000 * now:.1f} ms, {1000 * usual:.1f} at a server without a crowd")
        least = held - PROBES if self.most else held  # at the limit, each of these has taken another's place
        self.expect(crowd.open() >= least, f"{crowd.open()} still held, {time.monotonic() - begun:.1f} s after the first came (limit: {idle_time:.0f} s)")
        crowd.unpleasant(few, unread)
        self.load.count("unpleasant")
        waited, answered = self.ask_for(PARTIAL), self.load.tally["right"]
        self.expect(not self.load.errors and answered > 1, f"{answered} real requests so far {self.load.errors[:1]}")
        self.expect(max(waited) < 1, f"/health {1000 * statistics.median(waited):.1f} ms in the median, {1000 * max(waited):.0f} at worst, of {len(waited)}")
        self.until(lambda: not crowd.open() and not self.server.metrics()["lserve:num_requests_running"] and self.open_files() <= self.files,
                   idle_time + PARTIAL + WRITE + 10)
        metrics = self.server.metrics()
        busy = [metrics[f"lserve:{key}"] for key in ("num_requests_running", "num_requests_waiting", 'kv_cache_usage_perc{pool="retrieval"}',
                                                     'kv_cache_usage_perc{pool="streaming"}')]
        self.expect(crowd.open() == 0 and not any(busy), f"{crowd.open()} open after the time limits; running, waiting and pages in use: {busy}")
        self.until(lambda: self.open_files() <= self.files, 5)  # the look at the metrics was a connection too
        self.expect(self.open_files() <= self.files, f"{self.open_files()} open files")
        crowd.close()
        return self.server.resident_bytes()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", required=True, help="the lserve program")
    parser.add_argument("--idle", type=int, default=300)
    args = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    few = max(20, args.idle // 20)
    needed = args.idle + 3 * few + 200
    if hard < needed:
        print(f"skipped: {needed} open files are needed, the system allows {hard} (ulimit -Hn)")
        return 77
    idle_time = 5 + args.idle // 500  # opening them all takes a while
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        import make_recall_model as recall
        model = pathlib.Path(folder)
        recall.write_model(model)
        flags = ["--model", model, "--head-pattern", model / "full_attention_heads.tsv", *FLAGS, "--kv-memory", 0.02, "--threads", 1, "--idle-timeout",
                 idle_time, "--header-timeout", PARTIAL, "--body-timeout", PARTIAL, "--write-timeout", WRITE, "--stream-buffer", 65536]
        for most in (None, args.idle // 3):
            limit = most or needed
            print(f"{args.idle} idle, {few} each of slow headers, slow bodies and half-closed, 2 streams unread, --limit-connections {limit}")
            with LocalServer(args.server, *flags, "--limit-connections", limit) as server, LocalServer(args.server, *flags) as other:
                trial = Trial(server, *(Load(one.url, one.model(), recall, 1) for one in (server, other)), most)
                left = [trial.crowd(args.idle, few, 2, idle_time) for _ in range(3)]
                trial.expect(left[2] - left[1] < GROWTH, f"{', '.join(str(bytes >> 10) for bytes in left)} KiB after each crowd")
                wrong += trial.wrong
    print(f"{wrong} wrong" if wrong else "all right")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
