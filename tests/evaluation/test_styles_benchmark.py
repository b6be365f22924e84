"""The script that tells how often models answer in each way, and how often they are then right."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "styles.py"


def test_shares_and_scores_by_way(tmp_path: Path) -> None:
    ways = [("small", "chain", 1.0), ("small", "chain", 0.0), ("small", "bare", 0.0), ("small", "chain", 1.0)]
    ways += [("large", "bare", 1.0)] * 4
    rows = [
        {"model": model, "task": "tracking", "prompt": f"problem {n % 2}", "style": style, "score": score}
        for n, (model, style, score) in enumerate(ways)
    ]
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = subprocess.run([sys.executable, SCRIPT, tmp_path], capture_output=True, text=True, check=True)
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines() if line]
    assert cells[0][0] == "tracking"
    assert [row[:2] for row in cells[2:]] == [["small", "bare"], ["small", "chain"], ["large", "bare"]]
    means = [[cell.split()[0] for cell in row[2:]] for row in cells[2:]]
    assert means == [["25.0", "0.0"], ["75.0", "66.7"], ["100.0", "100.0"]]
