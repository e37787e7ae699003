"""The paired comparison of settings with a baseline over the same samples: summary (plain data), terminal table, JSON and HTML files."""
import json
import pathlib
from collections import defaultdict

from . import html
from .stats import bootstrap, kl_of_tops, mcnemar, mean

RIGHT = 0.999


def _pairs(rows: list[dict], setting: str, baseline: str) -> list[tuple[dict, dict]]:
    """(baseline's, setting's) results of the same sample; where texts or seeds differ the two are no pair."""
    of = {(r["task"], r["length"], r["index"]): r for r in rows if r["setting"] == baseline}
    found = [(of.get((r["task"], r["length"], r["index"])), r) for r in rows if r["setting"] == setting]
    return [(a, b) for a, b in found if a is not None and a["digest"] == b["digest"]]


def visited(rows: list[dict]) -> float | None:
    """Share of the KV pages that were read while decoding."""
    total = sum(r.get("pages_total", 0) for r in rows)
    return sum(r.get("pages_read", 0) for r in rows) / total if total else None


def missed(rows: list[dict]) -> float | None:
    """Mean attention mass that page selection missed, where it was audited."""
    values = [r["missed_mass_mean"] for r in rows if "missed_mass_mean" in r]
    return mean(values) if values else None


def _agreement(pairs: list[tuple[dict, dict]]) -> dict | None:
    """Of greedy runs with log-probabilities. Up to the first difference both were given the same tokens."""
    pairs = [(a, b) for a, b in pairs if "tokens" in a and "tokens" in b]
    if not pairs:
        return None
    first, kl, steps = [], [], 0
    for a, b in pairs:
        same = next((i for i, (x, y) in enumerate(zip(a["tokens"], b["tokens"])) if x != y), min(len(a["tokens"]), len(b["tokens"])))
        first.append(same)
        compared = min(same + 1, len(a["top"]), len(b["top"]))
        steps += compared
        kl += [kl_of_tops(a["top"][i], b["top"][i]) for i in range(compared)]
    differing = sum(f < min(len(a["tokens"]), len(b["tokens"])) for f, (a, b) in zip(first, pairs))
    return {"samples": len(pairs), "kl_mean": mean(kl), "kl_max": max(kl), "top1": 1 - differing / steps if steps else 1.0,
            "first_difference_mean": mean(first), "wholly_equal": sum(f >= len(a["tokens"]) for f, (a, _) in zip(first, pairs)) / len(pairs)}


def compare(pairs: list[tuple[dict, dict]]) -> dict:
    """Scores in points (0 to 100); a loss is positive where the setting is worse than the baseline."""
    scored = [(a, b) for a, b in pairs if "score" in a and "score" in b]
    out: dict = {"pairs": len(scored)}
    if scored:
        by_task = defaultdict(list)
        for a, b in scored:
            by_task[a["task"]].append(100 * (a["score"] - b["score"]))
        lost = sum(a["score"] >= RIGHT > b["score"] for a, b in scored)
        won = sum(b["score"] >= RIGHT > a["score"] for a, b in scored)
        worst = max(by_task, key=lambda task: mean(by_task[task]))
        out |= {"baseline": 100 * mean(mean(a["score"] for a, _ in scored if a["task"] == t) for t in by_task),
                "score": 100 * mean(mean(b["score"] for _, b in scored if b["task"] == t) for t in by_task),
                "loss": mean(mean(values) for values in by_task.values()), "interval": bootstrap(list(by_task.values())), "flips_lost": lost, "flips_won": won,
                "mcnemar_p": mcnemar(lost, won), "worse": sum(b["score"] < a["score"] for a, b in scored), "better": sum(b["score"] > a["score"] for a, b in scored),
                "identical": mean(a["text"] == b["text"] for a, b in scored), "worst_task": worst, "worst_loss": mean(by_task[worst]),
                "answer_length_ratio": sum(b.get("answer_tokens") or 0 for _, b in scored) / max(1, sum(a.get("answer_tokens") or 0 for a, _ in scored))}
    teacher = defaultdict(list)
    for a, b in pairs:
        if "nll" in a and "nll" in b:
            teacher[a["task"]].append(b["nll"] - a["nll"])
    out["nll_change"] = {task: {"mean": mean(values), "interval": bootstrap([values]), "baseline": mean(a["nll"] for a, _ in pairs if a["task"] == task),
                                "samples": len(values)} for task, values in sorted(teacher.items())}
    buckets = defaultdict(list)
    for a, b in pairs:
        for name in a.get("buckets", {}).keys() & b.get("buckets", {}).keys():
            buckets[name].append(b["buckets"][name] - a["buckets"][name])
    out["nll_by_position"] = {name: {"mean": mean(values), "interval": bootstrap([values])} for name, values in sorted(buckets.items(), key=lambda kv: int(kv[0].split("-")[0]))}
    out["agreement"] = _agreement(pairs)
    return out


def summarise(rows: list[dict], runs: list[dict], baseline: str) -> dict:
    settings = list(dict.fromkeys(r["setting"] for r in rows))
    lengths = sorted({r["length"] for r in rows})
    summary: dict = {"note": "RULER-style tasks over a substituted haystack: not to be put beside published RULER scores.", "baseline": baseline, "settings": settings,
                     "lengths": lengths, "runs": runs, "scores": [], "paired": []}
    groups = defaultdict(list)
    for row in rows:
        groups[row["setting"], row["length"], row["task"]].append(row)
    for (setting, length, task), group in sorted(groups.items(), key=lambda kv: (settings.index(kv[0][0]), kv[0][1:])):
        entry = {"setting": setting, "length": length, "task": task, "samples": len(group), "visited": visited(group), "missed_mass": missed(group),
                 "seconds": mean(r["seconds"] for r in group), "cached": mean(r["cached_tokens"] / max(1, r["prompt_tokens"]) for r in group)}
        if "score" in group[0]:
            values = [100 * r["score"] for r in group]
            entry |= {"score": mean(values), "interval": bootstrap([values])}
        if "nll" in group[0]:
            entry["nll"] = mean(r["nll"] for r in group)
        summary["scores"].append(entry)
    for setting in settings:
        if setting == baseline or baseline not in settings:
            continue
        for length in [*lengths, None] if len(lengths) > 1 else lengths:
            pairs = [(a, b) for a, b in _pairs(rows, setting, baseline) if length in (None, a["length"])]
            if pairs:
                summary["paired"].append({"setting": setting, "length": length or "all", **compare(pairs), "visited": visited([b for _, b in pairs]), "missed_mass": missed([b for _, b in pairs]),
                                          "seconds": mean(b["seconds"] for _, b in pairs), "baseline_seconds": mean(a["seconds"] for a, _ in pairs)})
    return summary


def columns(header: list[str], lines: list[list[str]]) -> str:
    """A table in Markdown, columns aligned."""
    widths = [max(len(line[i]) for line in [header, *lines]) for i in range(len(header))]
    draw = lambda line: "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |"
    return "\n".join([draw(header), "|" + "|".join("-" * (width + 2) for width in widths) + "|", *map(draw, lines)])


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"


def score_table(summary: dict) -> tuple[list[str], list[list[str]]]:
    tasks = list(dict.fromkeys(e["task"] for e in summary["scores"] if "score" in e))
    lines = []
    for setting in summary["settings"]:
        for length in summary["lengths"]:
            here = {e["task"]: e for e in summary["scores"] if e["setting"] == setting and e["length"] == length and "score" in e}
            if here:
                lines.append([setting, str(length), str(min(e["samples"] for e in here.values())), *(f"{here[t]['score']:.1f}" if t in here else "-" for t in tasks),
                              f"{mean(e['score'] for e in here.values()):.1f}"])
    return ["setting", "length", "samples a task", *tasks, "mean"], lines


def paired_table(summary: dict) -> tuple[list[str], list[list[str]]]:
    lines = []
    for p in summary["paired"]:
        if p["pairs"]:
            low, high = p["interval"]
            lines.append([p["setting"], str(p["length"]), str(p["pairs"]), f"{p['baseline']:.1f}", f"{p['score']:.1f}", f"{p['loss']:+.2f} ({low:+.2f} to {high:+.2f})",
                          f"{p['flips_lost']} / {p['flips_won']}", f"{p['mcnemar_p']:.2f}", percent(p["identical"]), f"{p['worst_task']} {p['worst_loss']:+.1f}",
                          percent(p["visited"]), "-" if p["missed_mass"] is None else f"{p['missed_mass']:.3f}", f"{p['answer_length_ratio']:.3f}", f"{p['seconds']:.1f} / {p['baseline_seconds']:.1f}"])
    return ["setting", "length", "pairs", "baseline", "score", "loss (95 %)", "flips lost / won", "McNemar p", "identical", "worst task", "KV read", "missed mass", "answer length",
            "seconds, baseline's"], lines


def teacher_table(summary: dict) -> tuple[list[str], list[list[str]]]:
    lines = []
    for p in summary["paired"]:
        changes = [(task, c, f"{c['baseline']:.3f}") for task, c in p["nll_change"].items()] + [(f"positions {n}", c, "") for n, c in p["nll_by_position"].items()]
        for what, c, base in changes:
            lines.append([p["setting"], str(p["length"]), what, base, f"{c['mean']:+.4f} ({c['interval'][0]:+.4f} to {c['interval'][1]:+.4f})"])
        if a := p["agreement"]:
            lines.append([p["setting"], str(p["length"]), "agreement", "", f"KL {a['kl_mean']:.4f}, top-1 {100 * a['top1']:.1f} %, first difference at {a['first_difference_mean']:.0f}, "
                                                                        f"wholly equal {100 * a['wholly_equal']:.0f} %"])
    return ["setting", "length", "measure", "baseline nats", "change, nats a token (95 %)"], lines


def table(summary: dict) -> str:
    parts = []
    for title, (header, lines) in (("Scores", score_table(summary)), (f"Paired with {summary['baseline']}", paired_table(summary)), ("Teacher-forced and free text", teacher_table(summary))):
        if lines:
            parts.append(f"{title}\n\n{columns(header, lines)}")
    return "\n\n".join([summary["note"], *parts])


def write(summary: dict, rows: list[dict], results: pathlib.Path, page_map: pathlib.Path | None = None) -> None:
    """RESULTS.summary.json and RESULTS.html beside the results."""
    results.with_suffix(".summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    pages = json.loads(page_map.read_text()) if page_map else None
    tables = [("Scores", *score_table(summary)), (f"Paired with {summary['baseline']}", *paired_table(summary)), ("Teacher-forced and free text", *teacher_table(summary))]
    results.with_suffix(".html").write_text(html.page(summary, rows, tables, pages), encoding="utf-8")
