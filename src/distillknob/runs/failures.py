"""By what a cell of an experiment failed: a file in its folder, beside what the cell has done so far."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from distillknob.runs.files import atomic_write, json_bytes, read_json

FAILED = "failed.json"
TRIES = 2  # times that a cell may fail before its failure is the result


class Failure(NamedTuple):
    """By what a cell failed, and how often it was tried."""

    reason: str
    tries: int

    @property
    def final(self) -> bool:
        """Was the cell tried as often as it may be?"""
        return self.tries >= TRIES


def record_failure(folder: Path, cell: str, reason: str) -> None:
    """Record in the cell's folder by what it failed, once more."""
    before = failure_in(folder)
    folder.mkdir(parents=True, exist_ok=True)
    row = {"cell": cell, "reason": reason, "tries": 1 + (0 if before is None else before.tries)}
    atomic_write(folder / FAILED, json_bytes(row, indent=2) + b"\n")


def failure_in(folder: Path) -> Failure | None:
    """Return by what the cell in `folder` failed; None where it didn't."""
    file = folder / FAILED
    if not file.exists():
        return None
    row = read_json(file)
    return Failure(str(row["reason"]), int(row["tries"]))


def forget_failure(folder: Path) -> None:
    """Take back that the cell in `folder` failed: it is done now."""
    (folder / FAILED).unlink(missing_ok=True)
