"""The script that sets our sampling beside transformers' own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from pairs import Pair

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "sampling.py"


def test_both_are_timed_on_the_same_rows(tiny_pair: Pair) -> None:
    flags = ["--model", tiny_pair.teacher, "--tasks", "qa", "--problems", "2", "--samples", "3", "--rounds", "2"]
    done = subprocess.run([sys.executable, SCRIPT, *flags], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("6 rows, at most ") and "2 rounds" in done.stdout
    rates = {
        name: float(rate)
        for name, rate in re.findall(r"^\| (distillknob|transformers generate) \| (\d+) \|", done.stdout, re.MULTILINE)
    }
    told = float(done.stdout.rsplit(": ", 1)[1])
    assert rates.keys() == {"distillknob", "transformers generate"}
    assert abs(told - rates["distillknob"] / rates["transformers generate"]) < 0.1 * told
