"""Pieces of work that fail are named, and the others are done: here, and in processes of this machine."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest

from distillknob.errors import RunFailedError
from distillknob.runtime.spread import Pieces, spread


def write(path: Path) -> None:
    path.write_text(str(os.getpid()))


def fail(text: str) -> None:
    raise RunFailedError(text)


def die() -> None:
    os._exit(9)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_failure_is_handed_back_and_the_others_are_done(tmp_path: Path, processes: int) -> None:
    pieces: Pieces = {"a": (write, (tmp_path / "a",)), "b": (fail, ("no memory",)), "c": (write, (tmp_path / "c",))}
    done = dict(spread(pieces, tmp_path / "work", processes=processes))
    assert set(done) == {"a", "b", "c"} and done["a"] is None and done["c"] is None
    assert isinstance(done["b"], RunFailedError) and "no memory" in str(done["b"])
    here = {(tmp_path / name).read_text() == str(os.getpid()) for name in ("a", "c")}
    assert here == {processes == 1}


def test_a_process_that_was_killed_is_a_failure_and_the_others_are_done(tmp_path: Path) -> None:
    pieces: Pieces = {"a": (die, ()), "b": (write, (tmp_path / "b",)), "c": (write, (tmp_path / "c",))}
    done = dict(spread(pieces, tmp_path / "work", processes=2))
    assert isinstance(done["a"], RunFailedError) and "killed" in str(done["a"])
    assert done["b"] is None and done["c"] is None and (tmp_path / "c").exists()


@pytest.mark.parametrize("processes", [1, 2])
def test_what_a_library_raises_is_the_piece_s_failure_and_is_told_whole(tmp_path: Path, processes: int) -> None:
    pieces: Pieces = {"a": (write, (tmp_path / "none" / "a",)), "b": (write, (tmp_path / "b",))}
    done = dict(spread(pieces, tmp_path / "work", processes=processes))
    assert "FileNotFoundError" in str(done["a"]) and "in write" in str(done["a"]) and done["b"] is None


def test_what_was_done_before_is_let_go_before_others_begin(tmp_path: Path) -> None:
    class Holding:
        """Holds itself, as a Trainer does."""

        def __init__(self) -> None:
            self.itself = self

    gc.disable()
    try:
        held = weakref.ref(Holding())
        assert held() is not None
        assert list(spread({name: (write, (tmp_path / name,)) for name in "ab"}, tmp_path / "work", processes=2))
        assert held() is None
    finally:
        gc.enable()


def test_no_more_pieces_are_begun_than_there_are_processes(tmp_path: Path) -> None:
    """Whoever stops after the first piece, as an interrupt does, finds none begun that waited for a process."""
    pieces: Pieces = {str(i): (write, (tmp_path / str(i),)) for i in range(6)}
    pieces_done = spread(pieces, tmp_path / "work", processes=2)
    next(pieces_done)
    pieces_done.close()  # type: ignore[attr-defined]
    assert len([path for path in tmp_path.iterdir() if path.is_file()]) <= 2


KILLED = """
import sys
from pathlib import Path
from test_pieces import linger
from distillknob.runtime.spread import spread
if __name__ == "__main__":
    folder = Path(sys.argv[1])
    list(spread({name: (linger, (folder / name,)) for name in "ab"}, folder, processes=2))
"""


def linger(path: Path) -> None:
    path.write_text(str(os.getpid()))
    time.sleep(120)


def test_processes_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    starter = subprocess.Popen([sys.executable, str(script), str(tmp_path)], env={**os.environ, "PYTHONPATH": path})
    marks = [tmp_path / name for name in "ab"]
    wait_until(lambda: all(mark.exists() and mark.read_text() for mark in marks))
    starter.kill()
    starter.wait()
    workers = [Path("/proc") / mark.read_text() for mark in marks]
    wait_until(lambda: not any(worker.exists() for worker in workers))


def wait_until(true: Callable[[], bool], seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until
        time.sleep(0.1)
