"""Whether the student's own answer was right, told to the teacher at the end of the prompt (TT-OPD, 2605.02943).

The hint stands in the prompt alone, so that no token of it is compared. Its wording is ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from distillknob.distillation.teacher_context.base import Context, Messages, Written

RIGHT = 0.5  # the reward from which an answer is called right
CONFIRM = "\n\n(An answer to this was tried before, and it was right. It begins as follows.)"
CORRECT = "\n\n(An answer to this was tried before, and it was wrong. Answer correctly.)"


@dataclass(frozen=True)
class OutcomeHint(Context):
    """The prompt with `confirm` behind it where the rollout's own reward says that it is right, else `correct`."""

    confirm: str = CONFIRM
    correct: str = CORRECT

    late: ClassVar[bool] = True
    grades: ClassVar[bool] = True

    def shown(self, written: Written) -> list[Messages | None]:
        if written.rewards is None:
            raise ValueError("an outcome hint is made from rewards")
        rewards = written.rewards.tolist()
        return [
            hinted(row["prompt"], self.confirm if reward >= RIGHT else self.correct)
            for row, reward in zip(written.rows, rewards, strict=True)
        ]

    def longest(self, messages: Messages, example: object) -> Messages:
        return hinted(messages, max(self.confirm, self.correct, key=len))


def hinted(messages: Messages, hint: str) -> Messages:
    """The messages with a hint at the end of the last one."""
    return [*messages[:-1], {**messages[-1], "content": messages[-1]["content"] + hint}]
