"""MMLU-Pro: questions of fourteen fields with up to ten choices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distillknob.tasks.base import Example
from distillknob.tasks.card import Card
from distillknob.tasks.choice_task import ChoiceTask
from distillknob.tasks.rows.sources import Source, text_of

_OPENING = "A: "  # of a worked solution, which goes on "Let's think step by step."


class MMLUPro(ChoiceTask):
    name = "mmlu_pro"
    source = Source(
        "TIGER-Lab/MMLU-Pro",
        ("question", "options", "answer_index", "cot_content"),
        official={"train": "validation", "test": "test"},
    )
    card = Card(
        data_set="TIGER-Lab/MMLU-Pro (arXiv 2406.01574)",
        asks="university knowledge and reasoning in fourteen fields, up to ten choices",
        licence="MIT",
        graded="the letter of the choice, exact",
        chance="a random letter on the test questions, about 0.11",
        splits=(
            "test is the official one; train is the official validation split, whose 70 questions have worked"
            " solutions (there is no official train split, and the test split is not cut up for one)"
        ),
    )

    def example_of(self, row: Mapping[str, Any]) -> Example | None:
        question, worked = text_of(row, "question"), text_of(row, "cot_content")
        if question is None or not isinstance(row["options"], list) or not isinstance(row["answer_index"], int):
            return None
        worked = None if worked is None else worked.removeprefix(_OPENING)
        return self.question(question, row["options"], row["answer_index"], worked)
