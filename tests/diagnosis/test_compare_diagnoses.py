"""Diagnoses set beside each other, problem by problem."""

from __future__ import annotations

from pathlib import Path

import pytest

from diagnosed import config
from distillknob.diagnosis import diagnose
from distillknob.diagnosis.compare import BY_PROMPT, compare
from distillknob.errors import BadInputError
from distillknob.runs.files import read_json
from pairs import Pair


def test_two_diagnoses_are_compared_problem_by_problem(tiny_pair: Pair, tmp_path: Path) -> None:
    values = {"tasks": ["math"], "problems": 8}
    diagnose(config(tiny_pair, **values), tmp_path / "before")
    diagnose(config(tiny_pair, **values, teacher=tiny_pair.student), tmp_path / "after")
    compared = compare([tmp_path / "before", tmp_path / "after", tmp_path / "before"])
    assert [run["teacher"] for run in compared["runs"]] == [tiny_pair.teacher, tiny_pair.student, tiny_pair.teacher]
    before, after, again = (row for row in compared["rows"] if row["measure"] == "token_reverse_kl_on_policy")
    assert before["difference"] is None and before["value"] > 0 and before["n"] == 8
    assert after["value"] == 0.0 and after["difference"] == pytest.approx(-before["value"])
    assert after["interval"][0] <= after["difference"] <= after["interval"][1]
    assert again["difference"] == 0.0
    table = read_json(tmp_path / "before" / BY_PROMPT)
    own = next(row for row in table if row["measure"] == "token_reverse_kl_on_policy")
    assert own["prompt"] == list(range(8)) and sum(own["value"]) / 8 == pytest.approx(before["value"])


def test_what_cannot_be_compared_is_told(tiny_pair: Pair, tmp_path: Path) -> None:
    diagnose(config(tiny_pair, tasks=["math"], gradient_problems=0), tmp_path / "one")
    diagnose(config(tiny_pair, tasks=["math"], gradient_problems=0, seed=7), tmp_path / "seven")
    for paths, message in (
        ([tmp_path / "one"], "got 1 run"),
        ([tmp_path / "one", tmp_path / "seven"], "seed=7, .* with 0"),
        ([tmp_path / "one", tmp_path / "none"], "no run directory"),
    ):
        with pytest.raises(BadInputError, match=message):
            compare(paths)
    (tmp_path / "one" / BY_PROMPT).unlink()
    with pytest.raises(BadInputError, match="older distillknob"):
        compare([tmp_path / "one", tmp_path / "one"])
