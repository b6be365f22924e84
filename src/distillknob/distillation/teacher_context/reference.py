"""The reference solution behind the prompt: privileged information, as in on-policy self-distillation (2601.18734)."""

from __future__ import annotations

from typing import Any, ClassVar

from distillknob.distillation.teacher_context.base import TEACHER_PROMPT, Context, Messages
from distillknob.errors import BadInputError
from distillknob.tasks import Example

REFERENCE = "{prompt}\n\nHere is a reference solution:\n{solution}\n\nNow answer in your own words."


class Reference(Context):
    """The prompt with the task's own solution behind it, or where it has none its reference answer."""

    informs: ClassVar[bool] = True

    def columns(self, messages: Messages, example: Example) -> dict[str, Messages]:
        """Raises BadInputError for an example that has neither."""
        shown = REFERENCE.format(prompt=messages[-1]["content"], solution=solution_of(example))
        return {TEACHER_PROMPT: [*messages[:-1], {**messages[-1], "content": shown}]}


def solution_of(example: Example) -> str:
    """The task's worked solution, or where it has none its reference answer. Raises BadInputError where there is
    neither."""
    solution: Any = example.gold_solution if example.gold is not None else example.reference
    if not isinstance(solution, str | int | float) or not str(solution).strip():
        raise BadInputError(
            f"task {example.task!r} has neither a worked solution nor a plain reference answer for {example.prompt!r}: "
            "use context plain"
        )
    return str(solution)
