"""What the mathematics tasks have in common: how they ask, and how an answer is graded."""

from __future__ import annotations

from typing import Any

from distillknob.tasks.base import Example
from distillknob.tasks.graders.mathematics import final_answer, is_correct
from distillknob.tasks.rows.task import RowsTask

ASK = "{problem}\n\nPlease reason step by step, and put your final answer within \\boxed{{}}."


class MathTask(RowsTask):
    """Base class. A subclass's `example_of` returns `self.problem(…)`. Reference: the data set's answer."""

    def problem(self, problem: str, answer: str | float, solution: str | None) -> Example:
        """An example with the question put as `ASK` puts it; without a `solution` it has no gold one."""
        return Example(
            task=self.name,
            key=problem,
            prompt=ASK.format(problem=problem),
            reference=str(answer).strip(),
            solutions={} if solution is None else {"given": solution},
            gold=None if solution is None else "given",
        )

    def grade(self, completion: str, reference: Any) -> float:
        return float(is_correct(completion, str(reference)))

    def committed(self, completion: str) -> str | None:
        return final_answer(completion)
