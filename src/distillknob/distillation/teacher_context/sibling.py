"""Another sample of the same prompt that was right, and word of how one's own did (SDPO): what a student found out by
itself becomes what its teacher sees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from distillknob.distillation.options import option
from distillknob.distillation.teacher_context.base import Context, Messages, Written
from distillknob.tasks import Example

if TYPE_CHECKING:
    from distillknob.distillation.options import Settings

SIBLING = "{prompt}\n\nAn answer to this that was right:\n{answer}{feedback}\n\nNow answer by yourself, and rightly."
FEEDBACK = "\n\nAn earlier attempt of yours was wrong."


@dataclass(frozen=True)
class Sibling(Context):
    """The prompt with the first right answer among the other samples of its group; of a sample that was wrong it says
    so. Where no other sample is right there is nothing to show: an answer is never its own demonstration."""

    success: float = option(0.5, "A reward of which on an answer is right, as a demonstration.", low=0.0, high=1.0)

    informs: ClassVar[bool] = True
    late: ClassVar[bool] = True
    grades: ClassVar[bool] = True
    shows_samples: ClassVar[bool] = True

    def shown(self, written: Written) -> list[Messages | None]:
        if written.rewards is None:
            raise ValueError("a sibling is chosen by its reward")
        right, size = [reward >= self.success for reward in written.rewards.tolist()], written.num_generations
        prompts: list[Messages | None] = []
        for b, row in enumerate(written.rows):
            group = range(b - b % size, b - b % size + size)
            other = next((i for i in group if i != b and right[i]), None)
            text = None if other is None else written.texts[other]
            prompts.append(None if text is None else _shown(row["prompt"], text, wrong=not right[b]))
        return prompts

    def longest(self, messages: Messages, example: Example) -> Messages:
        return _shown(messages, "", wrong=True)

    def why_not(self, settings: Settings) -> str | None:
        if (samples := settings.objective.num_generations) > 1:
            return None
        return (
            f"context sibling with num_generations={samples}: a sample without others of its prompt has none to learn "
            "from: set num_generations to 2 or more (8 is published)"
        )


def _shown(messages: Messages, answer: str, *, wrong: bool) -> Messages:
    shown = SIBLING.format(prompt=messages[-1]["content"], answer=answer, feedback=FEEDBACK if wrong else "")
    return [*messages[:-1], {**messages[-1], "content": shown}]
