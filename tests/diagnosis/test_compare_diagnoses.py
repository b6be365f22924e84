"""Diagnoses set beside each other, problem by problem."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from diagnosed import config
from distillknob.diagnosis.compare import BY_PROMPT, compare_diagnoses
from distillknob.diagnosis.stage import diagnose
from distillknob.errors import BadInputError
from distillknob.runs.files import read_json
from pairs import Pair


def test_two_diagnoses_are_compared_problem_by_problem(tiny_pair: Pair, tmp_path: Path) -> None:
    values = {"tasks": ["math"], "problems": 8}
    diagnose(config(tiny_pair, **values), tmp_path / "before")
    diagnose(config(tiny_pair, **values, teacher=tiny_pair.student), tmp_path / "after")
    compared = compare_diagnoses([tmp_path / "before", tmp_path / "after", tmp_path / "before"])
    assert [run["teacher"] for run in compared["runs"]] == [tiny_pair.teacher, tiny_pair.student, tiny_pair.teacher]
    before, after, again = (row for row in compared["rows"] if row["measure"] == "token_reverse_kl_on_policy")
    assert before["difference"] is None and before["value"] > 0 and before["n"] == 8
    assert after["value"] == 0.0 and after["difference"] == pytest.approx(-before["value"])
    assert after["interval"][0] <= after["difference"] <= after["interval"][1]
    assert again["difference"] == 0.0
    table = read_json(tmp_path / "before" / BY_PROMPT)
    own = next(row for row in table if row["measure"] == "token_reverse_kl_on_policy")
    assert own["prompt"] == list(range(8)) and sum(own["value"]) / 8 == pytest.approx(before["value"])


def test_problems_of_another_file_by_the_same_name_are_not_paired(
    tiny_pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    values = {"tasks": ["jsonl:problems.jsonl"], "problems": 4, "gradient_problems": 0, "max_new_tokens": 12}
    for name, start in (("before", 0), ("after", 100)):
        rows = [{"prompt": f"What is {n} + 1?", "reference": str(n + 1)} for n in range(start, start + 40)]
        Path("problems.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        diagnose(config(tiny_pair, **values), tmp_path / name)
    with pytest.raises(
        BadInputError, match=r"read something else by the same name \(.*problems.jsonl.*can't be paired"
    ):
        compare_diagnoses([tmp_path / "before", tmp_path / "after"])
    assert compare_diagnoses([tmp_path / "after", tmp_path / "after"])["rows"]


def test_what_cannot_be_compared_is_told(tiny_pair: Pair, tmp_path: Path) -> None:
    diagnose(config(tiny_pair, tasks=["math"], gradient_problems=0), tmp_path / "one")
    diagnose(config(tiny_pair, tasks=["math"], gradient_problems=0, seed=7), tmp_path / "seven")
    for paths, message in (
        ([tmp_path / "one"], "got 1 run"),
        ([tmp_path / "one", tmp_path / "seven"], "seed=7, .* with 0"),
        ([tmp_path / "one", tmp_path / "none"], "no run directory"),
    ):
        with pytest.raises(BadInputError, match=message):
            compare_diagnoses(paths)
    (tmp_path / "one" / BY_PROMPT).unlink()
    with pytest.raises(BadInputError, match="older distillknob"):
        compare_diagnoses([tmp_path / "one", tmp_path / "one"])
