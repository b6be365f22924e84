"""What `compare` prints: the leaders, a table a task and teacher, and what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distillknob.cli.text import result_text
from distillknob.runs.run import load_run
from planted_comparison import comparison
from planted_runs import write_run


def told(folder: Path, **changes: Any) -> str:
    return result_text(load_run(write_run(folder / "run", "compare", comparison() | changes)))


def test_a_table_has_the_methods_by_rank_beside_the_baseline(tmp_path: Path) -> None:
    text = told(tmp_path)
    assert "math, teacher original: opd_rkl stands first of 3; 1 of 2 are better than gkd and 1 worse" in text
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "opd_rkl 1 66.0 [64.0, 68.0] +6.0 [+5.0, +7.0] better +26.0 [+25.0, +27.0] 1.80× 2.00" in lines
    assert "gkd 2 60.0 [58.0, 62.0] – – +20.0 [+19.0, +21.0] 1.00× 2.00" in lines
    assert "sft_gold* 3 50.0 [48.0, 52.0] -10.0 [-11.0, -9.0] worse +10.0 [+9.0, +11.0] 1.00× 2.00" in lines
    assert "* needs none of these teachers: trained once, the same beside each." in lines


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    text = told(tmp_path)
    assert "! failed: students/original/tip-seed0: the loss is no number" in text
    assert "! the best learning rate tried was the lowest or the highest for gkd" in text
    assert "not applicable somewhere, with the reasons on the page: uld" in text


def test_of_many_methods_the_first_are_shown_and_the_baseline(tmp_path: Path) -> None:
    rows = [row for row in comparison()["rows"] if row["method"] == "opd_rkl" and row["teacher"] == "original"]
    many = [{**rows[0], "method": f"m{place}", "rank": place} for place in range(1, 20)]
    many.append({**rows[0], "method": "gkd", "rank": 20, "to_baseline": None})
    text = told(tmp_path, rows=many)
    assert "m12 " in text and "m13 " not in text and "\ngkd " in text
    assert "7 more methods stand on the page." in text
