"""An OpenAI-compatible server for tests: a token is a word with the space before it, answers come from a function of (prompt text, request)."""
import http.server
import json
import re
import threading


class FakeServer:
    def __init__(self, answer, owned_by: str = "lserve"):
        """`answer(text, body)` gives the completion, or None for an error 500."""
        self.words: dict[str, int] = {}
        self.requests: list[dict] = []
        lock = threading.Lock()
        outer = self

        def encode(text: str) -> list[int]:
            with lock:
                return [outer.words.setdefault(piece, len(outer.words)) for piece in re.findall(r"\s*\S+|\s+$", text)]

        def decode(ids: list[int]) -> str:
            with lock:
                names = list(outer.words)
            return "".join(names[i] for i in ids)

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def reply(self, status: int, body) -> None:
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def do_GET(self):
                self.reply(200, {"data": [{"id": "fake", "owned_by": owned_by, "max_model_len": 1 << 20}]})

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if self.path == "/tokenize":
                    text = body["prompt"] if "prompt" in body else f"<user> {body['messages'][0]['content']} <assistant>"
                    return self.reply(200, {"tokens": encode(text)})
                with lock:
                    outer.requests.append(body)
                text = decode(body["prompt"])
                usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": 5, "lserve": {"pages_total": 100, "pages_read": 20 if
                         body.get("lserve", {}).get("attention") != "dense" else 100, "prefill_blocks_total": 10, "prefill_blocks_read": 10}}
                if body.get("lserve", {}).get("audit"):
                    usage["lserve"] |= {"audited": 3, "missed_mass_mean": 0.125, "missed_mass_max": 0.5}
                if "prompt_logprobs" in body:
                    listed = [None] + [{str(t): {"logprob": -1.0 if body.get("lserve", {}).get("attention") == "dense" else -1.5}} for t in body["prompt"][1:]]
                    return self.reply(200, {"choices": [{"text": "", "finish_reason": "length", "prompt_logprobs": listed}], "usage": usage})
                words = answer(text, body)
                if words is None:
                    return self.reply(500, {"error": {"message": "broken"}})
                self.reply(200, {"choices": [{"text": words, "finish_reason": "stop", "logprobs": None}], "usage": usage})

        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self):
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._http.shutdown()
        self._http.server_close()
