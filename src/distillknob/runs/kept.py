"""Finished cells in one file: what tables, reports and verdicts need of each, without its models and samples.

    NAME.jsonl.gz   one JSON object a cell, in the order of the cells' names:
                    cell         its name
                    config       what it was told, the recipe of its stages included
                    environment  where and by what it ran, and the digests of what it read
                    manifest     the digests of its files, those of its result and its stages' manifests among them
                    result       what it measured: scores by problem
                    built_by     by model: the command that builds it, where the sweep's recipe says so

The same cells make the same bytes. A cell is added by writing the file anew beside the old one, which it then replaces,
so that a kill leaves one or the other; machines that share the file wait for each other.

Left out on purpose: a line appended to the end, which a kill may tear, and rounding, which would part a result from its
digest in the manifest.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from distillknob.errors import BadInputError
from distillknob.results.experiments import CellResult
from distillknob.results.schema import check_schema
from distillknob.runs.files import atomic_write, json_bytes, read_json
from distillknob.runs.lock import alone_at
from distillknob.runs.run import ENVIRONMENT, MANIFEST, RESULT, Run

ENDING = ".jsonl.gz"


@dataclass(frozen=True)
class CellRecord:
    """A CellRecord is what a finished cell leaves for tables: the parts of its run directory that hold no model."""

    name: str
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    manifest: Mapping[str, Any]
    result: CellResult
    built_by: Mapping[str, str] = field(default_factory=dict)

    @property
    def read(self) -> Mapping[str, Mapping[str, str]] | None:
        """Return the digests of what the cell read (`identity.read_by`); None for a cell from before the record."""
        read: Mapping[str, Mapping[str, str]] | None = self.environment.get("read")
        return read

    @property
    def unchanged(self) -> bool:
        """Is the result the one whose digest stands in the manifest?"""
        written = json_bytes(self.result, indent=2) + b"\n"
        return bool(hashlib.sha256(written).hexdigest() == self.manifest["files"][RESULT])


def record_of(run: Run, built_by: Mapping[str, str] | None = None) -> CellRecord:
    """Return the record of a finished cell's run. `built_by` has by model the command that builds it; what isn't of
    this cell is left out."""
    about = read_json(run.path / ENVIRONMENT)
    commands = {name: command for name, command in (built_by or {}).items() if f"model {name}" in about.get("read", {})}
    return CellRecord(
        name=run.path.name,
        config=run.config,
        environment=about,
        manifest=read_json(run.path / MANIFEST),
        result=cast(CellResult, run.result),
        built_by=commands,
    )


def read_cells(path: str | Path) -> dict[str, CellRecord]:
    """Return the cells that the file `path` holds, by name; none where there is no file yet.

    Raises BadInputError for a folder, another kind of file, one that is damaged, and results of a newer version.
    """
    path = Path(path)
    _check_name(path)
    if not path.exists():
        return {}
    try:
        cells = [_cell(json.loads(line)) for line in gzip.decompress(path.read_bytes()).splitlines()]
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError) as error:
        raise BadInputError(
            f"{path} is no file of finished cells ({error!r}): it is damaged, restore it or give another file"
        ) from error
    for cell in cells:
        check_schema(cell.result, path)
    return {cell.name: cell for cell in cells}


def keep_cell(path: str | Path, cell: CellRecord) -> None:
    """Add the cell to the file `path`, in place of what stands there under its name.

    Raises BadInputError where the file can't be written or is no file of cells, RunFailedError if the disk is full.
    """
    path = Path(path)
    with alone_at(path):
        write_cells(path, [*(read_cells(path) | {cell.name: cell}).values()])


def write_cells(path: Path, cells: Iterable[CellRecord]) -> None:
    """Write the file `path` anew with these cells alone."""
    rows = [_row(cell) for cell in sorted(cells, key=lambda cell: cell.name)]
    atomic_write(path, gzip.compress(b"".join(json_bytes(row) + b"\n" for row in rows), compresslevel=9, mtime=0))


def check_can_keep(path: str | Path) -> None:
    """Raise BadInputError where `keep_cell` could not write to `path`. Makes its folder."""
    path = Path(path)
    _check_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInputError(f"can't make the folder of --kept {path}: {error.strerror}. Give another file") from error


def _check_name(path: Path) -> None:
    if path.is_dir() or not path.name.endswith(ENDING):
        raise BadInputError(f"--kept {path}: finished cells are kept in one file: give one that ends in {ENDING}")


def _row(cell: CellRecord) -> dict[str, Any]:
    row = {
        "cell": cell.name,
        "config": cell.config,
        "environment": cell.environment,
        "manifest": cell.manifest,
        "result": cell.result,
    }
    return {**row, "built_by": cell.built_by} if cell.built_by else row


def _cell(row: Mapping[str, Any]) -> CellRecord:
    return CellRecord(
        name=row["cell"],
        config=row["config"],
        environment=row["environment"],
        manifest=row["manifest"],
        result=row["result"],
        built_by=row.get("built_by", {}),
    )
