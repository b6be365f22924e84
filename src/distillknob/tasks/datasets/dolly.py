"""Dolly: instructions and responses that people wrote."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distillknob.tasks.base import Example
from distillknob.tasks.card import Card
from distillknob.tasks.reward_task import RewardTask
from distillknob.tasks.rows.sources import Source, text_of


class Dolly(RewardTask):
    name = "dolly"
    source = Source("databricks/databricks-dolly-15k", ("instruction", "context", "response"), by_hash="train")
    card = Card(
        data_set="databricks/databricks-dolly-15k",
        asks="open instructions of eight kinds, some with a text to work on",
        licence="CC BY-SA 3.0",
        graded=(
            "by a reward model, as the probability that the answer is preferred to the data set's response "
            "(?reward=CHECKPOINT or ?reward_url=http://…&reward=NAME; default Skywork/Skywork-"
            "Reward-V2-Llama-3.1-8B)"
        ),
        chance="0",
        splits="train and test by hash (the data set has one split); the gold solution is the response",
    )

    def example_of(self, row: Mapping[str, Any]) -> Example | None:
        instruction, context, response = (text_of(row, column) for column in self.source.columns)
        if instruction is None or response is None:
            return None
        return self.request(instruction if context is None else f"{instruction}\n\n{context}", response)
