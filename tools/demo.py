#!/usr/bin/env python3
"""Hides a fact in a long document and asks a running lserve for it over HTTP, once with dense and once with LServe attention.

Prints the streamed answers with time to first token, tokens a second and how many KV pages were read. Exits 1 if an answer is wrong.
Standard library only.
"""
import argparse
import http.client
import json
import random
import sys
import time
import urllib.parse

KEY, VALUE = "golden-harbour", "5d1f0c3e-8a47-4b92-b6e1-70c95a2d48f3"
NEEDLE = f"One of the special magic uuids for {KEY} is: {VALUE}."
# Worded as in the RULER benchmark, which the default model was trained to answer.
INTRODUCTION = "A special magic uuid is hidden within the following text. Make sure to memorize it. I will quiz you about the uuid afterwards."
QUESTION = f"What is the special magic uuid for {KEY} mentioned in the provided text?"
MIN_TOKENS = 12_000
SENTENCE_TOKENS = 25  # a sentence has about 22

PEOPLE = "the pilot|the cook|the lamp keeper|a young surgeon|the harbour master|an old carpenter|the baker's wife|the postman".split("|")
ACTIONS = "walked slowly to|wrote a letter about|repaired the roof of|remembered a story of|made a drawing of|asked many questions about|told the children about".split("|")
PLACES = "the mill by the river|the northern lighthouse|the market square|the ruined chapel|the long stone bridge|the orchard behind the school".split("|")
ENDS = "before the rain began|while the bells were ringing|although nobody had asked|and nothing more was said of it|because the road was closed|as the boats came home".split("|")


def document(sentences: int) -> str:
    """The same varied prose on every machine, the needle at two fifths of it."""
    draw = random.Random(42)
    written = []
    for _ in range(sentences):
        person, action, place, end = (draw.choice(words) for words in (PEOPLE, ACTIONS, PLACES, ENDS))
        written.append(f"On day {draw.randrange(1, 366)} {person} {action} {place} {end}.")
    written.insert(sentences * 2 // 5, NEEDLE)
    return " ".join(written)


def events(response):
    """The JSON objects of a server-sent event stream, up to [DONE]; comment lines keep the connection alive and are skipped."""
    for line in response:
        if line.startswith(b"data: "):
            if line[6:].strip() == b"[DONE]":
                return
            yield json.loads(line[6:])
    raise ConnectionError("the stream ended without [DONE]")


def served_model(server: urllib.parse.SplitResult) -> tuple[str, int]:
    """Its name and its longest context."""
    connection = http.client.HTTPConnection(server.hostname, server.port, timeout=30)
    connection.request("GET", "/v1/models")
    model = json.load(connection.getresponse())["data"][0]
    return model["id"], model["max_model_len"]


def ask(server: urllib.parse.SplitResult, model: str, question: str, attention: str, least: int) -> bool:
    """Asks, prints the answer as it comes, then the figures; returns whether the fact is in the answer."""
    print(f"\n-- attention: {attention}", flush=True)
    body = {"model": model, "messages": [{"role": "user", "content": question}], "max_tokens": 64, "temperature": 0, "stream": True,
            "stream_options": {"include_usage": True}, "lserve": {"attention": attention, "progress": True}}
    started = time.monotonic()
    connection = http.client.HTTPConnection(server.hostname, server.port, timeout=1800)
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        sys.exit(f"demo: the server answered {response.status}: {response.read().decode(errors='replace')}")
    answer, first, last, shown, usage = "", None, None, started, {}
    for event in events(response):
        if "error" in event:
            sys.exit(f"demo: the server reported an error: {event['error']}")
        usage = event.get("usage") or usage
        if progress := (event.get("lserve") or {}).get("progress"):
            now = time.monotonic()
            if first is None and (sys.stdout.isatty() or now - shown >= 5):
                shown = now
                show_progress(progress["prompt_tokens_processed"], progress["prompt_tokens_total"], now - started)
        for choice in event.get("choices", []):
            if text := choice["delta"].get("content"):
                last = time.monotonic()
                if first is None:
                    first = last
                    print("   answer: ", end="")
                answer += text
                print(text, end="", flush=True)
    connection.close()
    right = VALUE in answer
    print(f"\n   {'RIGHT' if right else 'WRONG: ' + VALUE + ' was hidden'}")
    report(usage, first - started if first else None, last - first if first else None)
    if usage.get("prompt_tokens", 0) < least:
        sys.exit(f"demo: the document came to {usage.get('prompt_tokens')} tokens, at least {least} are meant")
    return right


def show_progress(done: int, total: int, seconds: float) -> None:
    text = f"   reading the document: {done} of {total} tokens, {seconds:.0f} s"
    print(f"\r{text}", end="" if done < total else "\n", flush=True) if sys.stdout.isatty() else print(text, flush=True)


def report(usage: dict, first: float | None, streaming: float | None) -> None:
    prompt, generated, own = usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0), usage.get("lserve", {})
    if first:
        print(f"   time to first token {first:.2f} s ({prompt} prompt tokens, {prompt / first:.0f} tokens/s)")
    if streaming:
        print(f"   decoding {(generated - 1) / streaming:.1f} tokens/s ({generated} tokens)")
    for what, read, total in (("KV pages read while decoding", "pages_read", "pages_total"),
                              ("KV blocks read for the prompt", "prefill_blocks_read", "prefill_blocks_total")):
        if own.get(total):
            print(f"   {what}: {own[read]} of {own[total]} ({100 * own[read] / own[total]:.0f} %)")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8080", help="the server (default: %(default)s)")
    parser.add_argument("--sentences", type=int, default=600, help="length of the document (default: %(default)s, or what the context holds)")
    parser.add_argument("--may-miss", action="store_true", help="a model that was not trained for this: only fail where lserve is wrong and dense is right")
    args = parser.parse_args()
    server = urllib.parse.urlsplit(args.url)
    model, context = served_model(server)
    sentences = min(args.sentences, (context - 512) // SENTENCE_TOKENS)  # room for the question and the answer
    least = MIN_TOKENS if sentences >= 600 else 0
    question = f"{INTRODUCTION}\n{document(sentences)}\n{QUESTION}"
    print(f"A document of {len(question.split())} words hides this sentence: \"{NEEDLE}\"\nThe question: {QUESTION}")
    dense, sparse = (ask(server, model, question, attention, least) for attention in ("dense", "lserve"))
    if args.may_miss and not dense:
        print("\nThis model does not find it with dense attention either: it was not trained to.")
        return 0
    return 0 if dense and sparse else 1


if __name__ == "__main__":
    sys.exit(main())
