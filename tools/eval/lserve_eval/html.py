"""One page without anything from a network: tables, and plots as inline SVG with labelled axes and a text alternative."""
import re
from html import escape

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #fff; --line: #c9d1d9; --soft: #57606a; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --paper: #0d1117; --line: #30363d; --soft: #8b949e; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 70rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2rem; break-after: avoid; } p.note { color: var(--soft); }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .6rem; text-align: left; white-space: nowrap; }
figure { margin: 1rem 0; break-inside: avoid; } figcaption { font-size: .9rem; color: var(--soft); } svg { max-width: 100%; height: auto; display: block; }
svg text { font: 12px system-ui, sans-serif; fill: var(--ink); } svg .axis { stroke: var(--soft); stroke-width: 1; } svg .grid { stroke: var(--line); stroke-width: 1; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)); gap: 1rem; }
@media print { :root { --ink: #000; --paper: #fff; --line: #999; --soft: #444; } body { max-width: none; font-size: 10pt; } .scroll { overflow: visible; }
  table { font-size: 7pt; } th, td { padding: .1rem .25rem; } th { white-space: normal; } .plots { grid-template-columns: 1fr 1fr; } }
"""
COLOURS = ["#0969da", "#bc4c00", "#1a7f37", "#8250df", "#bf3989", "#9a6700"]
DASHES = ["", "2 3", "8 3 2 3", "1 2", "10 4", "4 2"]  # told apart without colour


def colour(score: float) -> str:
    """0 to 100: from red over yellow to blue-green, lightness rising, so that print in grey keeps the order."""
    stops = [(0, (120, 20, 40)), (50, (225, 150, 60)), (100, (170, 225, 200))]
    for (a, x), (b, y) in zip(stops, stops[1:]):
        if score <= b:
            t = (score - a) / (b - a)
            return "#" + "".join(f"{round(p + t * (q - p)):02x}" for p, q in zip(x, y))
    return "#aae1c8"


def figure(svg: str, caption: str) -> str:
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def heat_map(rows: list[dict], setting: str) -> str:
    cells: dict = {}
    for r in rows:
        if r["setting"] == setting and r["task"] == "grid" and "score" in r:
            cells.setdefault((r["length"], r["extra"]["depth"]), []).append(100 * r["score"])
    if not cells:
        return ""
    lengths, depths = sorted({k[0] for k in cells}), sorted({k[1] for k in cells})
    side, left, top = 44, 70, 10
    width, height = left + side * len(lengths) + 10, top + 26 * len(depths) + 50
    parts, words = [], []
    for j, depth in enumerate(depths):
        parts.append(f'<text x="{left - 6}" y="{top + 26 * j + 17}" text-anchor="end">{depth:.0f} %</text>')
        for i, length in enumerate(lengths):
            if values := cells.get((length, depth)):
                value = sum(values) / len(values)
                words.append(f"{length} tokens, depth {depth:.0f} %: {value:.0f}")
                parts.append(f'<rect x="{left + side * i}" y="{top + 26 * j}" width="{side - 2}" height="24" fill="{colour(value)}"/>'
                             f'<text x="{left + side * i + side / 2 - 1}" y="{top + 26 * j + 17}" text-anchor="middle" style="fill:{"#fff" if value < 30 else "#000"}">{value:.0f}</text>')
    for i, length in enumerate(lengths):
        parts.append(f'<text x="{left + side * i + side / 2}" y="{top + 26 * len(depths) + 16}" text-anchor="middle">{length // 1024}K</text>')
    parts.append(f'<text x="{left + side * len(lengths) / 2}" y="{height - 8}" text-anchor="middle">context length, tokens</text>'
                 f'<text transform="translate(14 {top + 13 * len(depths)}) rotate(-90)" text-anchor="middle">depth of the fact</text>')
    alt = f"Heat map of setting {setting}, score by length and depth. " + "; ".join(words)
    return figure(f'<svg role="img" viewBox="0 0 {width} {height}" width="{width}" aria-label="{escape(alt, quote=True)}">{"".join(parts)}</svg>',
                  f"{setting}: facts found (0 to 100), by context length and depth.")


def curves(series: dict[str, list[tuple[float, float]]], x_label: str, y_label: str, title: str) -> str:
    """Lines with marks. x is spaced evenly in order of its values, because budgets double from one to the next."""
    xs = sorted({x for points in series.values() for x, _ in points})
    if len(xs) < 2:
        return ""
    ys = [y for points in series.values() for _, y in points]
    low, high = max(0.0, min(ys) - 5), min(100.0, max(ys) + 5)
    left, top, w, h = 62, 10, 380, 220
    px = lambda x: left + w * xs.index(x) / (len(xs) - 1)
    py = lambda y: top + h * (1 - (y - low) / (high - low or 1))
    parts, words = [], []
    for k in range(5):
        y = low + (high - low) * k / 4
        parts.append(f'<line class="grid" x1="{left}" x2="{left + w}" y1="{py(y):.1f}" y2="{py(y):.1f}"/><text x="{left - 6}" y="{py(y) + 4:.1f}" text-anchor="end">{y:.0f}</text>')
    for x in xs:
        parts.append(f'<text x="{px(x):.1f}" y="{top + h + 18}" text-anchor="middle">{x:g}</text>')
    for n, (name, points) in enumerate(series.items()):
        ink, dash, width, points = COLOURS[n // 2 % 6], DASHES[n // 2 % 6], 2 if n % 2 == 0 else 1, sorted(points)  # every other one is a baseline: thin, unmarked
        parts.append(f'<polyline fill="none" stroke="{ink}" stroke-width="{width}" stroke-dasharray="{dash}" points="{" ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in points)}"/>')
        parts += [f'<circle cx="{px(x):.1f}" cy="{py(y):.1f}" r="3.5" fill="{ink}"/>' for x, y in points if width == 2]
        key = top + h + 56 + 18 * n
        parts.append(f'<line x1="{left}" x2="{left + 30}" y1="{key - 4}" y2="{key - 4}" stroke="{ink}" stroke-width="{width}" stroke-dasharray="{dash}"/><text x="{left + 38}" y="{key}">{escape(name)}</text>')
        words.append(f"{name}: " + ", ".join(f"{y:.1f} at {x:g}" for x, y in points))
    height = top + h + 52 + 18 * len(series)
    parts.append(f'<line class="axis" x1="{left}" x2="{left + w}" y1="{top + h}" y2="{top + h}"/><text x="{left + w / 2}" y="{top + h + 36}" text-anchor="middle">{escape(x_label)}</text>'
                 f'<text transform="translate(16 {top + h / 2}) rotate(-90)" text-anchor="middle">{escape(y_label)}</text>')
    return figure(f'<svg role="img" viewBox="0 0 {left + w + 20} {height}" width="{left + w + 20}" aria-label="{escape(f"{title}. " + "; ".join(words), quote=True)}">{"".join(parts)}</svg>', title)


def sweep(summary: dict, value_of) -> dict[str, list[tuple[float, float]]]:
    """Mean paired scores by length over settings that `value_of` gives a number; the baseline as a level line."""
    series: dict = {}
    for p in summary["paired"]:
        value = value_of(p["setting"])
        if value is not None and p["pairs"] and p["length"] != "all":
            series.setdefault(f"{p['length']} tokens", []).append((value, p["score"]))
            series.setdefault(f"{p['length']} tokens, {summary['baseline']}", []).append((value, p["baseline"]))
    return series


def budget_of(setting: str) -> float | None:
    found = re.fullmatch(r"(?:budget[ _-]?|lserve-b)(\d+)", setting)
    return float(found.group(1)) if found else None


def static_of(setting: str) -> float | None:
    found = re.fullmatch(r"static[ _-]?(\d+)", setting)
    return float(found.group(1)) if found else None


def page_map(pages: dict) -> str:
    """Which pages which head read while one answer was written: a row a KV head, a column a page; darker is oftener."""
    heads, blocks = pages["heads"], pages["blocks"]
    cell = max(2, min(16, 800 // max(1, blocks)))
    left, row, top = 64, 5 if len(heads) > 40 else 16, 8
    width, height = left + cell * blocks + 10, top + row * len(heads) + 46
    steps, parts = max(1, pages["steps"]), []
    for y, head in enumerate(heads):
        if y % max(1, len(heads) // 15) == 0:
            parts.append(f'<text x="{left - 4}" y="{top + row * y + (row + 7) / 2:.0f}" text-anchor="end" style="font-size:9px">{head["layer"]}.{head["head"]}</text>')
        start = 0
        reads = head["reads"]
        while start < blocks:  # equal neighbours become one rectangle
            end = start
            while end < blocks and reads[end] == reads[start]:
                end += 1
            if reads[start]:
                ink = "#bc4c00" if head["streaming"] else "#0969da"
                parts.append(f'<rect x="{left + cell * start}" y="{top + row * y}" width="{cell * (end - start)}" height="{row - 1}" fill="{ink}" opacity="{0.15 + 0.85 * reads[start] / steps:.2f}"/>')
            start = end
    for x in range(0, blocks, -(-56 // cell)):
        parts.append(f'<text x="{left + cell * x}" y="{top + row * len(heads) + 14}" text-anchor="middle">{x * 64}</text>')
    if (answer := pages.get("answer_block")) is not None:
        parts.append(f'<rect x="{left + cell * answer}" y="{top - 4}" width="{cell}" height="{row * len(heads) + 6}" fill="none" stroke="#cf222e"/>')
    parts.append(f'<text x="{left + cell * blocks / 2}" y="{height - 8}" text-anchor="middle">position of the page, tokens</text>'
                 f'<text transform="translate(14 {top + row * len(heads) / 2}) rotate(-90)" text-anchor="middle">layer.KV head</text>')
    read = sum(sum(h["reads"]) for h in heads) / (steps * blocks * len(heads))
    alt = f"Page-read map: {len(heads)} KV heads, {blocks} pages, {steps} steps; {100 * read:.0f} % of the pages read on average. Streaming heads read the first and the newest pages."
    return figure(f'<svg role="img" viewBox="0 0 {width} {height}" width="{width}" aria-label="{escape(alt, quote=True)}">{"".join(parts)}</svg>',
                  "Pages read while one answer was written: blue retrieval heads, orange streaming heads, stronger where read at more steps. The red frame is the page of the answer.")


def html_table(title: str, header: list[str], lines: list[list[str]]) -> str:
    if not lines:
        return ""
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in line) + "</tr>" for line in lines)
    return f'<h2>{escape(title)}</h2><div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def page(summary: dict, rows: list[dict], tables: list[tuple], pages: dict | None = None) -> str:
    plots = [heat_map(rows, setting) for setting in summary["settings"]]
    plots.append(curves(sweep(summary, budget_of), "budget, tokens a retrieval head reads", "mean score", "Score against budget."))
    plots.append(curves(sweep(summary, static_of), "static sparsity, percent of KV heads that stream", "mean score", "Score against static sparsity."))
    sources = list(dict.fromkeys(f"{r['model']}, text: {r['material']['text']}, words: {r['material']['words']}, seed {r['seed']}, server flags: {' '.join(r['flags']) or 'none'}"
                                 for r in summary["runs"]))
    body = [f"<h1>Accuracy: {escape(', '.join(summary['settings']))}</h1>", f'<p class="note">{escape(summary["note"])} A loss is positive where a setting is worse than {escape(summary["baseline"])}. '
            "A flip is a sample that only one of the two answers in full.</p>", "".join(html_table(*t) for t in tables)]
    drawn = "".join(plot for plot in plots if plot)
    if drawn:
        body.append(f'<h2>Plots</h2><div class="plots">{drawn}</div>')
    if pages:
        body.append(f"<h2>Pages read</h2>{page_map(pages)}")
    body.append("<h2>What was run</h2><ul>" + "".join(f"<li>{escape(s)}</li>" for s in sources) + "</ul>")
    return (f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>lserve accuracy report</title>'
            f"<style>{STYLE}</style></head><body>{''.join(body)}</body></html>\n")
