"""RULER's tracking and aggregation: chains of variables (vt), the most common words (cwe), coded words (fwe)."""
import math
import random
import re
import string

from .material import Material
from .sample import Sample, Task
from .tasks_needle import NOISE

HOPS = 4
VT_TEMPLATE = ("Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n{context}\n"
               "Question: Find all variables that are assigned the value {query} in the text above.")
VT_PREFIX = (" Answer: According to the chain(s) of variable assignment in the text above, {num_v} variables are assigned the value {query}, they are: ")
CWE_TEMPLATE = ("Below is a numbered list of words. In these words, some appear more often than others. Memorize the ones that appear most often.\n{context}\n"
                "Question: What are the 10 most common words in the above list?")
CWE_PREFIX = " Answer: The top 10 words that appear most often in the list are:"
FWE_TEMPLATE = ("Read the following coded text and track the frequency of each coded word. Find the three most frequently appeared coded words. {context}\n"
                "Question: Do not provide any explanation. Please ignore the dots '....'. What are the three most frequently appeared words in the above coded text?")
FWE_PREFIX = " Answer: According to the coded text above, the three most frequently appeared words are:"
ZETA_2 = math.pi**2 / 6


def _variables(draw: random.Random, count: int, letters: int) -> list[str]:
    names = []
    while len(names) < count:
        name = "".join(draw.choice(string.ascii_uppercase) for _ in range(letters))
        if name not in names:
            names.append(name)
    return names


def chain_text(draw: random.Random, names: list[str], value: str, lines: int) -> str:
    """The assignments, in order, at random distinct places among the noise."""
    chain = [f"VAR {names[0]} = {value}"] + [f"VAR {name} = VAR {before} " for before, name in zip(names, names[1:])]
    text = [NOISE] * lines
    for place, assignment in zip(sorted(draw.sample(range(lines), len(chain)), reverse=True), reversed(chain)):
        text.insert(place, assignment)
    return "\n".join(text).replace(". \n", ".\n")


def make_vt(material: Material, draw: random.Random, units: int, limit: int, index: int) -> Sample:
    # The worked example: short names, about 500 tokens; its names and its value are new in every sample.
    names, value = _variables(draw, HOPS + 1, 3), str(draw.randrange(10000, 99999))
    context = chain_text(draw, names, value, 15)
    example = (VT_TEMPLATE.format(context=context, query=value) + VT_PREFIX.format(num_v=len(names), query=value) + " " + " ".join(names) + "\n")
    names, value = _variables(draw, HOPS + 1, 5), str(draw.randrange(10000, 99999))
    context = chain_text(draw, names, value, units)
    prompt = example + "\n" + VT_TEMPLATE.format(context=context, query=value)
    depth = round(100 * context.find(f"VAR {names[0]} =") / len(context), 1)
    return Sample("vt", limit, index, prompt, VT_PREFIX.format(num_v=len(names), query=value), names, "match_all", 30, extra={"depth": depth})


def _numbered_list(draw: random.Random, vocabulary: list[str], words: int, common: int, rare: int) -> tuple[str, list[str]]:
    drawn = draw.sample(vocabulary, words)
    listed = drawn[:10] * common + drawn[10:] * rare
    random.Random(42).shuffle(listed)
    return " ".join(f"{i + 1}. {word}" for i, word in enumerate(listed)), drawn[:10]


def make_cwe(material: Material, draw: random.Random, units: int, limit: int, index: int) -> Sample:
    vocabulary = material.vocabulary if units <= len(material.vocabulary) else material.vocabulary + material.more_words
    small = limit < 4096
    example, example_answers = _numbered_list(draw, vocabulary, *((20, 3, 1) if small else (40, 10, 3)))
    context, answers = _numbered_list(draw, vocabulary, min(units, len(vocabulary)), *((6, 1) if small else (30, 3)))
    prompt = (CWE_TEMPLATE.format(context=example) + CWE_PREFIX + " " + " ".join(f"{i + 1}. {w}" for i, w in enumerate(example_answers)) + "\n"
              + CWE_TEMPLATE.format(context=context))
    return Sample("cwe", limit, index, prompt, CWE_PREFIX, answers, "match_all", 120)


def make_fwe(material: Material, draw: random.Random, units: int, limit: int, index: int) -> Sample:
    """`units` is the number of words; the frequency of rank k is its share k^-2 / zeta(2)."""
    size = max(5, (limit - 50) // 50)
    vocabulary = set()
    while len(vocabulary) < size:
        vocabulary.add("".join(draw.choice(string.ascii_lowercase) for _ in range(6)))
    vocabulary = sorted(vocabulary)
    random.Random(42).shuffle(vocabulary)
    vocabulary[0] = "..."
    listed = [word for rank, word in enumerate(vocabulary, 1) for _ in range(math.floor(units * rank**-2 / ZETA_2))]
    random.Random(42).shuffle(listed)
    return Sample("fwe", limit, index, FWE_TEMPLATE.format(context=" ".join(listed)), FWE_PREFIX, vocabulary[1:4], "match_all", 50)


def tasks(material: Material) -> list[Task]:
    return [Task("vt", lambda d, u, n, i: make_vt(material, d, u, n, i), lambda n: 10 if n >= 4096 else 5, least=HOPS + 1),
            Task("cwe", lambda d, u, n, i: make_cwe(material, d, u, n, i), lambda n: 10, least=20),
            Task("fwe", lambda d, u, n, i: make_fwe(material, d, u, n, i), lambda n: max(1, n // 32), least=100)]


def numbered_words(text: str) -> list[str]:
    """The words of a numbered list, for tests."""
    return re.findall(r"\d+\. (\S+)", text)
