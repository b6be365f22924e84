"""The rules of what may be said of a teacher, on planted figures."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from distillknob.results.stages import CalibrateResult
from distillknob.runs.files import json_bytes
from distillknob.runs.model_record import RECORD, record_of, teacher_warning
from distillknob.verdicts.claims import student_claim
from distillknob.verdicts.teachers import is_original, teacher_label, unturned
from distillknob.verdicts.turning import turned_text, turning, turning_of_tasks

BEFORE = [3.0, 2.0, 4.0, 3.5, 2.5]


def moved(by: float, *noise: float) -> list[float | None]:
    return [value + by + extra for value, extra in zip(BEFORE, noise or (0.1, -0.1, 0.05, 0.0, -0.05), strict=True)]


@pytest.mark.parametrize(
    ("eta", "by", "verdict"),
    [
        (-0.5, -1.0, "turned"),
        (0.5, 1.0, "turned"),
        (-0.5, 1.0, "the wrong way"),
        (0.5, -1.0, "the wrong way"),
        (-0.5, 0.0, "can't tell"),
        (0.5, 0.0, "can't tell"),
    ],
)
def test_the_verdict_follows_the_interval_and_the_sign_of_eta(eta: float, by: float, verdict: str) -> None:
    found = turning(BEFORE, moved(by), eta=eta)
    assert found.verdict == verdict and found.interval is not None and found.problems == 5
    assert found.difference == pytest.approx(by) and found.before == pytest.approx(3.0)
    assert (found.interval[0] > 0 or found.interval[1] < 0) == (verdict != "can't tell")
    assert f"95 % interval {found.interval[0]:+.2f}" in turned_text(found.as_row())


def test_the_original_itself_differs_by_exactly_nothing() -> None:
    found = turning(BEFORE, BEFORE, eta=0.25, same="the calibration kept step 0")
    assert (found.verdict, found.difference, found.interval, found.same) == ("not at all", 0.0, None, True)
    assert turned_text(found.as_row()) == "The knob did not turn: the calibration kept step 0."


def test_a_calibration_at_eta_0_turns_nothing_though_the_log_ratio_may_move() -> None:
    found = turning(BEFORE, moved(-1.0), eta=0.0)
    assert found.verdict == "not at all" and "on its tasks alone" in found.reason and not found.same
    assert found.difference == pytest.approx(-1.0)


def test_problems_without_such_samples_on_both_sides_are_left_out() -> None:
    found = turning([3.0, None, 4.0, 5.0], [2.0, 1.0, None, 3.9], eta=-0.5)
    assert found.problems == 2 and found.before == 4.0 and found.after == 2.95
    nothing = turning([None, 1.0], [1.0, None], eta=-0.5)
    assert (nothing.verdict, nothing.difference, nothing.problems) == ("can't tell", None, 0)
    assert "no held-out problem has right and finished samples on both sides" in nothing.reason
    one = turning([3.0], [1.0], eta=-0.5, unit="nats a token", gated=False)
    assert (one.verdict, one.interval, one.unit, one.over) == ("can't tell", None, "nats a token", "all samples")


def test_a_knob_that_turns_two_tasks_opposite_ways_is_told_by_task() -> None:
    before, after = {"math": BEFORE, "qa": BEFORE}, {"math": moved(3.0), "qa": moved(-0.3)}
    found = turning_of_tasks(before, after, eta=0.5)
    assert (found.verdict, found.problems) == ("turned", 10) and found.difference == pytest.approx(1.35)
    assert {name: one.verdict for name, one in found.tasks.items()} == {"math": "turned", "qa": "the wrong way"}
    plain = json.loads(json_bytes(found.as_row()))
    assert [(row["task"], row["difference"]) for row in plain["tasks"]] == [
        ("math", pytest.approx(3.0)),
        ("qa", pytest.approx(-0.3)),
    ]
    assert "By task: math turned (+3.00, 95 % interval" in turned_text(plain)
    assert "qa the wrong way (-0.30, 95 % interval" in turned_text(plain)
    made = {"kept_step": 9, "turned": plain}
    (line,) = unturned([{"label": teacher_label(0.5, made), "calibration": made}])
    assert (
        line == "η = +0.5 (turned): the log-ratio to the target rose, as it should, but on qa it turned the wrong way."
    )
    assert turning_of_tasks({"math": BEFORE}, {"math": moved(1.0)}, eta=0.5).tasks == {}


@pytest.mark.parametrize("value", [float("-inf"), float("nan")])
def test_a_log_ratio_that_is_not_finite_is_no_verdict(value: float) -> None:
    found = turning(BEFORE, [value, *moved(1.0)[1:]], eta=0.5)
    assert (found.verdict, found.difference, found.interval) == ("can't tell", None, None)
    assert "isn't finite on 1 of 5 held-out problems" in turned_text(json.loads(json_bytes(found.as_row())))


def calibration(verdict: str | None, step: int = 9, *, same: bool = False) -> dict[str, Any]:
    turned = {} if verdict is None else {"turned": {"verdict": verdict, "same": same}}
    return {"kept_step": step, **turned}


@pytest.mark.parametrize(
    ("eta", "made", "label"),
    [
        (0, None, "original"),
        (-0.5, calibration("turned"), "η = −0.5 (turned)"),
        (0.25, calibration("can't tell"), "η = +0.25 (can't tell whether it turned)"),
        (0.25, calibration("the wrong way"), "η = +0.25 (turned the wrong way)"),
        (0.25, calibration("not at all", 0, same=True), "η = +0.25 (not calibrated: it is the original)"),
        (0, calibration("not at all"), "η = 0 (the task alone)"),
        (0.5, calibration(None), "η = +0.5 (whether it turned was not measured)"),
        (0.5, calibration(None, 0), "η = +0.5 (not calibrated: it is the original)"),
    ],
)
def test_a_teacher_is_called_by_its_eta_and_its_verdict(eta: float, made: dict[str, Any] | None, label: str) -> None:
    assert teacher_label(eta, made) == label
    assert is_original(made) == ("original" in label)


def claim(gkd: tuple[float, float], sft: tuple[float, float], kept: list[float] | None, **made: Any) -> Any:
    """A teacher whose students score (pass@1, difference to the original's), each difference ± 5 points."""
    teacher = {"calibration": calibration("turned", **made), "difference_interval": kept}
    both = {"gkd": gkd, "sft": sft}
    students = [{"method": "none", "pass@1": 0.9}, *({"method": m, "pass@1": v[0]} for m, v in both.items())]
    gaps = [{"method": m, "difference": d, "interval": [d - 0.05, d + 0.05]} for m, (_, d) in both.items()]
    return student_claim("math", teacher, students, gaps)


HELD = [-0.01, 0.01]


def test_undistillable_is_said_only_where_the_best_student_falls_and_the_teacher_holds() -> None:
    said = claim((0.3, -0.2), (0.2, -0.3), HELD)
    assert (said.word, said.method, said.methods) == ("undistillable", "gkd", ("gkd", "sft"))
    assert "undistillable by gkd, sft: its best student, by gkd, scores 30.0 %" in said.text("η = +0.5 (turned)")
    assert claim((0.8, 0.2), (0.7, 0.3), HELD).word == "distillable"
    # The weaker way to copy it falls, the stronger one doesn't.
    assert claim((0.5, 0.0), (0.2, -0.3), HELD).word is None
    assert claim((0.3, -0.04), (0.2, -0.3), HELD).word is None
    other = claim((0.5, -0.2), (0.2, 0.3), HELD)
    assert other.word is None and "but that by sft differs the other way" in other.why
    # A teacher that lost its own score protects nothing.
    lost = claim((0.3, -0.2), (0.2, -0.3), [-0.06, -0.02])
    assert lost.word is None and "may have lost more than 1.5 points" in lost.why
    assert claim((0.3, -0.2), (0.2, -0.3), None).word is None


def test_neither_word_is_said_of_the_original_or_without_students() -> None:
    assert "is the original" in claim((0.3, -0.2), (0.2, -0.3), HELD, step=0, same=True).why
    alone = student_claim("math", {"calibration": calibration("turned"), "difference_interval": HELD}, [], [])
    assert alone.word is None and "no student stands beside" in alone.why


def calibrated(eta: float, kept_step: int) -> CalibrateResult:
    """The result of a calibration that turned; of one that kept the original where `kept_step` is 0."""
    same = None if kept_step else "the calibration kept step 0"
    return {
        "stage": "calibrate",
        "eta": eta,
        "outcome": "finished",
        "reason": None,
        "steps": 9,
        "kept_step": kept_step,
        "turned": turning(BEFORE, moved(math.copysign(1.0, eta)), eta=eta, same=same).as_row(),
        "final_beta": 0.1,
        "anchor_kl": 0.01,
        "log_ratio": 3.0,
        "guard": [],
        "events": [],
    }


def test_a_calibration_of_a_calibrated_teacher_that_changed_nothing_names_that_one(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder, result, teacher in (
        (first, calibrated(-0.5, 9), "./plain"),
        (second, calibrated(0.25, 0), str(first)),
    ):
        folder.mkdir()
        (folder / RECORD).write_text(json.dumps(record_of(result, teacher, "./target")))
    assert teacher_warning(str(first)) is None
    warning = str(teacher_warning(str(second)))
    assert f"{str(first)!r}, unchanged: its calibration kept step 0 (η = +0.25)" in warning
    assert "That one was calibrated with η = −0.5 (turned)" in warning and "original" not in warning
    # A cache's teacher may be gone, and its record lies in the cache.
    assert teacher_warning("./gone", record_of(calibrated(0.5, 0), "./plain", "./target")) is not None
