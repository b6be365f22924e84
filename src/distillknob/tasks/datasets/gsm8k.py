"""GSM8K: grade-school word problems with worked solutions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distillknob.tasks.base import Example
from distillknob.tasks.card import Card
from distillknob.tasks.math_task import MathTask
from distillknob.tasks.rows.sources import Source, text_of

MARK = "####"  # stands before the final answer in a solution


class Gsm8k(MathTask):
    name = "gsm8k"
    source = Source("openai/gsm8k", ("question", "answer"), config="main", official={"train": "train", "test": "test"})
    max_new_tokens = 1024
    card = Card(
        data_set="openai/gsm8k, config main (arXiv 2110.14168)",
        asks="grade-school word problems; the answer is a number",
        licence="MIT",
        graded="math-verify on the final answer, exact",
        chance="0",
        splits=(
            "train and test, both official; the gold solution is the data set's own, calculator marks (<<…>>) included"
        ),
    )

    def example_of(self, row: Mapping[str, Any]) -> Example | None:
        question, solution = text_of(row, "question"), text_of(row, "answer")
        if question is None or solution is None or MARK not in solution:
            return None
        return self.problem(question, solution.rpartition(MARK)[2], solution)
