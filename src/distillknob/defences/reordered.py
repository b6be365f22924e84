"""Working that is told backwards: each conclusion before the steps that lead to it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from distillknob.defences.base import Wrapping
from distillknob.defences.sampled import Reworded, Written
from distillknob.models.base import LanguageModel
from distillknob.models.sampling import Sampler, Sampling
from distillknob.runs.journal import Journal
from distillknob.tasks import Task
from distillknob.tasks.answer_alone import answer_alone
from distillknob.tasks.graders.thoughts import between_marks

SENTENCE = re.compile(r"(?<=[.!?])\s+")
# A chain of equations, perhaps within a formula's marks, and no comparison.
EQUATION = re.compile(
    r"(?P<before>\s*(?:\$\$?|\\\[|\\\()?\s*)(?P<chain>[^=<>!]+(?:=[^=<>!]+?)+?)(?P<after>\s*(?:\$\$?|\\\]|\\\))?[.,;]?\s*)"
)
# Said to oneself: words before a sentence, and whole sentences.
HESITATION = re.compile(r"^(?:wait|h+m+|okay|ok|alright|all right|well|oh|ah|actually)\b[\s,.!…—-]*", re.IGNORECASE)
TO_ONESELF = re.compile(
    r"^(?:let me|let's|i(?:'ll| should| will| need to| have to)) (?:now )?(?:just )?"
    r"(?:think|see|check|double[- ]check|verify|re-?check|recall|try|start|go back)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Reordered(Wrapping):
    """Text with conclusions before their steps and without what a model says to itself (after PART, arXiv 2510.11545,
    by rules in place of its trained reformulator). The final answer stays at the end, as it was."""

    about: ClassVar[str] = "Puts each conclusion before its steps and takes out self-talk (by rule; arXiv 2510.11545)."

    def wrapped(self, teacher: LanguageModel, task: Task) -> Sampler:
        return Reworded(teacher, Backwards(task), f"{teacher.name}, conclusions first")


@dataclass(frozen=True)
class Backwards:
    """Reorders answers that commit to the same afterwards, and leaves the others."""

    task: Task

    def rewritten(self, answers: Sequence[Written], sampling: Sampling, journal: Journal) -> list[str]:
        return [conclusions_first(self.task, answer.text) for answer in answers]


def conclusions_first(task: Task, text: str) -> str:
    """The text with its working told backwards: of each line the last sentence first, of each equation what comes out.
    The ending that commits to the answer stays. A text that would then commit to another one is returned as it is."""
    answer = answer_alone(task, text)
    working = text[: len(text) - len(answer)]
    pieces = between_marks(working)
    pieces[::2] = ["".join(map(_line, piece.splitlines(keepends=True))) for piece in pieces[::2]]
    changed = "".join(pieces) + answer
    return changed if task.committed(changed) == task.committed(text) else text


def _line(line: str) -> str:
    body = line.strip()
    before, after = line[: len(line) - len(line.lstrip())], line[len(line.rstrip()) :]
    sentences = [part for part in map(_without_self_talk, SENTENCE.split(body)) if part]
    if not sentences:
        return line if not body else ""
    backwards = [_equation(sentence) for sentence in (sentences[-1], *sentences[:-1])]
    return before + " ".join(backwards) + after if body else line


def _without_self_talk(sentence: str) -> str:
    said = HESITATION.sub("", sentence)
    return "" if TO_ONESELF.match(said) else said


def _equation(sentence: str) -> str:
    match = EQUATION.fullmatch(sentence)
    if match is None:
        return sentence
    *steps, result = (part.strip() for part in match["chain"].split("="))
    return match["before"] + (" = " if " = " in match["chain"] else "=").join([result, *steps]) + match["after"]
