"""What stands on top of a page comes from the data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from distillknob.report.page import build_report
from distillknob.verdicts.teachers import teacher_label
from distillknob.verdicts.turning import turning
from planted_results import calibration, demo_result
from planted_runs import Page, distill_run, write_run


def test_key_figures_and_takeaways_come_from_the_data(tmp_path: Path) -> None:
    def told(change: Callable[[dict[str, Any]], None]) -> str:
        result = demo_result()
        change(result)
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        text = Page(build_report(write_run(folder, "demo", result))).text
        return (
            text.replace("\N{NO-BREAK SPACE}", " ")
            .replace("\N{NARROW NO-BREAK SPACE}", "")
            .replace("\N{MINUS SIGN}", "-")
        )

    plain = told(lambda result: None)
    assert "math: original teacher99.0 %[" in plain and "math: student of η = -0.5 (turned)80.0 %" in plain
    assert plain[plain.index("math: original teacher99.0 %") :].index("500 problems, 8000 samples") < 80
    assert "math, η = +0.5 (turned): undistillable by gkd: its best student, by gkd, scores 21.0 %" in plain
    assert "math, η = -0.5 (turned): distillable by gkd" in plain
    assert "The 7 distilled students had the same budget: 1240000 tokens, 300 steps, learning rate 0.001." in plain

    def worse(result: dict[str, Any]) -> None:
        result["differences"][0] |= {"difference": 0.02, "interval": [-0.03, 0.07]}
        result["students"][-2]["steps"] = 200

    other = told(worse)
    assert "η = -0.5 (turned): neither distillable nor undistillable is shown by gkd" in other
    assert "did not all have the same budget: they differ in steps" in other


def test_a_demo_whose_calibrated_teacher_is_the_original_says_so_on_top(tmp_path: Path) -> None:
    result = demo_result()
    same = {**calibration(0.5), "kept_step": 0, "turned": turning([1.0], [1.0], eta=0.5, same="step 0").as_row()}
    label = teacher_label(0.5, same)
    for name in ("teachers", "students", "differences", "gains"):
        for row in result[name]:
            if "eta+0.5" in (row.get("teacher"), row.get("b")):
                row |= {"label": label, "same": name != "students"}
                row |= {"calibration": same} if name == "teachers" else {}
    text = Page(build_report(write_run(tmp_path / "demo", "demo", result))).text
    top = text[: text.index("At a glance")]
    assert "it is the original)" in top and "its calibration changed nothing" in top and "undistillable by" not in top


def test_a_student_s_page_begins_with_what_is_to_be_known_of_its_teacher(tmp_path: Path) -> None:
    record = {"eta": 0.25, "target": "./the-target"}
    warning = "teacher 'x/model' is the original: its calibration kept step 0"
    result = {
        "stage": "distill",
        "method": "sft",
        "warning": warning,
        "teacher_record": record,
        "notes": ["A <b> moved."],
    }
    path = write_run(tmp_path / "distill", "distill", result)
    told = Page(build_report(path)).text
    assert told.index("Teacher 'x/model' is the original: its calibration kept step 0.A <b> moved.") < told.index(
        "At a glance"
    )
    assert "Calibration target./the-target" in " ".join(told.split())
    plain = " ".join(Page(build_report(distill_run(tmp_path / "plain", "gkd", 0.7))).text.split())
    assert "the original" not in plain and "Calibration target–" in plain
