"""Needles in a haystack: RULER's eight tasks, the grid of lengths and depths, and DuoAttention's passkeys."""
import math
import random
import re

from .material import Material
from .sample import Sample, Task

TEMPLATE = ("Some special magic {type} are hidden within the following text. Make sure to memorize it. I will quiz you about the {type} afterwards.\n"
            "{context}\nWhat are all the special magic {type} for {query} mentioned in the provided text?")
PREFIX = " The special magic {type} for {query} mentioned in the provided text are"
NEEDLE = "One of the special magic {type} for {key} is: {value}."
NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
DEPTHS = [round(100 * i / 39) for i in range(40)]

# name: haystack, kind of key, kind of value, keys, values a key, queries
NIAH = {
    "niah_single_1": ("noise", "words", "numbers", 1, 1, 1),
    "niah_single_2": ("essay", "words", "numbers", 1, 1, 1),
    "niah_single_3": ("essay", "words", "uuids", 1, 1, 1),
    "niah_multikey_1": ("essay", "words", "numbers", 4, 1, 1),
    "niah_multikey_2": ("needle", "words", "numbers", 1, 1, 1),
    "niah_multikey_3": ("needle", "uuids", "uuids", 1, 1, 1),
    "niah_multivalue": ("essay", "words", "numbers", 1, 4, 1),
    "niah_multiquery": ("essay", "words", "numbers", 4, 1, 4),
}


def uuid4(draw: random.Random) -> str:
    bits = draw.getrandbits(128) & ~(0xF << 76) | 0x4 << 76
    digits = f"{bits & ~(0x3 << 62) | 0x2 << 62:032x}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def value_of(kind: str, draw: random.Random, material: Material) -> str:
    if kind == "numbers":
        return str(draw.randrange(10**6, 10**7))
    return uuid4(draw) if kind == "uuids" else draw.choice(material.keys)


def other_key(kind: str, draw: random.Random, material: Material, taken: list[str]) -> str:
    """A key that is not asked for: with a small list of words the same one would come up now and then."""
    while True:
        if (key := value_of(kind, draw, material)) not in taken:
            return key


def sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.!?])\s+", text)


def singular(text: str) -> str:
    for old, new in (("Some", "A"), ("are all", "is"), ("are", "is"), ("answers", "answer")):
        text = text.replace(old, new)
    return text


def into_text(text: str, needles: list[str], percents: list[float]) -> str:
    """Needles between sentences, at the depths given in ascending order."""
    parts = sentences(text)
    points = [0, *(math.floor(len(parts) * p / 100) for p in percents), len(parts)]
    pieces = []
    for i in range(len(points) - 1):
        pieces.append(" ".join(parts[points[i]:points[i + 1]]))
        if i < len(needles):
            pieces.append(needles[i])
    return " ".join(piece for piece in pieces if piece)


def into_lines(lines: list[str], needles: list[str], draw: random.Random) -> str:
    """Needle k goes to the k-th largest of distinct random indices."""
    for index, needle in zip(sorted(draw.sample(range(len(lines)), len(needles)), reverse=True), needles):
        lines.insert(index, needle)
    return "\n".join(lines)


def make_niah(material: Material, name: str, draw: random.Random, units: int, limit: int, index: int, depth: float | None = None) -> Sample:
    haystack, key_kind, value_kind, num_keys, num_values, num_queries = NIAH.get(name, NIAH["niah_single_2"])
    keys, values, needles = [], [], []
    for _ in range(max(num_keys, num_queries)):
        keys.append(value_of(key_kind, draw, material))
        values.append([value_of(value_kind, draw, material) for _ in range(num_values)])
        needles += [NEEDLE.format(type=value_kind, key=keys[-1], value=value) for value in values[-1]]
    random.Random(42).shuffle(needles)  # the same order in every sample
    if haystack == "essay":
        percents = [depth] if depth is not None else sorted(draw.sample(DEPTHS, len(needles)))
        context = into_text(" ".join(material.piece(units)), needles, percents)
    elif haystack == "noise":
        context = into_lines([NOISE] * units, needles, draw)
    else:
        others = [other_key(key_kind, draw, material, keys) for _ in range(units)]
        lines = [NEEDLE.format(type=value_kind, key=other, value=value_of(value_kind, draw, material)) for other in others]
        context = into_lines(lines, needles, draw)
    asked = draw.sample(range(len(keys)), num_queries)
    names = [keys[i] for i in asked]
    query = ", ".join(names[:-1]) + ", and " + names[-1] if len(names) > 1 else names[0]
    answers = [value for i in asked for value in values[i]]
    template, prefix, kind = TEMPLATE, PREFIX, value_kind
    if num_queries * num_values == 1:
        template, prefix, kind = singular(template), singular(prefix), value_kind[:-1]
    prompt = template.format(type=kind, context=context, query=query)
    extra = {"depth": depth if depth is not None else round(100 * context.find(answers[0]) / len(context), 1)}
    return Sample(name, limit, index, prompt, prefix.format(type=kind, query=query), answers, "match_all", 128, extra=extra)


GRID_DEPTHS = 10


def make_grid(material: Material, draw: random.Random, units: int, limit: int, index: int) -> Sample:
    """One fact at depth 0, 11, ... 100 % in turn: sample i lies at depth i modulo 10."""
    sample = make_niah(material, "grid", draw, units, limit, index, depth=round(100 * (index % GRID_DEPTHS) / (GRID_DEPTHS - 1), 1))
    sample.max_new = 24
    return sample


NATO = """alpha bravo charlie delta echo foxtrot golf hotel india juliett kilo lima mike november oscar papa quebec romeo sierra tango uniform victor whiskey
xray yankee zulu""".split()
ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth".split()


def make_passkey(material: Material, draw: random.Random, units: int, limit: int, index: int, metric: str = "prefix_words") -> Sample:
    """Ten passkeys of 32 words in a book; the misspelling is DuoAttention's."""
    keys = [" ".join(draw.choice(NATO) for _ in range(32)) for _ in ORDINALS]
    depths = sorted(draw.sample([0.05 + 0.9 * i / 19 for i in range(20)], len(keys)))
    book, pieces, before = material.piece(units), [], 0
    for ordinal, key, depth in zip(ORDINALS, keys, depths):
        at = int(units * depth)
        pieces += [" ".join(book[before:at]), f"\n\nRemeber this sequence of words, it's the {ordinal} passkey to the vault: {key}\n\n"]
        before = at
    context = "".join(pieces) + " ".join(book[before:])
    asked = index % len(keys)
    prompt = (f"This is a very long story book: <book> {context} </book>.\n\n"
              f"Based on the content of the book, what is the {ORDINALS[asked]} passkey to the vault?")
    name = "passkey" if metric == "prefix_words" else "passkey_nll"
    return Sample(name, limit, index, prompt, "Passkey: ", [keys[asked]], metric, 160, extra={"depth": round(100 * depths[asked], 1)})


def tasks(material: Material) -> list[Task]:
    def essay(limit):
        return 500 if limit >= 4096 else 100

    def finer(limit):
        return 100 if limit >= 4096 else 20

    def lines(limit):
        return 25 if limit >= 4096 else 5

    made = []
    for name, (haystack, *_) in NIAH.items():
        made.append(Task(name, lambda d, u, n, i, name=name: make_niah(material, name, d, u, n, i), essay if haystack == "essay" else lines,
                         least=1 if haystack == "essay" else 5))
    made.append(Task("grid", lambda d, u, n, i: make_grid(material, d, u, n, i), finer))
    for metric, name in (("prefix_words", "passkey"), ("nll", "passkey_nll")):
        made.append(Task(name, lambda d, u, n, i, metric=metric: make_passkey(material, d, u, n, i, metric), finer, least=20))
    return made
