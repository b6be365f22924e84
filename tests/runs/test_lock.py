"""One process works in a run directory; the next is told who, and a killed one stands in nobody's way."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from distillknob.errors import BadInputError
from distillknob.runs.lock import LOCK, hold
from distillknob.runs.run import Run, discard_unstarted, load_run, verify_manifest

# Opens a run, says so, and works until it is told to end, or is killed.
WORKER = """
import sys
from distillknob.runs.run import Run
path, how = sys.argv[1:]
run = Run.open(path, "calibrate", {"eta": 0.5}, resume=True, shared="shared" in how)
if "opened" not in how:
    run.log(step=1)
print("at work", flush=True)
sys.stdin.readline()
if how == "alone":
    run.log(step=2)
    run.finish({"score": 1.0})
print("done", flush=True)
"""


@contextmanager
def at_work(path: Path, how: str = "alone") -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", WORKER, str(path), how]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline() == "at work\n"
        yield process
        if process.poll() is None:
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline() == "done\n"


@pytest.mark.parametrize("resume", [True, False])
def test_a_second_process_is_refused_and_told_who_is_at_work(tmp_path: Path, resume: bool) -> None:
    with at_work(tmp_path / "run") as process:
        before = {file.name: file.read_bytes() for file in (tmp_path / "run").iterdir()}
        who = rf"\(process {process.pid} on {socket.gethostname()}, since 20.*\): wait for it, or choose another"
        with pytest.raises(BadInputError, match=rf"another process is at work in .*run {who}"):
            Run.open(tmp_path / "run", "calibrate", {"eta": 0.5}, resume=resume)
        with pytest.raises(BadInputError, match="another process is at work"):
            Run.check(tmp_path / "run", "calibrate", {"eta": 0.5}, resume=resume)
        with pytest.raises(BadInputError, match="another process is at work"):
            Run.finished(tmp_path / "run", "calibrate", {"eta": 0.5}, resume=resume)
        assert {file.name: file.read_bytes() for file in (tmp_path / "run").iterdir()} == before
        assert load_run(tmp_path / "run").metrics() == [{"step": 1}]  # a reader reads on
    assert [row["step"] for row in load_run(tmp_path / "run").metrics()] == [1, 2]
    assert verify_manifest(tmp_path / "run") == [] and not (tmp_path / "run" / LOCK).exists()
    assert Run.open(tmp_path / "run", "calibrate", {"eta": 0.5}).result["score"] == 1.0


def test_a_killed_process_stands_in_nobodys_way(tmp_path: Path) -> None:
    with at_work(tmp_path / "run") as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (tmp_path / "run" / LOCK).exists()
    run = Run.open(tmp_path / "run", "calibrate", {"eta": 0.5}, resume=True)
    assert json.loads((run.path / LOCK).read_text())["pid"] == os.getpid()
    run.finish({})
    assert LOCK not in json.loads((run.path / "manifest.json").read_text())["files"]


def test_a_killed_process_leaves_an_unfinished_run_that_still_needs_resume(tmp_path: Path) -> None:
    with at_work(tmp_path / "run") as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
    with pytest.raises(BadInputError, match=r"unfinished run of calibrate \(1 rows"):
        Run.open(tmp_path / "run", "calibrate", {"eta": 0.5})


def test_processes_share_a_directory_on_purpose_and_keep_out_who_wants_it_alone(tmp_path: Path) -> None:
    with at_work(tmp_path / "run", "shared"), at_work(tmp_path / "run", "shared"):
        with pytest.raises(BadInputError, match="another process is at work"):
            Run.open(tmp_path / "run", "calibrate", {"eta": 0.5}, resume=True)
        Run.open(tmp_path / "run", "calibrate", {"eta": 0.5}, resume=True, shared=True)


@pytest.mark.parametrize("how", ["opened", "shared opened"])
def test_of_two_processes_that_start_together_the_refused_one_leaves_the_other_s_run_alone(
    tmp_path: Path, how: str
) -> None:
    """Both have seen that there is no such directory, so the refused one would clear away what it takes for its own."""
    with at_work(tmp_path / "run", how):
        before = {file.name: file.read_bytes() for file in (tmp_path / "run").iterdir()}
        discard_unstarted(tmp_path / "run")
        assert {file.name: file.read_bytes() for file in (tmp_path / "run").iterdir()} == before


def test_a_refused_process_clears_away_what_it_began_itself(tmp_path: Path) -> None:
    run = Run.open(tmp_path / "run", "calibrate", {})
    discard_unstarted(run.path)
    assert not run.path.exists()


def test_one_process_opens_its_run_again_and_runs_within_it(tmp_path: Path) -> None:
    outer = Run.open(tmp_path / "run", "demo", {})
    again = Run.open(tmp_path / "run", "demo", {}, resume=True)
    inner = Run.open(tmp_path / "run" / "inner", "evaluate", {})
    inner.finish({})
    again.finish({})
    assert outer.complete and verify_manifest(outer.path) == []


def test_only_the_first_process_of_a_launch_holds_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with at_work(tmp_path / "run"):
        monkeypatch.setenv("RANK", "1")
        assert not Run.open(tmp_path / "run", "calibrate", {"eta": 0.5}, resume=True).complete


def test_a_directory_that_can_not_be_written_keeps_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distillknob.runs.run.environment", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Run.open(tmp_path / "run", "calibrate", {})
    assert LOCK not in {file.name for file in (tmp_path / "run").iterdir()}


def test_without_locks_the_work_goes_on_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none(*arguments: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", none)
    assert hold(tmp_path) is None
    assert "knows no locks: start no second process there" in capsys.readouterr().err
    Run.open(tmp_path / "run", "calibrate", {}).finish({})
    assert load_run(tmp_path / "run").complete


def test_who_opened_the_lock_of_a_finished_run_takes_a_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the opening of the file and its locking the holder finishes and deletes it."""
    first = hold(tmp_path)
    assert first is not None
    take, late = fcntl.lockf, [True]

    def finishes_before(descriptor: int, how: int) -> None:
        if late.pop() if late else False:
            (tmp_path / LOCK).unlink()
        take(descriptor, how)

    first.release()
    monkeypatch.setattr(fcntl, "lockf", finishes_before)
    held = hold(tmp_path)
    assert held is not None and (tmp_path / LOCK).exists()
    held.release()
    assert not (tmp_path / LOCK).exists()
