"""An expert's answer to the same prompt as a demonstration: the context of self-distillation fine-tuning (SDFT,
arXiv 2601.19897)."""

from __future__ import annotations

from typing import ClassVar

from distillknob.distillation.teacher_context.base import TEACHER_PROMPT, Context, Messages
from distillknob.distillation.teacher_context.reference import solution_of
from distillknob.tasks import Example

DEMONSTRATION = (
    "{prompt}\n\nThis is how an expert answered:\n{demonstration}\n\nFollow the expert's way and give an answer of "
    "your own."
)


class Demonstration(Context):
    """The prompt with the data set's own answer behind it, as something to follow and not to check against."""

    informs: ClassVar[bool] = True

    def columns(self, messages: Messages, example: Example) -> dict[str, Messages]:
        """Raises BadInputError for an example without a worked solution or a plain reference answer."""
        shown = DEMONSTRATION.format(prompt=messages[-1]["content"], demonstration=solution_of(example))
        return {TEACHER_PROMPT: [*messages[:-1], {**messages[-1], "content": shown}]}
