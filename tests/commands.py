"""Commands of distillknob, run in this process."""

from __future__ import annotations

import pytest

from distillknob.cli.main import main
from distillknob.stages import EXPERIMENTS
from pairs import Pair

SMALL = ["--problems", "4", "--samples", "2"]


def command(*words: object) -> int:
    """The exit status, also where argparse leaves by itself."""
    try:
        return main([str(word) for word in words])
    except SystemExit as left:
        return int(left.code or 0)


def models(stage: str, pair: Pair) -> list[str]:
    """Flags that name tiny models to a stage."""
    if stage in EXPERIMENTS:
        return []
    if stage == "evaluate":
        return ["--models", pair.teacher, pair.student]
    if stage == "fingerprint":  # whose key may be any text
        return ["--teacher", pair.teacher, "--student", pair.student, "--key-file", __file__]
    if stage == "prune":  # whose tiny models have one layer each
        return ["--model", pair.teacher, "--mlp-width", "16"]
    if stage == "memorization":
        return ["--teacher", pair.teacher, "--student", pair.student, "--baseline", pair.student]
    target = ["--target", pair.student] if stage in ("calibrate", "distill") else []
    return [
        "--teacher",
        pair.teacher,
        *([] if stage in ("calibrate", "cache", "defend") else ["--student", pair.student]),
        *(["--proxy", pair.student] if stage == "defend" else []),
        *target,
    ]


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """Run a command that must be refused as bad input; its one message."""
    assert command(*words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    assert "error: " in err
    return err
