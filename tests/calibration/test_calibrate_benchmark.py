"""The benchmark of a calibration's step runs, with TRL's GRPO and with ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import distillknob
from benchmark_files import benchmark
from pairs import Pair

WHOLE = {"accumulation": 1, "lora_r": 0, "bf16": False, "attention": None}
ADAPTER = {"accumulation": 2, "lora_r": 4, "bf16": False, "attention": "eager"}


@pytest.mark.parametrize("options", [WHOLE, ADAPTER])
@pytest.mark.parametrize("contender", ["grpo", "calibrate"])
def test_each_step_but_the_first_is_timed(tiny_pair: Pair, contender: str, options: dict[str, Any]) -> None:
    settings = {"teacher": tiny_pair.teacher, "target": tiny_pair.student, "tasks": ["qa"], "steps": 2, "batch": 8}
    told = benchmark("calibrate").measured(contender, {**settings, **options})
    assert len(told["seconds"]) == 2 and min(told["seconds"]) > 0
    assert Path(told["source"]) == Path(distillknob.__file__).parents[1]


def test_an_older_tree_without_the_package_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["calibrate.py", "--before", str(tmp_path)])
    with pytest.raises(SystemExit):
        benchmark("calibrate").main()
    assert f"--before {tmp_path}: there is no package distillknob in it" in capsys.readouterr().err
