"""Tasks without questions: perplexity by position, a list that comes twice (copy), and agreement with dense on free text."""
import random

from .material import Material
from .sample import Sample, Task


def make_copy(material: Material, draw: random.Random, units: int, limit: int, index: int, metric: str = "prefix_words") -> Sample:
    """32 nouns in a row, a gap of other nouns, then the first four of the 32: the model has to go on. The place of the 32 varies, and with it the
    offset within a page."""
    block = draw.sample(material.nouns, 32)
    gap = [draw.choice(material.nouns) for _ in range(units)]
    at = draw.randrange(len(gap) // 2 + 1)
    words = gap[:at] + block + gap[at:]
    name = "copy" if metric == "prefix_words" else "copy_nll"
    return Sample(name, limit, index, " ".join(words) + " " + " ".join(block[:4]), "", [" " + " ".join(block[4:])], metric, 96, chat=False,
                  extra={"depth": round(100 * at / max(1, len(gap)), 1), "before": " ".join(gap[:at])})


def make_perplexity(material: Material, draw: random.Random, units: int, limit: int, index: int) -> Sample:
    """Sample i is the i-th window of the text, whatever the length."""
    return Sample("perplexity", limit, index, " ".join(material.piece(units, begin=index * 20011)), "", [], "nll_by_position", 1, chat=False)


def make_agreement(material: Material, draw: random.Random, units: int, limit: int, index: int) -> Sample:
    """A window of the text to be continued freely; judged beside dense only."""
    return Sample("agreement", limit, index, " ".join(material.piece(units, begin=index * 20011)), "", [], "agreement", 64, chat=False)


def tasks(material: Material) -> list[Task]:
    finer = lambda n: 100 if n >= 4096 else 20
    made = [Task(name, lambda d, u, n, i, metric=metric: make_copy(material, d, u, n, i, metric), finer) for metric, name in
            (("prefix_words", "copy"), ("nll", "copy_nll"))]
    return made + [Task("perplexity", lambda d, u, n, i: make_perplexity(material, d, u, n, i), finer),
                   Task("agreement", lambda d, u, n, i: make_agreement(material, d, u, n, i), finer)]
