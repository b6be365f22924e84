"""Vicuna-bench: 80 open questions that chat models are compared on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from distillknob.tasks.base import Example
from distillknob.tasks.card import Card
from distillknob.tasks.reward_task import RewardTask
from distillknob.tasks.rows.sources import Source, text_of


class Vicuna(RewardTask):
    """From the hub, rows with an `instruction`; from a file, rows with `turns`, as FastChat ships them."""

    name = "vicuna"
    source = Source("zhengxuanzenwu/vicuna-eval-with-gpt4", ("instruction",), official={"test": "test"})
    card = Card(
        data_set=(
            "the 80 questions of Vicuna-bench (lmsys.org, 2023-03-30), on the hub as zhengxuanzenwu/vicuna-"
            "eval-with-gpt4; vicuna@question.jsonl reads FastChat's own file "
            "(fastchat/llm_judge/data/vicuna_bench/question.jsonl)"
        ),
        asks="open questions of nine kinds",
        licence="FastChat's is Apache-2.0",
        graded=(
            "by a reward model, sigmoid of the reward (there is no response to compare with), options as for dolly"
        ),
        chance="0",
        splits="test only (evaluation)",
        reconstructed="the paper doesn't say which copy it used, and the hub copy isn't the authors' own",
    )

    def wanted(self, available: Sequence[str]) -> tuple[str, ...]:
        return ("turns",) if "turns" in available else self.source.columns

    def example_of(self, row: Mapping[str, Any]) -> Example | None:
        turns = row.get("turns")
        question = text_of(row, "instruction") if not turns else str(turns[0]).strip() or None
        return None if question is None else self.request(question, None)
