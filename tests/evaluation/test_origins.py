"""An evaluation says which of its models was made here, and from what."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from distillknob.evaluation.config import EvaluateConfig
from distillknob.evaluation.origins import origin, pairs_of
from distillknob.evaluation.stage import evaluate
from distillknob.runs.run import Run
from pairs import Pair


def made(path: Path, stage: str, config: dict[str, Any], **result: Any) -> str:
    run = Run.open(path, stage, config)
    (path / "model").mkdir()
    run.finish({"stage": stage, **result})
    return str(path / "model")


@pytest.mark.parametrize(
    ("stage", "config", "wanted"),
    [
        ("distill", {"teacher": "t", "student": "s"}, ("student", "s", "t", None)),
        ("prune", {"model": "t"}, ("student", "t", "t", None)),
        ("calibrate", {"teacher": "t", "eta": 0.5}, ("teacher", "t", None, 0.5)),
        ("defend", {"teacher": "t"}, ("teacher", "t", None, None)),
    ],
)
def test_a_run_says_what_it_made_and_from_what(
    tmp_path: Path, stage: str, config: dict[str, Any], wanted: tuple[Any, ...]
) -> None:
    name = made(tmp_path / "run", stage, config)
    known = origin(name, [name])
    assert known is not None and known["run"] == str(tmp_path / "run") and known["stage"] == stage
    assert (known["role"], known["before"], known["teacher"], known["eta"]) == wanted


def test_a_student_of_a_cache_has_the_cache_s_teacher(tmp_path: Path) -> None:
    name = made(tmp_path / "run", "distill", {"teacher": "zoo:teacher", "student": "s"}, teacher="big", student="s")
    known = origin(name, [name])
    assert known is not None and known["teacher"] == "big"


def test_what_was_not_made_here_has_no_origin(tmp_path: Path, tiny_pair: Pair) -> None:
    (tmp_path / "model").mkdir()
    made(tmp_path / "scores", "evaluate", {"models": []})
    for name in (tiny_pair.student, "zoo:teacher", "org/model", "http://h/v1#m", f"{tmp_path}/model", "nowhere/model"):
        assert origin(name, [name]) is None
    assert origin(str(tmp_path / "scores" / "model"), []) is None


def test_a_model_is_called_by_its_name_among_the_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "s").mkdir()
    monkeypatch.chdir(tmp_path)
    name = made(tmp_path / "run", "distill", {"teacher": "elsewhere", "student": "./s"})
    for called in ("s", "./s", str(tmp_path / "s"), os.path.join("run", "..", "s")):
        known = origin(name, [called, name])
        assert known is not None and (known["before"], known["teacher"]) == (called, "elsewhere")
        assert pairs_of({called: None, name: known}) == [(called, name)]
    assert pairs_of({"elsewhere": None, name: known, "s": None}) == [("elsewhere", name)]


def test_a_student_is_compared_with_what_it_was_whatever_stands_first(tiny_pair: Pair, tmp_path: Path) -> None:
    before = tiny_pair.student
    run = Run.open(tmp_path / "run", "distill", {"teacher": tiny_pair.teacher, "student": before})
    os.symlink(tiny_pair.teacher, tmp_path / "run" / "model")
    run.finish({"stage": "distill"})
    name = str(tmp_path / "run" / "model")
    config = EvaluateConfig(models=[tiny_pair.teacher, name, before], tasks=["math"], problems=4, samples=2, k=2)
    result = evaluate(config, tmp_path / "scores").result
    assert [row["origin"] is not None for row in result["models"]] == [False, True, False]
    assert [(row["a"], row["b"]) for row in result["to_origins"]] == [(before, name), (tiny_pair.teacher, name)]
    scores = {row["model"]: row["tasks"][0]["score"] for row in result["models"]}
    assert result["to_origins"][0]["difference"] == pytest.approx(scores[name] - scores[before])
    first, second = result["examples"]
    assert first["prompt"] != second["prompt"] and len(first["answers"]) == 3
    assert any(answer["score"] < 1 for answer in first["answers"])
