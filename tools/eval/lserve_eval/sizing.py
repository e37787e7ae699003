"""Fills prompts up to a length in tokens: prompt, template, answer prefix and the answer together never exceed it."""
from .client import Client
from .sample import Sample, Task, draw_for


class Filler:
    """Searches the number of haystack units once a task and length; a sample that comes out too long gets fewer. One thread."""

    def __init__(self, render, seed: int = 42):
        self._render, self._seed, self._units = render, seed, {}

    def make(self, task: Task, length: int, index: int) -> tuple[Sample, list[int]]:
        step = task.increment(length)
        if (task.name, length) not in self._units:
            self._units[task.name, length] = self._search(task, length, step)
        units = self._units[task.name, length]
        while True:
            sample, ids = self._try(task, length, index, units)
            if len(ids) + self._reserved(sample) <= length:
                sample.extra["units"] = units
                return sample, ids
            if units <= task.least:
                raise ValueError(f"{task.name}: {length} tokens are too few: the shortest prompt takes {len(ids)} and the answer {sample.max_new}")
            units = max(task.least, units - step)

    def _try(self, task: Task, length: int, index: int, units: int) -> tuple[Sample, list[int]]:
        sample = task.make(draw_for(self._seed, task.name, length, index), units, length, index)
        return sample, self._render(sample)

    @staticmethod
    def _reserved(sample: Sample) -> int:
        return sample.max_new

    def _search(self, task: Task, length: int, step: int) -> int:
        """The largest least + k * step whose first sample fits; least where none does."""
        def fits(k: int) -> bool:
            sample, ids = self._try(task, length, 0, task.least + k * step)
            return len(ids) + self._reserved(sample) <= length

        low, high = 0, 1  # invariant: low fits or is 0
        while high * step < length and fits(high):
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        return task.least + low * step


def filler(client: Client, seed: int) -> Filler:
    return Filler(client.render, seed)
