"""What a context is: what the teacher sees when it judges a student's tokens, beside the student's own prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from distillknob.distillation.options import MethodPart
from distillknob.tasks import Example

Messages = list[dict[str, str]]
TEACHER_PROMPT = "teacher_prompt"


@dataclass(frozen=True)
class Written:
    """What the student has just written: the rows of the data set, [b]; the completions' texts, [b]; their rewards by
    the task's grader, [b] in [0, 1] (None where the context doesn't grade). The samples of one prompt stand side by
    side, `num_generations` of them."""

    rows: Sequence[Mapping[str, Any]]
    texts: Sequence[str]
    rewards: Tensor | None
    num_generations: int


class Context(MethodPart):
    """What the teacher sees: it says so from the example (`columns`), or from what the student wrote (`shown`)."""

    late: ClassVar[bool] = False
    """Is it known only when the student has written (`shown`)?"""
    grades: ClassVar[bool] = False
    """Does `shown` read rewards?"""
    shows_samples: ClassVar[bool] = False
    """May a prompt hold an answer of the student's beside the one that is judged? The check of contexts counts it."""

    informs: ClassVar[bool] = False
    """Does it say how to answer, so that who reads it should be right more often?"""

    def columns(self, messages: Messages, example: Example) -> dict[str, Messages]:
        """The teacher's prompts by the names of their columns, which begin with `teacher_prompt`. A late context gives
        what `shown` will need, under other names, and none of these."""
        return {}

    def shown(self, written: Written) -> list[Messages | None]:
        """The teacher's prompt for each completion, [b]; None: there is nothing to show, and none of its tokens
        counts."""
        raise NotImplementedError

    def longest(self, messages: Messages, example: Example) -> Messages:
        """The longest of the prompts that it may show, for the check of contexts."""
        prompts = [shown for name, shown in self.columns(messages, example).items() if name.startswith(TEACHER_PROMPT)]
        return max(prompts, key=lambda shown: sum(len(one["content"]) for one in shown), default=messages)
