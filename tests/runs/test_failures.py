"""What a cell failed by stands in its folder, with how often it was tried."""

from __future__ import annotations

from pathlib import Path

from distillknob.runs.failures import failure_in, forget_failure, record_failure


def test_a_failure_is_final_when_the_cell_was_tried_twice_and_can_be_taken_back(tmp_path: Path) -> None:
    folder = tmp_path / "cells" / "one"
    assert failure_in(folder) is None
    record_failure(folder, "one", "no memory")
    first = failure_in(folder)
    assert first is not None and (first.reason, first.tries, first.final) == ("no memory", 1, False)
    record_failure(folder, "one", "no disk")
    second = failure_in(folder)
    assert second is not None and (second.reason, second.tries, second.final) == ("no disk", 2, True)
    forget_failure(folder)
    forget_failure(folder)
    assert failure_in(folder) is None
