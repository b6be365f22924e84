"""This module writes files whole or not at all, and JSON that any reader takes.

A file goes under a temporary name beside the target, is fsynced and renamed. JSON has no NaN and no infinity, so both
are written as `null`; a reader takes `null` as undefined.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distillknob.errors import BadInputError, RunFailedError

PARTIAL = "-partial"  # how the name of an unfinished file or folder ends

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_JUST_WRITTEN = 1.0  # seconds within which a file could be written again and have the same times
_NOT_OURS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP}

_hashed: dict[tuple[int, ...], str] = {}


def atomic_write(path: str | Path, data: bytes | Iterable[bytes]) -> None:
    """Write `data` to `path` whole or not at all, keeping what was there until the new file is on the disk. Pieces are
    written as they come, so that a file may be larger than the memory.

    Raises RunFailedError if the disk is full or the quota spent, BadInputError if `path` can't be written.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    with disk_errors(path):
        try:
            with partial.open("wb") as file:
                file.writelines([data] if isinstance(data, bytes) else data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        _sync_directory(path.parent)


@contextmanager
def atomic_directory(path: str | Path) -> Iterator[Path]:
    """Fill `folder` in `with atomic_directory(run.path / "model") as folder`; it becomes `path` once all is on the
    disk.

    A folder that was at `path` is replaced. Where several processes train, for the first of them alone. Raises what
    `atomic_write` raises.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    with disk_errors(path):
        try:
            shutil.rmtree(partial, ignore_errors=True)  # a container's processes have the same id after a restart
            partial.mkdir(parents=True)
            yield partial
            for file in sorted(item for item in partial.rglob("*") if item.is_file()):
                with file.open("rb") as opened:
                    os.fsync(opened.fileno())
            if path.exists():
                shutil.rmtree(path)
            partial.replace(path)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        _sync_directory(path.parent)


def clear_leftovers(folder: Path, mark: str) -> None:
    """Delete what was being written below `folder` when it was killed, but for the folders that hold a file `mark`:
    runs within a run clear up after themselves, and another process may be writing there now."""
    for entry in list(folder.iterdir()):
        if entry.name.startswith(".") and entry.name.endswith(PARTIAL):
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        elif entry.is_dir() and not (entry / mark).exists():
            clear_leftovers(entry, mark)


def read_json(path: str | Path) -> Any:
    """Return what the JSON file `path` holds. Raises BadInputError with the place if it is malformed."""
    try:
        return json.loads(Path(path).read_bytes())
    except ValueError as error:  # both malformed JSON and bytes that are no UTF-8
        raise BadInputError(f"{path} is no JSON ({error}): it was changed by hand, restore it or start anew") from error


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, which is remembered for the life of the process: under the file's inode, size and
    both of its times, the second of which no program can set back."""
    stat = os.stat(path)
    key = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    if key in _hashed:
        return _hashed[key]
    value = sha256(path)
    if time.time() - max(stat.st_mtime, stat.st_ctime) > _JUST_WRITTEN:
        _hashed[key] = value
    return value


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a JSONL file; none where there is no file. A last line still being written is left out."""
    if not path.exists():
        return []
    rows = []
    with path.open("rb") as file:  # whose lines end at "\n" alone: texts may hold what str.splitlines takes for an end
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                break  # torn, or being written at this moment
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise BadInputError(
                    f"{path}, line {number} is no JSON ({error}): remove the line or start anew"
                ) from error
    return rows


def json_bytes(obj: Any, indent: int | None = None) -> bytes:
    """Write `obj` as JSON in UTF-8. Raises TypeError for what is no plain value."""
    text = json.dumps(plain(obj), indent=indent, ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "backslashreplace")  # a lone surrogate becomes \udXXX, which is how JSON writes it


def plain(obj: Any, *, finite: bool = True) -> Any:
    """Turn `obj` into dicts, lists and scalars. With `finite`, NaN and infinities become None."""
    if isinstance(obj, float):
        return None if finite and not math.isfinite(obj) else float(obj)
    if obj is None or isinstance(obj, str | int):  # bool is an int
        return obj
    if isinstance(obj, Mapping):
        return {str(key): plain(value, finite=finite) for key, value in obj.items()}
    if isinstance(obj, list | tuple):
        return [plain(value, finite=finite) for value in obj]
    if dataclasses.is_dataclass(obj) and not isinstance(obj, type):
        return {field.name: plain(getattr(obj, field.name), finite=finite) for field in dataclasses.fields(obj)}
    if isinstance(obj, os.PathLike):
        return os.fspath(obj)
    if hasattr(obj, "tolist"):  # numpy's and torch's scalars and arrays
        return plain(obj.tolist(), finite=finite)
    raise TypeError(f"{obj!r} is no plain value: a run directory holds numbers, texts, lists and mappings")


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Say what a full disk or a forbidden path means for the run."""
    try:
        yield
    except OSError as error:
        if error.errno in _DISK_FULL:
            raise RunFailedError(
                f"no space left to write {path} ({error.strerror}). What was written before is kept: "
                "free space on that disk, then go on with --resume"
            ) from error
        if error.errno in _NOT_OURS:
            raise BadInputError(f"can't write {path}: {error.strerror}. Give an --output you can write") from error
        raise


def _sync_directory(folder: Path) -> None:
    """Make a rename last through a power cut, where the system lets a directory be synced."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
