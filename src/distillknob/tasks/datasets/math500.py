"""MATH-500: the 500 problems of MATH on which models are compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distillknob.tasks.base import Example
from distillknob.tasks.card import Card
from distillknob.tasks.math_task import MathTask
from distillknob.tasks.rows.sources import Source, text_of


class Math500(MathTask):
    name = "math-500"
    source = Source("HuggingFaceH4/MATH-500", ("problem", "answer", "solution"), official={"test": "test"})
    card = Card(
        data_set="HuggingFaceH4/MATH-500, 500 test problems of MATH (arXiv 2103.03874, chosen in arXiv 2305.20050)",
        asks="competition mathematics; the answer is a LaTeX expression",
        licence="MATH's is MIT",
        graded="math-verify on the final answer",
        chance="0",
        splits="test only (evaluation)",
    )

    def example_of(self, row: Mapping[str, Any]) -> Example | None:
        problem, answer = text_of(row, "problem"), text_of(row, "answer")
        if problem is None or answer is None:
            return None
        return self.problem(problem, answer, text_of(row, "solution"))
