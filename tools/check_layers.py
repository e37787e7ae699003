#!/usr/bin/env python3
"""Rules of the repository that a machine can check; prints every breach and exits 1 if there is one.

- Includes go one way: a folder of src/ includes only itself and what LAYERS gives it. tests/, tools/ and bench/ may include anything.
- A source file has fewer than 500 lines, so that it can hold one idea.
- The code holds no words that mark unfinished work, and no absolute path of somebody's machine.
"""
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
MAX_LINES = 500

# folder of src/ -> the folders it may include, itself aside.
LAYERS = {
    "core": set(),
    "plan": {"core"},
    "quant": {"core"},  # block formats lie below the kernels that multiply them
    "text": {"core"},
    "kernels": {"core", "plan", "quant"},
    "kv": {"core", "plan", "kernels"},
    "sparse": {"core", "plan", "kernels", "kv"},
    "model": {"core", "plan", "kernels", "kv", "sparse", "quant", "text"},
}
LAYERS["engine"] = LAYERS["model"] | {"model"}
LAYERS["eval"] = LAYERS["model"] | {"model"}
LAYERS["server"] = LAYERS["engine"] | {"engine"}
LAYERS["cli"] = LAYERS["server"] | {"server", "eval"}

CODE = re.compile(r"(\.(h|cc|cu|cuh|py|sh|cmake)|CMakeLists\.txt|/check|/quickstart|/run)$")
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.M)
UNFINISHED = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "X" + "XX", "HA" + "CK"]) + r")\b")
MACHINE_PATH = re.compile(r"(?<![\w.])/(work|home|farm)/\w")


def line_of(text: str, offset: int) -> int:
    return text.count("\n", 0, offset) + 1


def breaches(name: str, text: str):
    lines = text.count("\n")
    if lines >= MAX_LINES:
        yield f"{name}: {lines} lines, the limit is {MAX_LINES - 1}: split it by idea"
    for pattern, what in ((UNFINISHED, "marks unfinished work"), (MACHINE_PATH, "is a path of one machine")):
        for match in pattern.finditer(text):
            yield f"{name}:{line_of(text, match.start())}: '{match.group()}' {what}"
    parts = name.split("/")
    if parts[0] != "src" or len(parts) < 3:
        return
    layer = parts[1]
    if layer not in LAYERS:
        yield f"{name}: src/{layer} has no place in the order of layers (LAYERS in tools/check_layers.py)"
        return
    for match in INCLUDE.finditer(text):
        target = match.group(1).split("/")[0]
        where = f"{name}:{line_of(text, match.start())}"
        if not (ROOT / "src" / match.group(1)).is_file():
            yield f'{where}: "{match.group(1)}" is no path from src/'
        elif target != layer and target not in LAYERS[layer]:
            yield f'{where}: {layer} may not include "{match.group(1)}"'


def main() -> int:
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, check=True,
                            capture_output=True).stdout
    names = sorted(n for n in listed.decode().split("\0") if n and CODE.search("/" + n) and (ROOT / n).is_file())
    found = [b for n in names for b in breaches(n, (ROOT / n).read_text(encoding="utf-8"))]
    for breach in found:
        print(breach, file=sys.stderr)
    print(f"{len(names)} files, {len(found)} breaches")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
