"""This module names teachers by their η and the verdict on their knob, and tells what to know of one whose knob did not
turn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from distillknob.verdicts.turning import TURNED, UNCLEAR, WRONG, tasks_turned_wrong

# The key of a teacher that was calibrated at η = 0, and the variant of its cells: a control, beside which a turned
# teacher shows what the knob alone does.
TASK_ALONE = "task-alone"


def is_original(calibration: Mapping[str, Any] | None) -> bool:
    """Is a teacher with this calibration (a run's result, or the part that a cell holds) the original itself? None
    stands for a teacher that was never calibrated. A result from before the verdict was measured is told by its kept
    step."""
    if not calibration:
        return True
    return bool((calibration.get("turned") or {}).get("same")) or calibration.get("kept_step") == 0


def verdict_of(calibration: Mapping[str, Any] | None) -> str:
    """Put the verdict into the words of a label."""
    made = calibration or {}
    verdict = (made.get("turned") or {}).get("verdict")
    if is_original(calibration):
        return "not calibrated: it is the original"
    if verdict is None:
        return "whether it turned was not measured"
    return {TURNED: "turned", UNCLEAR: "can't tell whether it turned", WRONG: "turned the wrong way"}.get(
        verdict, "not turned"
    )


def signed(eta: float) -> str:
    """Write η with its sign, and a minus that is one."""
    return f"{eta:+g}".replace("-", "\N{MINUS SIGN}") if eta else "0"


def teacher_label(eta: float, calibration: Mapping[str, Any] | None = None) -> str:
    """Name a teacher: `original`, `η = −0.5 (turned)`, `η = +0.25 (not calibrated: it is the original)`."""
    if eta == 0 and not calibration:
        return "original"
    if eta == 0 and not is_original(calibration):
        return "η = 0 (the task alone)"
    return f"η = {signed(eta)} ({verdict_of(calibration)})"


def teacher_key(eta: float, *, task_alone: bool = False) -> str:
    """Return the key by which a result's rows, folders and the page's colours know a teacher: `original`, `eta-0.5`,
    `eta+0.25`, and `task-alone` where it was calibrated at η = 0."""
    if task_alone:
        return TASK_ALONE
    return "original" if eta == 0 else f"eta{eta:+g}"


def label_of(row: Mapping[str, Any]) -> str:
    """Return what the teacher of a result's row is called. A row from before labels were kept is called by its η."""
    if row.get("label"):
        return str(row["label"])
    name, eta = str(row.get("teacher", row.get("b"))), row.get("eta")
    if name in ("none", "original") or not isinstance(eta, int | float) or isinstance(eta, bool):
        return name
    return teacher_label(eta, row.get("calibration") or {"kept_step": None})


def unturned(teachers: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return what a reader has to know before any figure: a line for each calibrated teacher that is the original,
    whose knob turned the wrong way, or of which nobody can tell. `teachers` are rows with `calibration`."""
    lines = []
    for row in teachers:
        made = row.get("calibration")
        turns = (made or {}).get("turned") or {}
        wrong = tasks_turned_wrong(turns)
        at_zero = row.get("eta") == 0 and not is_original(made)  # nobody asked that it turn
        if not made or at_zero or (turns.get("verdict") == TURNED and not wrong):
            continue
        where = ", ".join(f"{name} {row[name]}" for name in ("variant", "seed") if row.get(name) not in (None, ""))
        who = f"{label_of(row)}, {where}" if where else label_of(row)
        turned = made.get("turned")
        if is_original(made):
            lines.append(f"{who}: its calibration changed nothing, so its students show nothing of the knob.")
        elif turned:
            apart = f", but on {', '.join(wrong)} it turned the wrong way" if wrong else ""
            lines.append(f"{who}: {turned['reason']}{apart}.")
    return list(dict.fromkeys(lines))
