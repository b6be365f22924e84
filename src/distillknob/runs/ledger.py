"""What of an experiment's cells is there: in their folders, and in the file of kept cells, where one is named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from distillknob.runs.files import plain
from distillknob.runs.kept import CellRecord, check_can_keep, keep_cell, read_cells, record_of
from distillknob.runs.records import check_config, check_reads
from distillknob.runs.run import MANIFEST, load_run


class Ledger:
    """A Ledger knows which cells are finished, and their results. `kept` is a file of finished cells (`runs.kept`),
    to which those that are run are added."""

    def __init__(self, kept: str | None):
        self._file = kept
        self._records: dict[str, CellRecord] = {}
        if kept is not None:
            check_can_keep(kept)
            self._records = read_cells(kept)

    def check(self, name: str, config: Mapping[str, Any], read: Mapping[str, Mapping[str, str]]) -> None:
        """Raise BadInputError where the kept cell of this name has other settings, or read something else."""
        if name in self._records:
            record = self._records[name]
            check_config(
                f"{self._file} holds the cell {name}", record.config, plain(dict(config), finite=False), flag="--kept"
            )
            check_reads(f"the cell {name} in {self._file}", record.read or {}, read, flag="--kept")

    def done(self, name: str, place: Path) -> bool:
        return name in self._records or (place / MANIFEST).exists()

    def result(self, name: str, place: Path) -> Mapping[str, Any] | None:
        """The cell's result; None where it isn't finished."""
        if name in self._records:
            return cast(Mapping[str, Any], self._records[name].result)
        return load_run(place).result if (place / MANIFEST).exists() else None

    def keep(self, name: str, place: Path) -> None:
        """Add a finished cell to the file, where there is one."""
        if self._file is not None and name not in self._records:
            self._records[name] = replace(record_of(load_run(place)), name=name)
            keep_cell(self._file, self._records[name])
