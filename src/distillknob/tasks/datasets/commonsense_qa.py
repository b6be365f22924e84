"""CommonsenseQA: questions of everyday knowledge with five choices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distillknob.tasks.base import Example
from distillknob.tasks.card import Card
from distillknob.tasks.choice_task import ChoiceTask
from distillknob.tasks.rows.sources import Source, text_of


class CommonsenseQA(ChoiceTask):
    name = "commonsense_qa"
    source = Source(
        "tau/commonsense_qa", ("question", "choices", "answerKey"), official={"train": "train", "test": "validation"}
    )
    max_new_tokens = 512
    card = Card(
        data_set="tau/commonsense_qa (arXiv 1811.00937)",
        asks="everyday knowledge, five choices",
        licence="MIT",
        graded="the letter of the choice, exact",
        chance="1/5",
        splits=(
            "train is the official one; test is the official validation split, since the answers of the "
            "official test split are not public"
        ),
    )

    def example_of(self, row: Mapping[str, Any]) -> Example | None:
        question, right, choices = text_of(row, "question"), text_of(row, "answerKey"), row["choices"]
        if question is None or not isinstance(choices, Mapping) or right not in (choices.get("label") or ()):
            return None
        return self.question(question, choices["text"], choices["label"].index(right))
