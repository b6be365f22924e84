"""Several views of one solution, each in a teacher's prompt of its own (AVSD, arXiv 2605.20643): the whole solution,
its first half without the answer, and the answer alone."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, ClassVar

from distillknob.distillation.teacher_context.base import TEACHER_PROMPT, Context, Messages
from distillknob.distillation.teacher_context.reference import REFERENCE
from distillknob.errors import BadInputError
from distillknob.tasks import Example
from distillknob.tasks.graders.committed import braced
from distillknob.tasks.graders.math_boxes import BOX

if TYPE_CHECKING:
    from distillknob.distillation.options import Settings

HALF_PROMPT, ANSWER_PROMPT = f"{TEACHER_PROMPT}_half", f"{TEACHER_PROMPT}_answer"
OTHER_VIEWS = (HALF_PROMPT, ANSWER_PROMPT)  # beside the whole solution, which stands in `teacher_prompt`

HALF = "{prompt}\n\nHere is how a solution begins; the rest is left out:\n{solution}\n\nNow answer in your own words."
ANSWER = "{prompt}\n\nThe right answer is: {solution}\n\nNow answer in your own words."


class Views(Context):
    """A prompt for each view."""

    informs: ClassVar[bool] = True

    def columns(self, messages: Messages, example: Example) -> dict[str, Messages]:
        """Raises BadInputError for an example without a worked solution, or without a plain answer."""
        answer = example.reference
        if example.gold is None or not isinstance(answer, str | int | float) or not str(answer).strip():
            raise BadInputError(
                f"task {example.task!r} has no worked solution with a plain answer for {example.prompt!r}, of which "
                "views could be made: use context reference or plain"
            )
        solution = example.gold_solution
        views = {
            TEACHER_PROMPT: (REFERENCE, solution),
            HALF_PROMPT: (HALF, first_half(solution)),
            ANSWER_PROMPT: (ANSWER, str(answer)),
        }
        return {name: _with(messages, form, text) for name, (form, text) in views.items()}

    def why_not(self, settings: Settings) -> str | None:
        loss = settings.objective.loss
        if loss in ("avsd", "avsd_vocabulary"):
            return None
        return (
            f"context views with the loss {loss}: it reads one teacher's prompt, and there are three: use context "
            "reference, or the losses avsd and avsd_vocabulary"
        )


def first_half(solution: str) -> str:
    """The first half of a solution's words, without what is boxed as the answer."""
    words = re.findall(r"\S+\s*", _without_boxes(solution))
    return "".join(words[: len(words) // 2]).rstrip()


def _without_boxes(solution: str) -> str:
    """The solution without its boxes, whatever braces stand in them; what follows a box that never ends goes, too."""
    box = BOX.search(solution)
    if box is None:
        return solution
    inside = braced(solution, box.end(), len(solution))
    behind = "" if inside is None else solution[box.end() + len(inside) + 1 :]
    return solution[: box.start()] + _without_boxes(behind)


def _with(messages: Messages, form: str, text: str) -> Messages:
    shown = form.format(prompt=messages[-1]["content"], solution=text)
    return [*messages[:-1], {**messages[-1], "content": shown}]
