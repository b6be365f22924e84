"""One's own files as rows that know where they stand: JSONL and CSV, by line.

Read here and not by `datasets`, which guesses a column's type from its cells: it rounds 17 digits beside a blank cell,
takes the words None and NA for missing, and doesn't know in which line a row was. Parquet and the hub, whose columns
have types, come through sources.py. Left out on purpose: other separators than the comma, and JSON files that are one
array.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillknob.errors import BadInputError

if TYPE_CHECKING:
    from datasets import Dataset

NARROW = ("float16", "float32")
SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}


@dataclass(frozen=True)
class Table:
    """Rows with the names of their columns. `place` says where the row of a number (from 0) stands. `typed`: do the
    cells have types, or is everything text?"""

    column_names: list[str]
    rows: Iterable[Mapping[str, Any]]
    place: Callable[[int], str]
    typed: bool = True


def of_dataset(rows: Dataset, place: Callable[[int], str]) -> Table:
    """A split of a data set. A float of 16 or 32 bits keeps its type, and so its shortest decimal: Python's floats have
    64."""
    import numpy as np

    narrow = {name: getattr(np, kind.dtype) for name, kind in rows.features.items() if _dtype(kind) in NARROW}

    def narrowed() -> Iterator[Mapping[str, Any]]:
        for row in rows:
            yield {**row, **{name: of(row[name]) for name, of in narrow.items() if row[name] is not None}}

    return Table(rows.column_names, narrowed() if narrow else rows, place)


def _dtype(kind: Any) -> str | None:
    dtype = getattr(kind, "dtype", None)
    return dtype if isinstance(dtype, str) else None


def read_text(path: Path) -> bytes:
    """What the file holds, unpacked where it is named .gz, without a byte order mark."""
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if path.suffix == ".gz" else data
    except gzip.BadGzipFile as error:
        raise BadInputError(f"can't read the task file {path}: {error}") from error
    except OSError as error:
        raise BadInputError(f"can't read the task file {path}: {error.strerror}") from error
    except (EOFError, zlib.error) as error:
        raise BadInputError(f"can't read the task file {path}: its end is missing or damaged ({error})") from error
    return data.removeprefix(b"\xef\xbb\xbf")


def decoded(line: bytes, where: str) -> str:
    """The bytes as UTF-8. Raises BadInputError."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadInputError(
            f"{where}: not UTF-8 ({error.reason} at byte {error.start}): save the file as UTF-8"
        ) from error


def read_jsonl(path: Path) -> Table:
    """One object a line; decimals keep all of their digits. Raises BadInputError with the line's number for a line that
    can't be used."""
    data = read_text(path)
    rows, columns = [], dict[str, None]()
    for number, line in enumerate(data.split(b"\n"), start=1):
        where = f"{path}, line {number}"
        text = decoded(line, where)
        if not text.strip():
            if number <= data.count(b"\n"):
                raise BadInputError(f"{where}: empty line: remove it")
            continue  # what follows the closing newline
        try:
            row = json.loads(text, parse_float=Decimal)
        except json.JSONDecodeError as error:
            array = ": one object a line is wanted, no array over several" if text.strip() == "[" else ""
            raise BadInputError(f"{where}: malformed JSON ({error.msg} at column {error.colno}){array}") from error
        except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
            raise BadInputError(f"{where}: malformed JSON ({error})") from error
        if not isinstance(row, dict):
            raise BadInputError(f"{where}: holds {type(row).__name__}, want an object with prompt and reference")
        columns |= dict.fromkeys(row)
        rows.append(row)
    if not rows:
        raise BadInputError(f"{path} is empty: give at least one line with prompt and reference")
    return Table(list(columns), rows, lambda i: f"{path}, line {i + 1}")


def read_csv(path: Path) -> Table:
    """Cells as they stand, under a first line with the columns' names; an empty cell is None, every other a text.
    Raises BadInputError with the line's number for a row that can't be used."""
    data = read_text(path)
    for number, raw in enumerate(data.split(b"\n"), start=1):
        decoded(raw, f"{path}, line {number}")
    reader = csv.reader(io.StringIO(data.decode("utf-8"), newline=""), strict=True)
    rows: list[dict[str, str | None]] = []
    lines: list[int] = []
    header: list[str] = []
    line = 1
    try:
        for cells in reader:
            where, line = f"{path}, line {line}", reader.line_num + 1
            if not cells:
                continue
            if not header:
                header = _header([cell.strip() for cell in cells], where)
            elif len(cells) != len(header):
                raise BadInputError(
                    f"{where}: {len(cells)} cells under {len(header)} columns ({', '.join(header)}): put a cell that "
                    'holds a comma or a line break in "quotes"'
                )
            else:
                rows.append({name: cell or None for name, cell in zip(header, cells, strict=True)})
                lines.append(int(where.rpartition(" ")[2]))
    except csv.Error as error:
        raise BadInputError(f"{path}, line {line}: malformed CSV ({error})") from error
    if not header:
        raise BadInputError(f"{path} is empty: give a first line with the columns' names, and a line for each problem")
    if not rows:
        raise BadInputError(f"{path} holds its columns' names ({', '.join(header)}) and no row: give at least one")
    return Table(header, rows, lambda i: f"{path}, line {lines[i]}", typed=False)


def _header(names: list[str], where: str) -> list[str]:
    for separator, what in SEPARATORS.items():
        if len(names) == 1 and separator in names[0]:
            raise BadInputError(
                f"{where}: its columns are separated by {what} ({names[0]!r}): save the file with commas between them"
            )
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise BadInputError(f"{where}: two columns are named {sorted(repeated)[0]!r}: rename one")
    return names
