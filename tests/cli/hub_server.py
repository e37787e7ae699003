"""A local server that speaks as much of the Hugging Face Hub's HTTP API as a download needs, and misbehaves on demand.

usage: hub_server.py [CERTIFICATE KEY]     prints its port, ends when its standard input closes
The organisation of a model says how the server treats it, see behaviours in Handler. /log gives the file requests so far, one a line.
"""
import hashlib
import http.server
import json
import ssl
import sys
import threading
import urllib.parse

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WEIGHTS = bytes((7 * i + i // 251) % 256 for i in range(700_001))
FILES = {
    "config.json": b'{"model_type": "llama"}\n', "tokenizer.json": b"{}\n", "README.md": b"not needed\n",
    "model.safetensors.index.json": json.dumps({"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}}).encode(),
    "model-1-of-2.safetensors": WEIGHTS, "model-2-of-2.safetensors": WEIGHTS[::-1], "consolidated.safetensors": b"not needed",
    "sub/model-q8_0.gguf": WEIGHTS[:5000],
}
LARGE = (".safetensors", ".gguf")
log, cuts = [], {}


def entry(name: str, content: bytes) -> dict:
    info = {"rfilename": name, "size": len(content), "blobId": hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()}
    if name.endswith(LARGE):
        info["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
    return info


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status: int, body: bytes, headers: dict | None = None, send: int | None = None) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:send])
        self.close_connection = True

    def do_GET(self) -> None:
        parts = urllib.parse.urlsplit(self.path)
        words = [urllib.parse.unquote(w) for w in parts.path.split("/")[1:]]
        if words == ["log"]:
            self.answer(200, "\n".join(log).encode())
        elif words[:2] == ["api", "models"] and len(words) == 6 and parts.query == "blobs=true":
            self.model_info(words[2], words[5])
        elif len(words) >= 5 and words[2] == "resolve" and words[3] == COMMIT:
            self.file(words[0], "/".join(words[4:]))
        elif words[0] == "cdn":
            self.content(words[1], "/".join(words[2:]))
        else:
            self.answer(404, b"Not found")

    def model_info(self, behaviour: str, revision: str) -> None:
        if behaviour == "gated" and self.headers.get("Authorization") != "Bearer open-sesame":
            return self.answer(401, b"Invalid credentials in Authorization header")
        if behaviour == "absent" or revision not in ("main", "refs/pr/1"):
            return self.answer(404, b"Repository not found")
        siblings = [entry(name, content) for name, content in FILES.items()]
        if behaviour == "gguf-only":
            siblings = [s for s in siblings if s["rfilename"].endswith(".gguf")]
        if behaviour == "escape":
            siblings.append(entry("../../escaped.safetensors", WEIGHTS))
        if behaviour == "nonsense":
            return self.answer(200, b"<html>not the hub</html>")
        self.answer(200, json.dumps({"sha": COMMIT, "siblings": siblings}).encode())

    def file(self, behaviour: str, name: str) -> None:
        log.append(f"{behaviour} {name} {self.headers.get('Range', '-')} {'token' if self.headers.get('Authorization') else 'anonymous'}")
        if name.endswith(LARGE):  # the hub sends large files from another host; 0.0.0.0 is this one by another name
            host = f"0.0.0.0:{self.server.server_port}" if behaviour == "moved" else self.headers["Host"]
            return self.answer(302, b"", {"Location": f"{SCHEME}://{host}/cdn/{behaviour}/{name}"})
        self.content(behaviour, name)

    def content(self, behaviour: str, name: str) -> None:
        if name.endswith(LARGE):
            log.append(f"cdn {name} {self.headers.get('Range', '-')} {'token' if self.headers.get('Authorization') else 'anonymous'}")
        content = FILES[name]
        large = name.endswith(LARGE)
        if behaviour == "damaged" and name == "model-1-of-2.safetensors":
            content = b"x" + content[1:]
        if behaviour == "longer" and large:
            content += b"more"
        begin = 0
        if (wanted := self.headers.get("Range")) and behaviour != "no-ranges":
            begin = int(wanted.removeprefix("bytes=").removesuffix("-"))
        send = None
        if behaviour in ("cut", "no-ranges") and large and cuts.setdefault((behaviour, name), 2) > 0:
            cuts[behaviour, name] -= 1
            send = 200_000
        if behaviour == "dead" and large:
            send = 0 if begin else 100_000
        if behaviour == "busy" and cuts.setdefault((behaviour, name), 1) > 0:
            cuts[behaviour, name] -= 1
            return self.answer(503, b"try later")
        headers = {"Content-Range": f"bytes {begin}-{len(content) - 1}/{len(content)}"} if begin else {}
        self.answer(206 if begin else 200, content[begin:], headers, send)

    def log_message(self, *_args) -> None:
        pass


SCHEME = "http"
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
if len(sys.argv) == 3:
    SCHEME = "https"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[1], sys.argv[2])
    server.socket = context.wrap_socket(server.socket, server_side=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(server.server_port, flush=True)
sys.stdin.read()
