"""An evaluation's page is about what was made: a student against what it was, a teacher against the original."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from test_answers_on_top import Answers

from distillknob.report.page import build_report
from distillknob.runs.run import Run
from planted_results import HOSTILE, student
from planted_runs import Page

BEFORE, TAUGHT, TEACHER = "./student", "runs/gkd/model", "./teacher"


def model(name: str, score: float = 0.5, **origin: Any) -> dict[str, Any]:
    made = {"run": name.removesuffix("/model"), "stage": "distill", "role": "student", "eta": None, **origin}
    row: dict[str, Any] = {"model": name, "tasks": [{**student("original", "gkd", "math", score), "pass@1": score}]}
    return {**row, "origin": made if origin else None}


def change(a: str, b: str, low: float, high: float, *, same: bool = False) -> dict[str, Any]:
    return {"a": a, "b": b, "task": "math", "difference": (low + high) / 2, "interval": [low, high], "same": same}


def opened(path: Path, models: list[dict[str, Any]], to_origins: list[Any], differences: Sequence[Any] = ()) -> Answers:
    run = Run.open(path, "evaluate", {"tasks": ["math"], "problems": 200, "models": [row["model"] for row in models]})
    run.finish({"stage": "evaluate", "models": models, "differences": [*differences], "to_origins": to_origins})
    return Answers(build_report(run.path))


def student_page(path: Path, low: float, high: float, to_teacher: tuple[float, float] = (-0.5, -0.3)) -> Answers:
    models = [model(TEACHER, 0.8), model(BEFORE, 0.3), model(TAUGHT, 0.4, before=BEFORE, teacher=TEACHER)]
    changes = [change(BEFORE, TAUGHT, low, high), change(TEACHER, TAUGHT, *to_teacher)]
    # The first model is the teacher, and differs by far more than the student has learnt.
    return opened(path, models, changes, [change(TEACHER, BEFORE, -0.6, -0.4), change(TEACHER, TAUGHT, *to_teacher)])


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (0.05, 0.15, "Better than before"),
        (-0.15, -0.05, "Worse than before"),
        (-0.02, 0.07, "Can't tell whether it is better"),
    ],
)
def test_a_student_is_set_against_what_it_was_and_then_against_its_teacher(
    tmp_path: Path, low: float, high: float, word: str
) -> None:
    read = student_page(tmp_path / "run", low, high)
    assert next(iter(read.lines)) == "How good is the student?"
    first, second = read.lines["How good is the student?"]
    assert first.startswith(f"{word}: {TAUGHT} on math, against {BEFORE} before,")
    assert f"[{100 * low:+.1f}, {100 * high:+.1f}]" in first
    assert second.startswith(f"Below its teacher: {TAUGHT} on math, against {TEACHER},") and "-40.0 points" in second


@pytest.mark.parametrize(
    ("changes", "to_teacher", "step", "words"),
    [
        ((0.05, 0.15), (-0.5, -0.3), "See what is left", {"diagnose", f"--teacher={TEACHER}", f"--student={TAUGHT}"}),
        ((-0.02, 0.07), (-0.5, -0.3), "Find out why", {"diagnose", f"--teacher={TEACHER}", f"--student={BEFORE}"}),
        ((-0.2, -0.1), (-0.5, -0.3), "Find out why", {"diagnose", f"--teacher={TEACHER}", f"--student={BEFORE}"}),
        ((0.05, 0.15), (-0.1, 0.1), "Train it once more", {"distill", "--config=runs/gkd/config.yaml", "--seed=1"}),
    ],
)
def test_what_follows_is_about_the_student_and_nobody_teaches_his_child_s_parent(
    tmp_path: Path, changes: tuple[float, float], to_teacher: tuple[float, float], step: str, words: set[str]
) -> None:
    read = student_page(tmp_path / "run", *changes, to_teacher)
    assert read.of("What to do next?").startswith(step)
    following = read.under["What to do next?"][0]
    assert words <= set(shlex.split(following))
    assert f"--teacher={BEFORE}" not in following and f"--teacher={TAUGHT}" not in following


def test_several_students_stand_in_the_order_of_their_scores(tmp_path: Path) -> None:
    names = ["runs/a/model", "runs/b/model", "runs/c/model", "runs/d/model"]
    made = [model(name, 0.3 + 0.1 * n, before=BEFORE, teacher=TEACHER) for n, name in enumerate(names)]
    changes = [change(BEFORE, name, 0.01 * n, 0.02 + 0.01 * n) for n, name in enumerate(names)]
    read = opened(tmp_path / "run", [model(BEFORE, 0.3), *made], changes)
    lines = read.lines["How good are the students?"]
    assert [line.split(": ")[1].split()[0] for line in lines] == names[:0:-1]


def taught(path: Path, teacher: str, seed: int) -> dict[str, Any]:
    config = {"teacher": teacher, "student": BEFORE, "method": "gkd", "seed": seed}
    Run.open(path, "distill", config).finish({"stage": "distill", "method": "gkd"})
    return model(f"{path}/model", 0.5, run=str(path), before=BEFORE, teacher=teacher)


def test_each_student_is_trained_once_more_into_a_folder_of_its_own_and_all_are_scored_after(tmp_path: Path) -> None:
    made = [
        taught(tmp_path / "of-original", TEACHER, 0),
        taught(tmp_path / "of-easier", "./easier", 0),
        taught(tmp_path / "of-easier-seed1", "./easier", 1),
        taught(tmp_path / "demo" / "eta+0.5" / "distill-gkd", "./harder", 3),
    ]
    changes = [change(BEFORE, row["model"], 0.05, 0.15) for row in made]
    read = opened(tmp_path / "scores", [model(BEFORE, 0.3), *made], changes)
    *trainings, scores = [shlex.split(one) for one in read.under["What to do next?"]]
    at = {words[-1].removeprefix(f"{tmp_path}/"): words[1:-2] for words in trainings}
    assert at == {
        "of-original-seed1": ["distill", f"--config={tmp_path}/of-original/config.yaml", "--seed=1"],
        "of-easier-seed2": ["distill", f"--config={tmp_path}/of-easier/config.yaml", "--seed=2"],
        "demo-eta+0.5-distill-gkd-seed4": [
            "distill",
            f"--config={tmp_path}/demo/eta+0.5/distill-gkd/config.yaml",
            "--seed=4",
        ],
    }
    named = [BEFORE, *(row["model"] for row in made), *(f"{tmp_path}/{folder}/model" for folder in at)]
    assert scores[1] == "evaluate" and scores[3:-2] == ["--models", *named] and scores[-1] == f"{tmp_path}/scores-seeds"


def test_a_student_without_what_it_was_gets_the_command_that_asks_both(tmp_path: Path) -> None:
    read = opened(tmp_path / "run", [model(TAUGHT, 0.4, before=BEFORE, teacher=TEACHER)], [])
    told = read.of("How good is the student?")
    assert (
        told.startswith(f"Its score: {TAUGHT} on math, 40.0 %")
        and f"Better or not, nobody knows: {BEFORE}, which it was before, wasn't asked." in told
    )
    (again,) = read.under["How good is the student?"]
    assert f"--models {BEFORE} {TAUGHT}" in again and f"--config={tmp_path}/run/config.yaml" in again


def test_a_pruned_student_is_healed_by_the_whole_model(tmp_path: Path) -> None:
    made = model("runs/cut/model", 0.0, stage="prune", before=TEACHER, teacher=TEACHER)
    read = opened(tmp_path / "run", [model(TEACHER, 0.8), made], [change(TEACHER, "runs/cut/model", -0.9, -0.7)])
    lines = read.lines["How good is the student?"]
    assert lines[0].startswith("No answer is right: of runs/cut/model on math; see what it wrote.")
    assert lines[1].startswith("Worse than before: runs/cut/model") and len(lines) == 2
    (heal,) = read.under["What to do next?"]
    assert {"distill", f"--teacher={TEACHER}", "--student=runs/cut/model"} <= set(shlex.split(heal))


@pytest.mark.parametrize(
    ("stage", "eta", "low", "high", "word", "following"),
    [
        ("calibrate", 0.5, -0.01, 0.02, "It kept its score", "attack"),
        ("calibrate", 0.5, -0.03, 0.02, "It may have lost", "attack"),
        ("calibrate", -0.5, -0.05, -0.02, "It lost", "distill"),
        ("defend", None, -0.01, 0.02, "It kept its score", "attack"),
    ],
)
def test_a_teacher_is_set_against_the_original(
    tmp_path: Path, stage: str, eta: float | None, low: float, high: float, word: str, following: str
) -> None:
    turned = "runs/harder/model"
    made = model(turned, 0.8, stage=stage, role="teacher", eta=eta, before=TEACHER, teacher=None)
    read = opened(tmp_path / "run", [model(TEACHER, 0.8), made], [change(TEACHER, turned, low, high)])
    (line,) = read.lines["How good is the teacher?"]
    assert line.startswith(f"{word}: {turned} on math, against the original {TEACHER},")
    (step,) = map(shlex.split, read.under["What to do next?"])
    assert step[1] == following
    wanted = ["--defended", turned] if following == "attack" else [f"--teacher={turned}"]
    assert set(wanted) <= set(step) and (f"--teacher={TEACHER}" in step) == (following == "attack")


def test_beside_a_student_a_teacher_that_was_turned_is_no_subject(tmp_path: Path) -> None:
    turned = model("runs/easier/model", 0.9, stage="calibrate", role="teacher", eta=-0.5, before=TEACHER, teacher=None)
    taught = model(TAUGHT, 0.4, before=BEFORE, teacher="runs/easier/model")
    read = opened(tmp_path / "run", [turned, taught], [change("runs/easier/model", TAUGHT, -0.6, -0.4)])
    assert next(iter(read.lines)) == "How good is the student?"
    assert "Below its teacher" in read.of("How good is the student?")


@pytest.mark.parametrize(("low", "high", "better"), [(0.1, 0.3, "other"), (-0.3, -0.1, "first"), (-0.1, 0.1, None)])
def test_of_models_from_elsewhere_only_the_better_may_teach(
    tmp_path: Path, low: float, high: float, better: str | None
) -> None:
    read = opened(tmp_path / "run", [model("first"), model("other")], [], [change("first", "other", low, high)])
    assert next(iter(read.lines)) == "Which model is better?"
    (step,) = map(shlex.split, read.under["What to do next?"])
    if better is None:
        assert step[1] == "evaluate" and "--problems=400" in step
    else:
        assert step[1] == "diagnose" and f"--teacher={better}" in step


def test_a_result_of_before_knows_no_origins_and_hostile_names_are_text(tmp_path: Path) -> None:
    old = [{key: value for key, value in model(name).items() if key != "origin"} for name in ("one", "two")]
    assert next(iter(opened(tmp_path / "old", old, []).lines)) == "Which model is better?"
    nasty = model(HOSTILE, before="a; rm -rf ~", teacher=None)
    (again,) = opened(tmp_path / "nasty", [nasty], []).under["How good is the student?"]
    assert {"a; rm -rf ~", HOSTILE} <= set(shlex.split(again))


def test_what_models_wrote_is_shown_beside_what_was_expected(tmp_path: Path) -> None:
    answer = {"who": "one", "text": "The answer is 5.", "score": 0.0, "finished": True, "style": "other"}
    example = {"task": "math", "prompt": "2 + 2?", "reference": "4", "answers": [answer]}
    run = Run.open(tmp_path / "run", "evaluate", {"tasks": ["math"]})
    run.finish({"stage": "evaluate", "models": [model("one", 0.0)], "differences": [], "examples": [example]})
    page = build_report(run.path)
    read = Answers(page)
    assert "No answer is right: of one on math; see what it wrote." in read.of("Which model is better?")
    assert "samples" in read.links
    shown = Page(page).text
    assert "2 + 2?" in shown and "The answer is 5." in shown and "Reference" in shown
