"""The reference solution with the confidence that the completion states: a teacher that agrees with an edited sample.

Where a completion states none, the solution stands alone. Both come from one text, so that the value is the same in
what the student is trained on and in what the teacher has seen (CaOPD, arXiv 2604.16830).
"""

from __future__ import annotations

from typing import ClassVar

from distillknob.distillation.edits.confidence import NOTE, stated
from distillknob.distillation.teacher_context.base import Context, Messages, Written
from distillknob.distillation.teacher_context.reference import REFERENCE, solution_of
from distillknob.tasks import Example

SOLUTION = "solution"  # the column that `shown` reads


class ReferenceWithConfidence(Context):
    """The solution behind the prompt, and under it the confidence that stands in the completion."""

    late: ClassVar[bool] = True

    def columns(self, messages: Messages, example: Example) -> dict[str, Messages]:
        """Raises BadInputError for an example without a solution and without an answer."""
        return {SOLUTION: [{"role": "assistant", "content": solution_of(example)}]}

    def shown(self, written: Written) -> list[Messages | None]:
        return [
            with_solution(row["prompt"], row[SOLUTION][0]["content"], stated(text))
            for row, text in zip(written.rows, written.texts, strict=True)
        ]

    def longest(self, messages: Messages, example: Example) -> Messages:
        return with_solution(messages, solution_of(example), "Confidence: 0.00")


def with_solution(messages: Messages, solution: str, confidence: str | None) -> Messages:
    """The messages with the solution behind the last one, and a confidence where there is one."""
    shown = solution if confidence is None else f"{solution}\n{confidence}\n{NOTE}"
    content = REFERENCE.format(prompt=messages[-1]["content"], solution=shown)
    return [*messages[:-1], {**messages[-1], "content": content}]
