"""Cutting the working off an answer: what an interface that shows final answers alone would return."""

from __future__ import annotations

import re
from collections.abc import Iterable

from distillknob.tasks.base import Task


def answer_alone(task: Task, text: str) -> str:
    """The ending of an answer that commits to the same final answer, by `task.committed`, without the working.

    It has the fewest lines that do, and of the first of them the fewest words. A text that commits to nothing has no
    answer, so that nothing of it remains; where the whole text is the answer, as in open tasks, all of it does.
    """
    answer = task.committed(text)
    if answer is None:
        return ""

    def last(starts: Iterable[int]) -> int | None:
        """The last of the places, in order, from which on the text commits to the answer."""
        return next((start for start in reversed(list(starts)) if task.committed(text[start:]) == answer), None)

    line = last(match.start() for match in re.finditer(r"^", text, re.MULTILINE)) or 0
    end = text.find("\n", line)
    word = last(match.start() for match in re.compile(r"\S+").finditer(text, line, len(text) if end < 0 else end))
    return text[line if word is None else word :]
