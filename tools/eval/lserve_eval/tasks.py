"""All tasks by name, and groups of them."""
from . import tasks_count, tasks_needle, tasks_text, tasks_world
from .material import Material
from .sample import Task

GROUPS = {
    "niah": list(tasks_needle.NIAH),
    "ruler": [*tasks_needle.NIAH, "vt", "cwe", "fwe", "synthqa_1", "synthqa_2"],  # the two synthqa stand for SQuAD and HotpotQA
    "teacher": ["passkey_nll", "copy_nll", "perplexity"],
}


def all_tasks(material: Material) -> dict[str, Task]:
    listed = [t for module in (tasks_needle, tasks_count, tasks_world, tasks_text) for t in module.tasks(material)]
    return {task.name: task for task in listed}


def names(wanted: str, known) -> list[str]:
    """Names and groups, comma separated; "all"."""
    found: dict[str, None] = {}
    for name in wanted.split(","):
        for one in list(known) if name == "all" else GROUPS.get(name, [name]):
            if one not in known:
                raise ValueError(f"--tasks: {one} is none of {', '.join([*GROUPS, *known])}")
            found[one] = None
    return list(found)
