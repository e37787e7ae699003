"""Writes tests/text/data/smollm2_goldens.json: texts and the ids that `tokenizers` gives for them.

usage: tokenizer_goldens.py      from anywhere, with the packages of tests/requirements.txt
"""

import json
import os
import random
import sys

import tokenizers

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "tests", "text"))

import tokenizer_texts  # noqa: E402

SPECIAL = [
    "<|im_start|>system\nYou are helpful.<|im_end|>\n<|im_start|>user\nHi!<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|", "a<|endoftext|>b", "<|im_start|><|im_start|>", "",
]  # fmt: skip


def main():
    tokenizer = tokenizers.Tokenizer.from_file(os.path.join(ROOT, "data/models/smollm2-135m-longctx/tokenizer.json"))
    texts = tokenizer_texts.PARAGRAPHS + SPECIAL + tokenizer_texts.random_strings(random.Random(7), 200)
    cases = [{"text": text, "ids": tokenizer.encode(text, add_special_tokens=False).ids} for text in texts]
    path = os.path.join(ROOT, "tests/text/data/smollm2_goldens.json")
    with open(path, "w", encoding="utf-8") as file:
        file.write("[\n" + ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases) + "\n]\n")
    print(f"{path}: {len(cases)} cases by tokenizers {tokenizers.__version__}")


if __name__ == "__main__":
    main()
