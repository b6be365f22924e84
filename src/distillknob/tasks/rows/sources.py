"""Rows of a data set, from the hub or from local files, both through `datasets`.

A machine without a hub reads the same schema from a folder or file (parquet, jsonl, json or csv). Left out on purpose:
streaming (leaks can only be looked for among all rows), and any download other than what `datasets` does by itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from csv import reader
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from distillknob.errors import BadInputError, nearest
from distillknob.runtime.hub import client_error, offline
from distillknob.tasks.rows.values import UnusableValueError, as_text

if TYPE_CHECKING:
    from datasets import Dataset

READERS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv"}
Rows = TypeVar("Rows")  # Dataset or Table
MESSAGE_LENGTH = 300  # characters of another library's message that are passed on


@dataclass(frozen=True)
class Source:
    """A data set on the hub, and the columns that a task needs of it.

    `official` maps the task's splits to the data set's; `by_hash` names a split that is divided by hash instead.
    """

    hub_id: str
    columns: tuple[str, ...]
    config: str | None = None
    official: Mapping[str, str] = field(default_factory=dict)
    by_hash: str | None = None


def load_hub(hub_id: str, config: str | None, *, name: str, remedy: str) -> Mapping[str, Dataset]:
    """Every split of a data set on the hub. `name` is the task's, for messages; `remedy` closes every message.

    Raises BadInputError where the hub can't be reached, or the data set is gated, gone or otherwise not there.
    """
    import datasets
    from huggingface_hub.errors import HfHubHTTPError

    offline()  # asked once, so that no library goes on trying where there is no network
    try:
        splits = datasets.load_dataset(hub_id, config)
    except HfHubHTTPError as error:  # an answer, though not the one that was wanted
        raise BadInputError(f"task {name!r}: the hub refuses {hub_id!r} ({reason_of(error)}): {remedy}") from error
    except (ConnectionError, client_error()) as error:
        raise BadInputError(
            f"task {name!r}: the hub can't be reached for {hub_id!r} ({reason_of(error)}): {remedy}"
        ) from error
    except datasets.exceptions.DatasetNotFoundError as error:
        if "gated" in str(error):
            raise BadInputError(
                f"task {name!r}: the data set {hub_id!r} is gated ({reason_of(error)}): accept its terms on its "
                f"hub page and log in with `hf auth login`; or {remedy}"
            ) from error
        raise BadInputError(
            f"task {name!r}: the hub has no data set {hub_id!r}, or not for you ({reason_of(error)}); it may have been "
            f"renamed: {remedy}"
        ) from error
    # An unknown config or a failed check is a ValueError, a loading script a RuntimeError, a broken file an OSError.
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        at = hub_id if config is None else f"{hub_id} (config {config})"
        raise BadInputError(f"task {name!r}: can't load {at} ({reason_of(error)}): {remedy}") from error
    return dict(splits)


def load_files(path: Path, config: str | None, *, name: str) -> Mapping[str, Dataset]:
    """Every split of a local folder, named by its files as on the hub (train.parquet, test-00000.jsonl, …; without such
    a name: train), or one file as the split "train".

    A folder may be a snapshot of a hub data set, with its configurations. Raises BadInputError for what can't be read.
    """
    import datasets
    from datasets.packaged_modules.csv.csv import CsvConfig

    if not path.exists():
        raise BadInputError(f"task {name!r}: there is no folder or file {str(path)!r}")
    if path.is_file() and path.suffix not in READERS:
        raise BadInputError(f"task {name!r}: can't read {path.name!r}: want one of {', '.join(READERS)}, or a folder")
    try:
        if path.is_file():
            csv = as_texts([str(path)]) if path.suffix == ".csv" else {}
            return dict(datasets.load_dataset(READERS[path.suffix], data_files=str(path), **csv))
        configs = datasets.get_dataset_config_names(str(path))
        builder = datasets.load_dataset_builder(str(path), config if config in configs else None)
        if isinstance(builder.config, CsvConfig):
            files = {split: list(map(str, names)) for split, names in (builder.config.data_files or {}).items()}
            every = [name for names in files.values() for name in names]
            return dict(datasets.load_dataset("csv", data_files=files, **as_texts(every)))
        splits = datasets.load_dataset(str(path), config if config in configs else None)
    except StopIteration as error:  # how datasets takes a JSON file without a line
        raise BadInputError(f"task {name!r}: {str(path)!r} is empty: give at least one row") from error
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        cause = error.__cause__ or error  # "an error occurred while generating the dataset" says nothing
        raise BadInputError(f"task {name!r}: can't read {str(path)!r}: {reason_of(cause)}") from error
    return dict(splits)


def as_texts(files: Sequence[str]) -> dict[str, Any]:
    """How `datasets` reads CSV cells as they stand: every column a text, and only an empty cell missing. It would take
    the words None and NA for missing too, and round 17 digits beside an empty cell."""
    from datasets import Features, Value

    columns: dict[str, None] = {}
    for file in files:
        with open(file, encoding="utf-8-sig", newline="") as lines:
            columns |= dict.fromkeys(next(reader(lines), []))
    return {
        "features": Features({column: Value("string") for column in columns}),
        "keep_default_na": False,
        "na_values": [""],
        "encoding": "utf-8-sig",
    }


def split_rows(splits: Mapping[str, Rows], split: str, *, name: str, remedy: str) -> Rows:
    """One split. Raises BadInputError if the data set hasn't got it."""
    if split not in splits:
        raise BadInputError(
            f"task {name!r}: the data set has no split {split!r}{nearest(split, splits)} (it has: "
            f"{', '.join(sorted(splits))}): {remedy}"
        )
    return splits[split]


def check_columns(available: Sequence[str], columns: Iterable[str], *, name: str, remedy: str) -> None:
    """Raise BadInputError for the columns that the task needs and the data set hasn't got."""
    missing = [column for column in columns if column not in available]
    if missing:
        raise BadInputError(
            f"task {name!r}: the data has no column {', '.join(map(repr, missing))} (it has: "
            f"{', '.join(available)}), so its schema has changed or it is another data set: {remedy}"
        )


def fingerprint(path: Path) -> tuple[tuple[str, int, int], ...]:
    """What tells that a file, or a file of a folder, has changed: its name, its size and when it was written."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    stats = [(str(file), os.stat(file)) for file in files if file.is_file()]
    return tuple((file, stat.st_size, stat.st_mtime_ns) for file, stat in stats)


def reason_of(error: BaseException) -> str:
    """The first line of another library's message, cut to a bearable length."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:MESSAGE_LENGTH]


def text_of(row: Mapping[str, Any], column: str) -> str | None:
    """The row's text in a column, without surrounding space; None where there is none. Raises UnusableValueError."""
    try:
        return as_text(row.get(column))
    except UnusableValueError as error:
        raise UnusableValueError(f"the column {column!r} {error}") from error
