"""Big-Math, levels 4 and 5: what the paper calibrates on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distillknob.tasks.base import Example
from distillknob.tasks.card import Card
from distillknob.tasks.math_task import MathTask
from distillknob.tasks.rows.sources import Source, text_of


def _card(level: int) -> Card:
    return Card(
        data_set=f"open-r1/Big-Math-RL-Verified-Processed, config level_{level} (Big-Math, arXiv 2502.17387)",
        asks=(f"mathematics from many sources, level {level} of 5 in difficulty; the answer is a LaTeX expression"),
        licence="see the data set's page; its sources have their own",
        graded="math-verify on the final answer",
        chance="0",
        splits="train and test by hash; no test problem of math-500 or gsm8k is trained on",
        reconstructed=(
            "the paper names the levels and not the copy. This one cuts Big-Math into levels by the solve "
            "rate of Llama-3.1-8B, 5 being the hardest. It has answers and no worked solutions, so sft_gold "
            "has nothing to train on"
        ),
    )


class _BigMath(MathTask):
    disjoint_from = ("math-500", "gsm8k")  # Big-Math takes problems from MATH and GSM8K

    def example_of(self, row: Mapping[str, Any]) -> Example | None:
        problem, answer = text_of(row, "prompt"), text_of(row, "solution")  # what it calls a solution is the answer
        return None if problem is None or answer is None else self.problem(problem, answer, None)


def _level(level: int) -> Source:
    hub_id = "open-r1/Big-Math-RL-Verified-Processed"
    return Source(hub_id, ("prompt", "solution"), config=f"level_{level}", by_hash="train")


class BigMath4(_BigMath):
    name = "bigmath-4"
    source = _level(4)
    card = _card(4)


class BigMath5(_BigMath):
    name = "bigmath-5"
    source = _level(5)
    card = _card(5)
