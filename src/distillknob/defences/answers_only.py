"""Answers without working: what an interface gives out that shows neither thoughts nor steps."""

from __future__ import annotations

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


@dataclass(frozen=True)
class AnswersOnly(Wrapping):
    """The final answer alone (removal of the chain of thought, arXiv 2603.07835). Where the whole text is the answer,
    as in open tasks, it changes nothing."""

    about: ClassVar[str] = "Gives out the final answer alone, without thoughts and working (arXiv 2603.07835)."

    def wrapped(self, teacher: LanguageModel, task: Task) -> Sampler:
        return Reworded(teacher, Alone(task), f"{teacher.name}, answers only")


@dataclass(frozen=True)
class Alone:
    """Cuts answers down to what they commit to. Of one that commits to nothing, nothing remains."""

    task: Task

    def rewritten(self, answers: Sequence[Written], sampling: Sampling, journal: Journal) -> list[str]:
        return [answer.outside_of_thoughts(answer_alone(self.task, answer.said)) for answer in answers]
