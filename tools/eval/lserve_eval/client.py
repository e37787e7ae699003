"""The side of an OpenAI-compatible server that the laboratory needs: chat templates, token counts, answers, log-probabilities.

lserve and vLLM render and count through /tokenize (messages in, token ids out); llama.cpp through /apply-template and /tokenize. Prompts go to
/v1/completions, so that the assistant's answer can begin with a given text. Any thread.
"""
import http.client
import json
import time
import urllib.error
import urllib.request

from .sample import Sample


class ServerError(RuntimeError):
    pass


class Client:
    def __init__(self, url: str, model: str | None = None, api_key: str | None = None, timeout: float = 3600):
        self.url, self.timeout = url.rstrip("/").removesuffix("/v1"), timeout
        self._headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {api_key}"} if api_key else {})
        listed = self._get("/v1/models")["data"][0]
        self.model = model or listed["id"]
        self.is_lserve = listed.get("owned_by") == "lserve"
        self.max_length = listed.get("max_model_len")
        self._dialect = self._find_dialect()

    def _get(self, path: str):
        return self._open(urllib.request.Request(self.url + path, headers=self._headers))

    def post(self, path: str, body: dict):
        return self._open(urllib.request.Request(self.url + path, json.dumps(body).encode(), self._headers))

    def _open(self, request: urllib.request.Request):
        for attempt in range(5):  # a full queue and a server that is loading are asked again
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as response:
                    return json.load(response)
            except urllib.error.HTTPError as error:
                words = error.read().decode(errors="replace")[:500]
                if error.code not in (429, 503) or attempt == 4:
                    raise ServerError(f"{request.full_url}: {error.code} {words}") from None
                time.sleep(2**attempt)
            except (urllib.error.URLError, http.client.HTTPException, ConnectionError) as error:
                raise ServerError(f"{request.full_url}: {error}") from None
        raise AssertionError

    def _find_dialect(self) -> str:
        message = [{"role": "user", "content": "a"}]
        for name, path, body in (("messages", "/tokenize", {"model": self.model, "messages": message}), ("llama.cpp", "/apply-template", {"messages": message})):
            try:
                answer = self.post(path, body)
            except ServerError:
                continue
            if "prompt" in answer or answer.get("tokens"):
                return name
        raise ServerError(f"{self.url}: neither /tokenize with messages (lserve, vLLM) nor /apply-template (llama.cpp)")

    def tokens(self, text: str, special: bool = False) -> list[int]:
        if self._dialect == "llama.cpp":
            return self.post("/tokenize", {"content": text, "add_special": special})["tokens"]
        return self.post("/tokenize", {"model": self.model, "prompt": text, "add_special_tokens": special})["tokens"]

    def render(self, sample: Sample) -> list[int]:
        """Token ids of the prompt, the template and the answer's beginning."""
        if not sample.chat:
            return self.tokens(sample.prompt + sample.prefix, special=True)
        messages = [{"role": "user", "content": sample.prompt}]
        if self._dialect == "llama.cpp":
            return self.tokens(self.post("/apply-template", {"messages": messages})["prompt"] + sample.prefix, special=True)
        ids = self.post("/tokenize", {"model": self.model, "messages": messages})["tokens"]
        return ids + (self.tokens(sample.prefix) if sample.prefix else [])

    def complete(self, ids: list[int], max_new: int, own: dict, logprobs: int | None = None, ignore_eos: bool = False) -> dict:
        """{text, tokens, usage, seconds, finish, logprobs}; greedy."""
        body = {"model": self.model, "prompt": ids, "max_tokens": max_new, "temperature": 0} | own
        if logprobs is not None:
            body["logprobs"] = logprobs
        if ignore_eos:
            body["ignore_eos"] = True
        started = time.monotonic()
        answer = self.post("/v1/completions", body)
        choice = answer["choices"][0]
        return {"text": choice["text"], "finish": choice.get("finish_reason"), "usage": answer.get("usage", {}), "seconds": time.monotonic() - started,
                "logprobs": choice.get("logprobs")}

    def prompt_logprobs(self, ids: list[int], own: dict) -> tuple[list[float], dict]:
        """Log-probability of every token but the first, and usage: vLLM's prompt_logprobs, else OpenAI's echo."""
        body = {"model": self.model, "prompt": ids, "max_tokens": 1, "temperature": 0, "prompt_logprobs": 0} | own
        answer = self.post("/v1/completions", body)
        listed = answer["choices"][0].get("prompt_logprobs")
        if listed:
            return [entry[str(token)]["logprob"] for token, entry in zip(ids[1:], listed[1:])], answer.get("usage", {})
        del body["prompt_logprobs"]
        answer = self.post("/v1/completions", body | {"echo": True, "logprobs": 0, "max_tokens": 1})
        values = ((answer["choices"][0].get("logprobs") or {}).get("token_logprobs") or [])[1:len(ids)]
        if len(values) != len(ids) - 1:
            raise ServerError(f"{self.url}: the server gives no log-probabilities of prompts (neither prompt_logprobs nor echo)")
        return values, answer.get("usage", {})
