"""The record of a calibrated model says what it is to the stages that read its folder: `distillknob.json` beside the
weights.

Without it a student's run could not know that its "calibrated" teacher is the original, unchanged.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distillknob.results.schema import check_schema
from distillknob.results.stages import CalibrateResult, TeacherRecord
from distillknob.runs.files import read_json
from distillknob.runtime.processes import process_index
from distillknob.verdicts.teachers import is_original, signed, verdict_of
from distillknob.verdicts.turning import TURNED, UNCLEAR, WRONG, tasks_turned_wrong

RECORD = "distillknob.json"


def record_of(result: CalibrateResult, teacher: str, target: str) -> TeacherRecord:
    """Make the record of a calibrated model, from its run's result and the names of the models it was made from. Where
    the teacher was itself calibrated, its record lies within."""
    return {"teacher": teacher, "target": target, **_made(result), "teacher_record": read_record(teacher)}


def _made(result: CalibrateResult) -> TeacherRecord:
    return {
        "stage": result["stage"],
        "eta": result["eta"],
        "steps": result.get("steps"),
        "kept_step": result.get("kept_step"),
        "tolerance": result.get("tolerance"),
        "turned": result.get("turned"),
    }


def read_record(model: str) -> TeacherRecord | None:
    """Return the record in a model's folder, or what the run around it says; None for any other model."""
    folder = Path(model).expanduser()
    if (folder / RECORD).is_file():
        record: TeacherRecord = read_json(folder / RECORD)
        return record
    file = folder.parent / "result.json"
    if folder.name == "model" and folder.is_dir() and file.is_file():
        result = read_json(file)
        if result.get("stage") == "calibrate":
            check_schema(result, file)
            return _made(result)
    return None


def calibrated_as(record: TeacherRecord) -> str:
    """Tell how the model of this record was calibrated: `calibrated with η = −0.5 (turned)`."""
    return f"calibrated with η = {signed(float(record['eta']))} ({verdict_of(record)})"


def teacher_warning(model: str, record: TeacherRecord | None = None) -> str | None:
    """Return what to know of a calibrated teacher before students are trained on it: that it is the original, that
    nobody can tell whether its knob turned, or that it turned the wrong way. None where there is nothing to warn of.
    `record` is that of a teacher whose folder isn't there any more, as of a cache."""
    record = read_record(model) or record
    if record is None:
        return None
    turned: Mapping[str, Any] = record.get("turned") or {}
    eta = signed(float(record["eta"]))
    if is_original(record):
        why = (
            "its calibration kept step 0"
            if record.get("kept_step") == 0
            else turned.get("reason", "no weight of it changed")
        )
        if (earlier := record.get("teacher_record")) is not None:  # a calibration of what had been calibrated
            return (
                f"teacher {model!r} is {record.get('teacher')!r}, unchanged: {why} (η = {eta}). That one was "
                f"{calibrated_as(earlier)}, and its students show what that did"
            )
        return (
            f"teacher {model!r} is the original: {why} (η = {eta}), so its students show nothing of the knob. "
            "Calibrate again, or name the original itself"
        )
    verdict: Any = turned.get("verdict")
    wrong = tasks_turned_wrong(turned)
    if verdict in (None, TURNED) and not wrong:
        return None
    what = {
        UNCLEAR: "whether the knob turned can't be told",
        WRONG: "the knob turned the wrong way",
        TURNED: "the knob turned",
    }.get(verdict, "the knob did not turn")
    apart = f", but on {', '.join(wrong)} it turned the wrong way" if wrong else ""
    return f"teacher {model!r}, calibrated with η = {eta}: {what} ({turned.get('reason')}){apart}"


def warn_of_teacher(model: str, record: TeacherRecord | None = None) -> str | None:
    """Print `teacher_warning` on stderr, once for all processes, and return it."""
    warning = teacher_warning(model, record)
    if warning is not None and process_index() == 0:
        print(f"warning: {warning}", file=sys.stderr)
    return warning
