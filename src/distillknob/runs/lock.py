"""A lock lets one process work in a folder: it is advisory, and the operating system holds it for the living process.

    .lock   who is at work: process id, host, since when. It goes away when the work is done

The system lets go of the lock when the process ends, however it ends, so that a killed process stands in nobody's way:
what is left of it is the file alone, and the next process takes that over. POSIX locks are taken (`lockf`), which
network file systems know too and which the children of a process don't inherit.

A process may open the same folder again (a notebook, after an error). Processes that share a folder on purpose take a
`shared` lock, which refuses only those that want the folder alone. Where the file system knows no locks the work goes
on without one, and that is said.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from distillknob.errors import BadInputError
from distillknob.runs.files import disk_errors
from distillknob.runtime.processes import notice

LOCK = ".lock"
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
_HELD_ELSEWHERE = {errno.EACCES, errno.EAGAIN}

if sys.platform == "win32":
    import msvcrt

    def _take(descriptor: int, shared: bool) -> None:
        if not shared:  # Windows has no shared lock here; a byte far behind the text, which others can then still read
            os.lseek(descriptor, 1 << 30, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _take(descriptor: int, shared: bool) -> None:
        fcntl.lockf(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)


class Lock:
    """A lock on a folder is held until `release` or the end of the process. Made by `hold`."""

    def __init__(self, path: Path, descriptor: int, *, shared: bool):
        self._path, self._shared = path, shared
        self._close = weakref.finalize(self, os.close, descriptor)

    def release(self) -> None:
        """Let go of the folder. The file goes first: who opens it afterwards makes a new one."""
        if self._close.alive:
            if not self._shared:
                with suppress(OSError):  # Windows deletes no open file
                    self._path.unlink()
            self._close()
        _HELD.pop(self._path, None)


_HELD: weakref.WeakValueDictionary[Path, Lock] = weakref.WeakValueDictionary()  # by this process


def hold(folder: Path, *, shared: bool = False) -> Lock | None:
    """Take the lock on `folder`, which has to be there. None where its file system knows no locks.

    Raises BadInputError, naming the process, where another one is at work there.
    """
    path = folder.resolve() / LOCK
    if (own := _HELD.get(path)) is not None:
        return own
    while True:
        with disk_errors(folder / LOCK):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _take(descriptor, shared)
        except OSError as error:
            os.close(descriptor)
            if error.errno in _HELD_ELSEWHERE:
                raise BadInputError(_refusal(folder)) from error
            if error.errno not in _NO_LOCKS:
                raise
            notice(f"the file system of {folder} knows no locks: start no second process there")
            return None
        if _is_at(descriptor, path):
            break
        os.close(descriptor)  # who held it has finished and deleted it since it was opened here
    who = {"pid": os.getpid(), "host": socket.gethostname(), "since": datetime.now(UTC).isoformat(timespec="seconds")}
    with disk_errors(folder / LOCK):
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, json.dumps(who).encode() + b"\n")
    lock = Lock(path, descriptor, shared=shared)
    _HELD[path] = lock
    return lock


def hold_alone(folder: Path) -> Lock | None:
    """Take the lock on `folder` for this process alone, in place of what it held there. Raises what `hold` raises."""
    if (own := _HELD.get(folder.resolve() / LOCK)) is not None:
        own.release()
    return hold(folder)


def check_free(folder: Path, *, shared: bool = False) -> None:
    """Raise the BadInputError that `hold` would raise now. Writes nothing."""
    path = folder.resolve() / LOCK
    if path in _HELD or not path.exists():
        return
    with suppress(FileNotFoundError, PermissionError):
        descriptor = os.open(path, os.O_RDWR)
        try:
            _take(descriptor, shared)
        except OSError as error:
            if error.errno in _HELD_ELSEWHERE:
                raise BadInputError(_refusal(folder)) from error
        finally:
            os.close(descriptor)


def held_around(folder: Path) -> bool:
    """Does this process hold a folder that `folder` lies in?"""
    return any(parent / LOCK in _HELD for parent in folder.resolve().parents)


@contextmanager
def alone_at(file: Path) -> Iterator[None]:
    """Keep other processes from `file` while it is read and written anew; waits for the one that is at it now."""
    path = file.with_name(f".{file.name}{LOCK}")
    while True:
        with disk_errors(file):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _take(descriptor, shared=False)
        except OSError as error:
            os.close(descriptor)
            if error.errno in _HELD_ELSEWHERE:
                time.sleep(0.05)
                continue
            if error.errno not in _NO_LOCKS:
                raise
            notice(f"the file system of {file} knows no locks: let one process at a time write it")
            yield
            return
        if _is_at(descriptor, path):
            break
        os.close(descriptor)  # who held it has finished and deleted it since it was opened here
    try:
        yield
    finally:
        with suppress(OSError):  # Windows deletes no open file
            path.unlink()
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _refusal(folder: Path) -> str:
    try:
        who = json.loads((folder / LOCK).read_text())
        process = f"process {who['pid']} on {who['host']}, since {who['since']}"
    except (OSError, ValueError, KeyError):  # it took the lock this instant
        process = "it hasn't said which"
    return f"another process is at work in {folder} ({process}): wait for it, or choose another --output"
