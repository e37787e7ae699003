"""Scores of answers, 0 to 1. A metric is a function (prediction, references) -> share."""
import collections
import re
import string

from .tasks_world import parse_array


def clean(prediction: str) -> str:
    """Control characters become newlines, as RULER has it."""
    return re.sub(r"[\x00-\x1f]", "\n", prediction).strip()


def match_all(prediction: str, references: list[str]) -> float:
    text = clean(prediction).lower()
    return sum(reference.lower() in text for reference in references) / len(references)


def match_part(prediction: str, references: list[str]) -> float:
    text = clean(prediction).lower()
    return float(any(reference.lower() in text for reference in references))


def prefix_words(prediction: str, references: list[str]) -> float:
    """The share of the words that are right before the first error."""
    wanted, right = " ".join(references).split(), 0
    for word, given in zip(wanted, prediction.split()):
        if word.lower() != given.lower().strip(".,"):
            break
        right += 1
    return right / len(wanted)


def json_f1(prediction: str, references: list[str]) -> float:
    """F1 over the items of a JSON array, each counted as often as it occurs. The answer prefix, an opening bracket and quote, belongs to it."""
    given = collections.Counter(parse_array('["' + prediction if not prediction.lstrip().startswith("[") else prediction))
    wanted = collections.Counter(references)
    common = sum((given & wanted).values())
    return 2 * common / (sum(given.values()) + sum(wanted.values())) if common else 0.0


def exact_number(prediction: str, references: list[str]) -> float:
    """The first integer of the answer."""
    found = re.search(r"\d+", prediction)
    return float(bool(found) and found.group() == references[0])


# --- LongBench's, for people who bring its data.


def normalised(text: str) -> str:
    """Lower case, without punctuation, articles and extra blanks."""
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def _f1(given: list[str], wanted: list[str]) -> float:
    common = sum((collections.Counter(given) & collections.Counter(wanted)).values())
    return 2 * common / (len(given) + len(wanted)) if common else 0.0


def qa_f1(prediction: str, references: list[str]) -> float:
    return max(_f1(normalised(prediction).split(), normalised(reference).split()) for reference in references)


def rouge_l(prediction: str, references: list[str]) -> float:
    """F1 of the longest common subsequence of words."""
    def one(a: list[str], b: list[str]) -> float:
        row = [0] * (len(b) + 1)
        for x in a:
            before = 0
            for j, y in enumerate(b, 1):
                before, row[j] = row[j], before + 1 if x == y else max(row[j], row[j - 1])
        return 2 * row[-1] / (len(a) + len(b)) if row[-1] else 0.0

    return max(one(prediction.split(), reference.split()) for reference in references)


def classification(prediction: str, references: list[str], classes: list[str]) -> float:
    """One over the number of labels found, if the right one is among them."""
    found = [label for label in classes if label in prediction]
    # A label that is only a part of the right one does not count.
    found = [label for label in found if not any(label != reference and label in reference for reference in references)]
    return max((1 / len(found) if reference in found else 0.0) for reference in references)


def share_of_numbers(prediction: str, references: list[str]) -> float:
    """Retrieval and counting: the share of the integers in the answer that are right."""
    numbers = re.findall(r"\d+", prediction)
    wanted = {re.search(r"\d+", reference).group() for reference in references}
    return sum(number in wanted for number in numbers) / len(numbers) if numbers else 0.0


def _edit_similarity(a: str, b: str) -> float:
    """One less the insertions and deletions that turn a into b, over both lengths; rounded to whole percents."""
    row = [0] * (len(b) + 1)
    for x in a:
        before = 0
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], before + 1 if x == y else max(row[j], row[j - 1])
    total = len(a) + len(b)
    return round(100 * 2 * row[-1] / total) / 100 if total else 1.0


def code_similarity(prediction: str, references: list[str]) -> float:
    """Of the first line that is neither a comment nor a fence."""
    lines = (line for line in prediction.lstrip("\n").split("\n") if not any(mark in line for mark in ("`", "#", "//")))
    first = next(lines, "")
    return max(_edit_similarity(first, reference) for reference in references)


METRICS = {f.__name__: f for f in (match_all, match_part, prefix_words, json_f1, exact_number, qa_f1, rouge_l, share_of_numbers, code_similarity)}

# LongBench's sets: metric, tokens to generate.
LONGBENCH = {
    **{name: ("qa_f1", 128) for name in ("narrativeqa", "qasper")}, "multifieldqa_en": ("qa_f1", 64), "triviaqa": ("qa_f1", 32),
    **{name: ("qa_f1", 32) for name in ("hotpotqa", "2wikimqa", "musique")},
    **{name: ("rouge_l", 512) for name in ("gov_report", "qmsum", "multi_news", "vcsum")}, "dureader": ("rouge_l", 128), "samsum": ("rouge_l", 128),
    "trec": ("classification", 64), "lsht": ("classification", 64),
    **{name: ("share_of_numbers", 32) for name in ("passage_retrieval_en", "passage_retrieval_zh", "passage_count")},
    **{name: ("code_similarity", 64) for name in ("lcc", "repobench-p")},
}
FIRST_LINE_ONLY = {"trec", "triviaqa", "samsum", "lsht"}


def longbench(dataset: str, prediction: str, references: list[str], classes: list[str] | None = None) -> float:
    name = dataset.removesuffix("_e")
    if name not in LONGBENCH:
        raise ValueError(f"no LongBench set is called {dataset}")
    if name in FIRST_LINE_ONLY:
        prediction = prediction.lstrip("\n").split("\n")[0]
    metric = LONGBENCH[name][0]
    return classification(prediction, references, classes or []) if metric == "classification" else METRICS[metric](prediction, references)


def middle_removed(tokens: list, limit: int) -> list:
    """Too long prompts keep their first and their last half."""
    return tokens if len(tokens) <= limit else tokens[:limit // 2] + tokens[-(limit // 2):]
