"""The benchmark beside TRL's trainers runs, and gives all of them the same work."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from benchmark_files import benchmark
from pairs import Pair


@pytest.fixture(scope="module")
def peers() -> ModuleType:
    return benchmark("peers")


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the high-water mark is read from /proc")
def test_all_contenders_do_the_same_work(peers: ModuleType, tiny_pair: Pair) -> None:
    rows = peers.traces(tiny_pair.teacher, tiny_pair.student, ["qa"], 8)
    assert len(rows) == 8 and {"prompt", "completion", "completion_ids"} <= rows[0].keys()
    settings = {"teacher": tiny_pair.teacher, "student": tiny_pair.student, "steps": 2, "longest": 6, "bf16": False}
    measurements: list[dict[str, Any]] = []
    for work in peers.works(4):
        results: dict[str, list[Any]] = {}
        for name in work.contenders:
            if name != "before":
                told = peers.measured(name, work, rows, settings)
                assert len(told["seconds"]) == (1 if work.whole else 2) and min(told["seconds"]) > 0
                assert len(told["tokens"]) == (2 if work.whole else 3) and min(told["tokens"]) > 0
                if work.share_on_policy == 1:
                    assert max(told["tokens"]) <= 4 * 6  # no answer is longer than asked for
                results[name] = [told]
        measurements.append({"work": {"name": work.name}, "results": results})
    assert set(measurements[0]["results"]) == {"ours", "trl", "gkd"}
    # A line for each contender of each work, beneath the heading.
    assert len(peers.table(measurements).splitlines()) == 2 + 3 + 2 + 1


def test_the_table_sets_ours_beside_each_other(peers: ModuleType) -> None:
    ours = {"seconds": [1.0, 3.0, 2.0], "tokens": [100, 100], "peak_bytes": 10_000_000}
    other = {"seconds": [4.0, 4.0], "tokens": [400, 400], "peak_bytes": 40_000_000}
    *_, last = peers.table([{"work": {"name": "step"}, "results": {"ours": [ours], "trl": [other]}}]).splitlines()
    assert last == "| step | trl | 4.000 | 400 | 40 | 0.50 | 2.00 | 0.25 |"
