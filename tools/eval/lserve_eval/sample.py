"""A question with its answers, and what generators have in common."""
import dataclasses
import hashlib
import random
import typing


@dataclasses.dataclass
class Sample:
    task: str
    length: int  # tokens that prompt and answer may take together
    index: int
    prompt: str  # what the user says
    prefix: str  # how the assistant begins; the model goes on from there
    answers: list[str]
    metric: str  # a name in scores.METRICS, or nll, nll_by_position, agreement
    max_new: int
    chat: bool = True  # False: the prompt is given to the model as it is
    extra: dict = dataclasses.field(default_factory=dict)

    def digest(self) -> str:
        """Tells whether two results are of the same sample."""
        return hashlib.sha256("\0".join([self.prompt, self.prefix, *self.answers]).encode()).hexdigest()[:16]


class Task(typing.NamedTuple):
    """`make(draw, units, limit, index)` gives a sample whose haystack has `units` units. A larger number of units makes a longer prompt."""

    name: str
    make: typing.Callable[[random.Random, int, int, int], Sample]
    increment: typing.Callable[[int], int]  # units, by limit
    least: int = 1  # units


def draw_for(seed: int, task: str, length: int, index: int) -> random.Random:
    return random.Random(f"{seed}/{task}/{length}/{index}")
