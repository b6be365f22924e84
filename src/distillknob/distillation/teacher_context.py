"""What the teacher sees when it judges a student's tokens: the student's own prompt, or more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distillknob.errors import BadInputError
from distillknob.tasks import Example

Messages = list[dict[str, str]]
Context = Callable[[Messages, Example], Messages]

REFERENCE = "{prompt}\n\nHere is a reference solution:\n{solution}\n\nNow answer in your own words."


def reference(messages: Messages, example: Example) -> Messages:
    """The prompt with the task's own solution behind it, or where it has none its reference answer (privileged
    information, as in on-policy self-distillation, arXiv 2601.18734). Raises BadInputError where there is neither."""
    solution: Any = example.gold_solution if example.gold is not None else example.reference
    if not isinstance(solution, str | int | float) or not str(solution).strip():
        raise BadInputError(
            f"task {example.task!r} has neither a worked solution nor a plain reference answer for {example.prompt!r}: "
            "use context plain"
        )
    shown = REFERENCE.format(prompt=messages[-1]["content"], solution=solution)
    return [*messages[:-1], {**messages[-1], "content": shown}]


CONTEXTS: dict[str, Context | None] = {"plain": None, "reference": reference}
