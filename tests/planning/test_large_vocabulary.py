"""The dry run's account against what stages take with 151,936 tokens, where logits and embeddings are nearly all.

Held within a factor of two: the process keeps freed blocks of smaller phases, and libraries' own copies aren't counted,
which makes the measured peak higher; the account has every phase's tensors at once and every answer at its longest,
which makes it lower. A tensor over the vocabulary that nobody counts is more than that.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FAST, LONG = ["distill-gkd", "distill-sft", "diagnose", "evaluate", "cache"], ["calibrate", "calibrate-lora"]
pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="the high-water mark is read from /proc"
)


def measured(cases: list[str], output: Path) -> list[dict[str, Any]]:
    command = [sys.executable, str(ROOT / "benchmarks" / "memory.py"), "--large-vocabulary", *cases]
    done = subprocess.run(
        [*command, "--output", str(output)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = json.loads(output.read_text())
    return rows


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, dict[str, Any]]]:
    yield {row["case"]: row for row in measured(FAST, tmp_path_factory.mktemp("memory") / "rows.json")}


@pytest.mark.parametrize("case", FAST)
def test_the_account_holds_the_peak_of_a_large_vocabulary(rows: dict[str, dict[str, Any]], case: str) -> None:
    assert 0.5 <= rows[case]["ratio"] <= 2, rows[case]


@pytest.mark.slow
def test_the_account_holds_the_peak_of_a_calibration(tmp_path: Path) -> None:
    for row in measured(LONG, tmp_path / "rows.json"):
        assert 0.5 <= row["ratio"] <= 2, row
