"""Progress where stderr is no terminal: a line at once, then now and then."""

from __future__ import annotations

import sys

import pytest
from tqdm import tqdm

from distillknob.runtime.progress import LogLines, progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time in seconds, to be moved on by the test."""
    now = [100.0]
    monkeypatch.setattr("distillknob.runtime.progress.time.monotonic", lambda: now[0])
    monkeypatch.setattr(LogLines, "printed", -float("inf"))
    return now


def test_a_log_gets_its_first_line_at_once_and_then_a_line_every_tenth_or_minute(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with progress("calibrate η=0.25", 100, unit="step") as lines:
        assert capsys.readouterr().err == "calibrate η=0.25: 100 steps\n"
        lines.set_postfix({"task": "0.9", "log-ratio": "2.3"})
        for _ in range(40):
            clock[0] += 3.0
            lines.update()
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 4  # of 40 steps, 30 seconds each tenth
    assert told[0] == "calibrate η=0.25: 10 of 100 steps, 00:30, about 04:30 left, task 0.9, log-ratio 2.3"
    clock[0] += 60.0
    slow = progress("slow", 1000)
    slow.update()
    clock[0] += 61.0
    slow.update()
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_short_work_fills_no_log(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(50):
        with progress(f"part {number}", 10) as lines:
            for _ in range(10):
                clock[0] += 0.01
                lines.update()
    assert capsys.readouterr().err == "part 0: 10 its\n"


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with progress("work", 3, unit="step") as bar:
        assert isinstance(bar, tqdm)
