"""The forecast of what distillation brings."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from distillknob.diagnosis.forecast import forecast_rows
from distillknob.diagnosis.samples import (
    OwnAnswers,
    StyledAnswers,
)


def habits(every_step: float, *, answers: int = 400, right: dict[str, float] | None = None) -> OwnAnswers:
    """Answers, four a problem, `every_step` of them in the easy way, each way as often right as `right` says."""
    generator = torch.Generator().manual_seed(3)
    easy = torch.rand(answers, generator=generator) < every_step
    styles = ["every_step" if one else "two_at_a_time" for one in easy.tolist()]
    chance = torch.tensor([(right or {"every_step": 0.8, "two_at_a_time": 0.2})[style] for style in styles])
    return OwnAnswers(
        task="planted",
        prompt_A=torch.arange(answers) // 4,
        right_A=torch.rand(answers, generator=generator) < chance,
        style_A=styles,
    )


def taught(every_step: float, answers: int = 200) -> StyledAnswers:
    drawn = (torch.rand(answers, generator=torch.Generator().manual_seed(4)) < every_step).tolist()
    return StyledAnswers(
        task="planted",
        prompt_A=torch.arange(answers) // 2,
        right_A=torch.ones(answers, dtype=torch.bool),
        style_A=["every_step" if one else "two_at_a_time" for one in drawn],
        student_logprob_A=torch.zeros(answers),
        teacher_logprob_A=torch.zeros(answers),
        log_habit={"every_step": math.log(0.5), "two_at_a_time": math.log(0.5)},
        teacher_log_habit={"every_step": math.log(0.5), "two_at_a_time": math.log(0.5)},
    )


def test_the_forecast_weights_what_the_student_can_do_by_the_teacher_s_habits() -> None:
    for habit, expected in ((1.0, 0.8), (0.0, 0.2), (0.5, 0.5)):
        (row,) = forecast_rows(habits(0.5), taught(habit))
        assert row["forecast"] == pytest.approx(expected, abs=0.06) and row["score"] == pytest.approx(0.5, abs=0.06)
        assert row["gain"] == pytest.approx(row["forecast"] - row["score"]) and row["n"] == 100
        assert row["interval"][0] < row["gain"] < row["interval"][1]


def test_a_way_that_the_student_has_never_written_is_beyond_it() -> None:
    (row,) = forecast_rows(habits(0.0), taught(1.0))
    assert row["forecast"] == 0.0


def test_without_named_ways_there_is_no_forecast() -> None:
    own, traces = habits(0.5), taught(0.5)
    unnamed = replace(own, style_A=["other"] * 400), replace(traces, style_A=["other"] * 200)
    assert forecast_rows(*unnamed) == []
