"""A page about a sweep: its curve, its cells, what stands beside them."""

from __future__ import annotations

import json
from pathlib import Path

from distillknob.report.page import build_report
from planted_results import student
from planted_runs import Page, sweep_run


def test_sweep_tells_its_curve_and_cells(pages: dict[str, Path]) -> None:
    text = Page(pages["sweep"]).text.replace("\N{NO-BREAK SPACE}", " ")
    assert "Turning η from −1 to +1 takes the students on math from" in text
    assert "from 87.0 % to 27.0 % by GKD (Spearman −0.98)." in text
    assert "14 of 15 cells are done." in text and "Not run: cell-1.0-2" in text


def test_a_sweep_s_calibrations_causes_and_controls(tmp_path: Path) -> None:
    path = sweep_run(tmp_path / "sweep")
    result = json.loads((path / "result.json").read_text())
    result["causal"] = [
        {
            "eta": eta,
            "seed": 0,
            "variant": "",
            "task": "math",
            "measure": "wrong_trace_preference",
            "unit": "share",
            "value": 0.1 + eta,
            "difference": None if eta == 0 else eta,
            "interval": None if eta == 0 else [eta - 0.2, eta + 0.2],
        }
        for eta in (-1.0, 0.0, 0.1)
    ]
    known = {"variant": "shuffled", "eta": 0.5, "seed": 0, "method": "gkd", "task": "math"}
    result["variants"] = {
        "students": [{**student("eta+0.5", "gkd", "math", 0.41), **known}],
        "differences": [{**known, "difference": -0.021, "interval": [-0.04, 0.01]}],
    }
    (path / "result.json").write_text(json.dumps(result))
    page = Page(build_report(path, tmp_path / "page.html"))
    text = page.text.replace("\N{NO-BREAK SPACE}", " ")
    assert page.sections == [
        "glance",
        "knob",
        "result",
        "causal",
        "variants",
        "failures",
        "cells",
        "provenance",
    ]
    assert "20 of 25" in text and "0.012" in text
    assert "Of 2 differences to the original, 1 have an interval off zero." in text
    assert "shuffled" in text and "41.0" in text and "−2.1" in text
