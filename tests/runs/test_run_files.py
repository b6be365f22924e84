"""Files appear whole or not at all, also on a full disk."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from distillknob.errors import RunFailedError
from distillknob.runs import files
from distillknob.runs.files import atomic_directory, atomic_write
from distillknob.runs.run import Run
from run_folders import CONFIG, snapshot


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """A real full disk, as far as one process is concerned: no file may grow beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_atomic_write_replaces_and_keeps_no_temporary_file(tmp_path: Path) -> None:
    atomic_write(tmp_path / "a", b"one")
    atomic_write(tmp_path / "a", b"two")
    assert snapshot(tmp_path) == {"a": b"two"}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    run = Run.open(tmp_path / "run", "calibrate", CONFIG)
    run.write_json("state.json", {"step": 1})
    before = snapshot(tmp_path)

    def full(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunFailedError, match=r"no space left to write .*state.json.*is kept.*--resume"):
        run.write_json("state.json", {"step": 2})
    assert snapshot(tmp_path) == before


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    run = Run.open(tmp_path / "run", "calibrate", CONFIG)
    run.log(step=1)
    with file_size_limit(2000), pytest.raises(RunFailedError, match=r"samples.jsonl"):
        run.write_samples([{"text": "x" * 5000}])
    assert not (run.path / "samples.jsonl").exists()
    with file_size_limit(2000), pytest.raises(RunFailedError, match=r"metrics.jsonl.*--resume"):
        for step in range(2, 200):
            run.log(step=step, text="y" * 100)
    logged = len(run.metrics())
    assert 10 <= logged < 20
    resumed = Run.open(tmp_path / "run", "calibrate", CONFIG, resume=True)
    resumed.log(step=99)
    assert len(resumed.metrics()) == logged + 1


def test_a_directory_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with atomic_directory(tmp_path / "model") as folder:
        (folder / "a").write_text("1")
        assert not (tmp_path / "model").exists()
    with pytest.raises(KeyboardInterrupt), atomic_directory(tmp_path / "model") as folder:
        (folder / "a").write_text("2")
        raise KeyboardInterrupt
    assert snapshot(tmp_path) == {"model/a": b"1"}
    with atomic_directory(tmp_path / "model") as folder:
        (folder / "b").write_text("3")
    assert snapshot(tmp_path) == {"model/b": b"3"}


def test_a_file_is_hashed_once_a_process_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "weights"
    times: list[Path] = []

    def recorded(path: Path) -> str:
        times.append(path)
        return path.read_text()

    file.write_bytes(b"one")
    os.utime(file, (1, 1))
    monkeypatch.setattr(files, "_JUST_WRITTEN", -1.0)
    monkeypatch.setattr(files, "sha256", recorded)
    assert [files.digest(file), files.digest(file)] == ["one", "one"] and len(times) == 1
    file.write_bytes(b"two")
    os.utime(file, (1, 1))
    assert files.digest(file) == "two"
