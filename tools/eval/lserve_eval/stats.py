"""Statistics of paired results. Fixed seeds: the same file gives the same report."""
import math
import random

RESAMPLES = 2000


def mean(values) -> float:
    values = list(values)
    return sum(values) / len(values) if values else float("nan")


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided exact p of as uneven a split of the discordant pairs under equal chances."""
    n, k = only_first + only_second, min(only_first, only_second)
    if n == 0:
        return 1.0
    if n > 1000:  # the normal approximation, with continuity correction
        return math.erfc(max(0.0, abs(only_first - only_second) - 1) / math.sqrt(2 * n))
    return min(1.0, 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n)


def bootstrap(groups: list[list[float]], level: float = 0.95, resamples: int = RESAMPLES) -> tuple[float, float]:
    """Interval of the mean over groups of the groups' means; samples are redrawn within their group (a task)."""
    groups = [group for group in groups if group]
    if not groups:
        return float("nan"), float("nan")
    draw = random.Random(7)
    means = sorted(mean(mean(draw.choices(group, k=len(group))) for group in groups) for _ in range(resamples))
    tail = (1 - level) / 2
    return means[int(tail * resamples)], means[min(resamples - 1, int((1 - tail) * resamples))]


def kl_of_tops(dense: dict[str, float], sparse: dict[str, float]) -> float:
    """KL(dense || sparse) in nats over dense's listed tokens and the rest as one. A token that sparse does not list has at most the probability of its
    least listed one; the bound is what is used."""
    floor = min(sparse.values())
    total = rest_p = rest_q = 0.0
    for token, logp in dense.items():
        logq = sparse.get(token, floor)
        p, q = math.exp(logp), math.exp(logq)
        total += p * (logp - logq)
        rest_p += p
        rest_q += q
    p, q = max(1e-9, 1 - rest_p), max(1e-9, 1 - rest_q)
    return max(0.0, total + p * math.log(p / q))


def rank_correlation(a: list[float], b: list[float]) -> float:
    """Spearman's, equal values share their mean rank."""
    def ranks(values):
        order = sorted(range(len(values)), key=values.__getitem__)
        out, i = [0.0] * len(values), 0
        while i < len(order):
            j = i
            while j + 1 < len(order) and values[order[j + 1]] == values[order[i]]:
                j += 1
            for k in range(i, j + 1):
                out[order[k]] = (i + j) / 2
            i = j + 1
        return out

    x, y = ranks(a), ranks(b)
    mx, my = mean(x), mean(y)
    over = sum((p - mx) * (q - my) for p, q in zip(x, y))
    under = math.sqrt(sum((p - mx) ** 2 for p in x) * sum((q - my) ** 2 for q in y))
    return over / under if under else 0.0
