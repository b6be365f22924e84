"""What a calibrated model's folder says of itself to the stages that read it: `distillknob.json` beside the weights.

Without it a student's run could not know that its "calibrated" teacher is the original, unchanged.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distillknob.files import read_json
from distillknob.processes import process_index
from distillknob.verdicts import TURNED, UNCLEAR, WRONG, is_original, signed

RECORD = "distillknob.json"
_FIELDS = ("stage", "eta", "steps", "kept_step", "tolerance", "turned")


def record_of(result: Mapping[str, Any], teacher: str, target: str) -> dict[str, Any]:
    """The record of a calibrated model, from its run's result and the names of the models it was made from."""
    return {"teacher": teacher, "target": target, **{name: result.get(name) for name in _FIELDS}}


def read_record(model: str) -> dict[str, Any] | None:
    """The record in a model's folder, or what the result of the run around it says; None for any other model."""
    folder = Path(model)
    if (folder / RECORD).is_file():
        record: dict[str, Any] = read_json(folder / RECORD)
        return record
    result = folder.parent / "result.json"
    if folder.name == "model" and folder.is_dir() and result.is_file():
        made = read_json(result)
        if made.get("stage") == "calibrate":
            return {name: made.get(name) for name in _FIELDS}
    return None


def teacher_warning(model: str) -> str | None:
    """What to know of a calibrated teacher before students are trained on it: that it is the original, that nobody can
    tell whether its knob turned, or that it turned the wrong way. None where there is nothing to warn of."""
    record = read_record(model)
    if record is None:
        return None
    turned = record.get("turned") or {}
    eta = signed(float(record["eta"]))
    if is_original(record):
        why = (
            "its calibration kept step 0"
            if record.get("kept_step") == 0
            else turned.get("reason", "no weight of it changed")
        )
        return (
            f"teacher {model!r} is the original: {why} (η = {eta}), so its students show nothing of the knob. "
            "Calibrate again, or name the original itself"
        )
    verdict = turned.get("verdict")
    if verdict in (None, TURNED):
        return None
    what = {
        UNCLEAR: "whether the knob turned can't be told",
        WRONG: "the knob turned the wrong way",
    }.get(verdict, "the knob did not turn")
    return f"teacher {model!r}, calibrated with η = {eta}: {what} ({turned.get('reason')})"


def warn_of_teacher(model: str) -> str | None:
    """Print `teacher_warning` on stderr, once for all processes, and return it."""
    warning = teacher_warning(model)
    if warning is not None and process_index() == 0:
        print(f"warning: {warning}", file=sys.stderr)
    return warning
