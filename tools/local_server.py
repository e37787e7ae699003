"""Runs `lserve serve` on a free port for a script's own use, and reads its metrics. Standard library only.

    with LocalServer("build/dev/src/cli/lserve", "--model", path, "--kv-memory", "1") as server:
        server.url, server.metrics()["lserve:num_requests_running"]

The server is ended when the block is left; an exit code other than 0 is an error then, unless kill() was called.
"""
import collections
import json
import pathlib
import re
import subprocess
import threading
import time
import urllib.error
import urllib.request

_SAMPLE = re.compile(r"^(\S+?)(?:\{(.*)\})? (\S+)$")


class LocalServer:
    def __init__(self, program, *flags, load_seconds: float = 300):
        self._command = [str(program), "serve", "--port", "0", "--quiet", *map(str, flags)]
        self._load_seconds = load_seconds
        self._killed = False
        self._words = collections.deque(maxlen=200)  # the last lines it wrote

    def __enter__(self) -> "LocalServer":
        self.process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                                        errors="replace")
        listening = threading.Event()
        self._reader = threading.Thread(target=self._read, args=(listening,), daemon=True)
        self._reader.start()
        deadline = time.monotonic() + self._load_seconds
        try:
            listening.wait(self._load_seconds)
            while not self._healthy():
                if self.process.poll() is not None:
                    raise RuntimeError(f"{' '.join(self._command)} ended with {self.process.returncode}:\n{self.words()}")
                if time.monotonic() > deadline:
                    raise TimeoutError(f"not healthy after {self._load_seconds} s:\n{self.words()}")
                time.sleep(0.05)
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise
        return self

    def kill(self) -> None:
        """Ends it with SIGKILL, which is then no error."""
        self._killed = True
        self.process.kill()

    def __exit__(self, kind, error, trace) -> None:
        self.process.terminate()
        try:
            code = self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            code = "none within 60 s of SIGTERM"
        self._reader.join()
        self.process.stderr.close()
        if kind is None and code != 0 and not self._killed:
            raise RuntimeError(f"the server's exit code: {code}\n{self.words()}")

    def words(self) -> str:
        return "\n".join(self._words)

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(self.url + path, timeout=60) as response:
            return response.read()

    def model(self) -> str:
        return json.loads(self.get("/v1/models"))["data"][0]["id"]

    def metrics(self) -> dict[str, float]:
        """Samples by name and, in braces, the labels other than model_name."""
        return parse_metrics(self.get("/metrics").decode())

    def resident_bytes(self) -> int:
        """Memory of the process that files do not back: what can leak."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * int(re.search(r"RssAnon:\s+(\d+) kB", status).group(1))

    def _read(self, listening: threading.Event) -> None:
        self.url = ""
        for line in self.process.stderr:
            self._words.append(line.rstrip())
            if not self.url and (found := re.search(r"listening on (http://\S+:\d+)", line)):
                self.url = found.group(1)
                listening.set()
        listening.set()

    def _healthy(self) -> bool:
        try:
            return bool(self.url and self.get("/health"))
        except (urllib.error.URLError, ConnectionError):
            return False


def parse_metrics(text: str) -> dict[str, float]:
    samples = {}
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        found = _SAMPLE.match(line)
        if not found:
            raise ValueError(f"no line of the exposition format: {line!r}")
        name, labels, value = found.groups()
        kept = [label for label in re.findall(r'(\w+="(?:[^"\\]|\\.)*")', labels or "") if not label.startswith("model_name=")]
        samples[name + ("{" + ",".join(sorted(kept)) + "}" if kept else "")] = float(value)
    return samples
