"""A journal keeps on disk what each finished batch gave, until the run is done: a run that was stopped loses at most
the batch it was at."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import torch

from distillknob.errors import BadInputError
from distillknob.runs.files import atomic_write
from distillknob.runtime.processes import process_count, process_index


class Journal:
    """A journal holds what the batches of one piece of work gave, in their order: plain values and tensors, a file
    each.

    Without a folder nothing is kept. Work in parts takes a journal for each: `journal.part("math/student")`.
    What batches were made of is kept as a hash, so that a run doesn't go on with what other inputs gave.
    """

    def __init__(self, folder: Path | None = None):
        self._folder = folder
        self._next = 0

    def part(self, name: str) -> Journal:
        """Return the journal of a part of the work."""
        return Journal(None if self._folder is None else self._folder / name)

    def of_process(self) -> Journal:
        """Return the journal of this process's part of the work; the whole where there is one process."""
        count = process_count()
        return self if count == 1 else self.part(f"process-{process_index()}-of-{count}")

    def take(self, rows: list[Any], made_of: Any = None) -> Any:
        """Return what the next batch gave, or None if none of it is done yet. `rows` says which batch it has to be, and
        `made_of` (JSON values) what it has to be made of. What was kept as not done is what `keep` completes.

        Raises BadInputError where another batch was kept: the work was begun by another version of distillknob, or on
        other inputs.
        """
        path = self._file()
        if path is None or not path.exists():
            return None
        batch = torch.load(io.BytesIO(path.read_bytes()), weights_only=True)
        if batch["rows"] != rows or batch.get("made_of") != _digest(made_of):
            raise BadInputError(
                f"{path} holds another batch than this one: it was written by another distillknob, on another kind of "
                f"device, or from other inputs. Delete {self._folder} to do this part again"
            )
        if batch.get("done", True):
            self._next += 1
        return batch["gave"]

    def keep(self, rows: list[Any], gave: Any, made_of: Any = None, *, done: bool = True) -> None:
        """Keep what the batch gave; where it isn't `done`, what it gave so far."""
        path = self._file()
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        torch.save({"rows": rows, "gave": gave, "made_of": _digest(made_of), "done": done}, buffer)
        atomic_write(path, buffer.getvalue())
        if done:
            self._next += 1

    def _file(self) -> Path | None:
        return None if self._folder is None else self._folder / f"{self._next:06d}.pt"


def _digest(made_of: Any) -> str:
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()
