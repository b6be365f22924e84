"""SuperGPQA: graduate questions of 285 disciplines with up to ten choices."""

from __future__ import annotations

from collections.abc import Mapping
from string import ascii_uppercase
from typing import Any

from distillknob.tasks.base import Example
from distillknob.tasks.card import Card
from distillknob.tasks.choice_task import ChoiceTask
from distillknob.tasks.rows.sources import Source, text_of


class SuperGPQA(ChoiceTask):
    name = "supergpqa"
    source = Source("m-a-p/SuperGPQA", ("question", "options", "answer_letter"), by_hash="train")
    card = Card(
        data_set="m-a-p/SuperGPQA (arXiv 2502.14739)",
        asks="graduate knowledge in 285 disciplines, up to ten choices",
        licence="ODC-BY",
        graded="the letter of the choice, exact",
        chance="a random letter on the test questions, about 0.1",
        splits="train and test by hash (the data set has one split, which it calls train)",
    )

    def example_of(self, row: Mapping[str, Any]) -> Example | None:
        question, letter = text_of(row, "question"), text_of(row, "answer_letter")
        if question is None or letter is None or len(letter) != 1 or not isinstance(row["options"], list):
            return None
        return self.question(question, row["options"], ascii_uppercase.find(letter))
