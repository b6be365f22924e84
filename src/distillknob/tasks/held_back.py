"""Problems of a task's train split that a training leaves alone, so that something can be measured on them."""

from __future__ import annotations

from distillknob.errors import BadInputError
from distillknob.tasks.base import Example, Task


def hold_back(task: Task, problems: int, held_back: int, seed: int, *, why: str) -> tuple[list[Example], list[Example]]:
    """Examples of the train split to train on, and others to measure on: `held_back`, or a fifth of what a small task
    has. Raises BadInputError where there is too little for both; `why` names what needs them, and the remedy."""
    examples = task.examples("train", problems + held_back, seed=seed)
    spare = len(examples) - problems
    held_out = min(held_back, max(spare, len(examples) // 5))
    if held_back and not held_out:
        raise BadInputError(f"task {task.name!r} has {len(examples)} train problems: at least 5 are needed {why}")
    return examples[: min(problems, len(examples) - held_out)], examples[len(examples) - held_out :]
