"""The page of a comparison shows each method beside the baseline, and bears whatever a result lacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distillknob.methods import METHODS
from distillknob.report.page import build_report
from planted_comparison import comparison
from planted_runs import Page, write_run


def page(folder: Path, **changes: Any) -> Page:
    return Page(build_report(write_run(folder / "run", "compare", comparison() | changes)))


def plain(page: Page) -> str:
    return page.text.replace("\N{NO-BREAK SPACE}", " ").replace("\N{NARROW NO-BREAK SPACE}", " ")


def test_the_reader_learns_which_method_leads_and_how_many_are_told_from_the_baseline(pages: dict[str, Path]) -> None:
    text = plain(Page(pages["compare"]))
    assert (
        "math, original: on-policy RKL stands first of 3; 1 of 2 are better than GKD and 1 worse when all are looked "
        "at together."
    ) in text
    assert "math, eta-0.5: on-policy RKL stands first of 3; 0 of 2 are better than GKD and 1 worse" in text
    assert "7 of 9 cells are done." in text


def test_the_table_has_a_method_s_figures_in_the_order_of_rank(pages: dict[str, Path]) -> None:
    text = plain(Page(pages["compare"]))
    line = "on-policy RKLbetter166.0 % [64.0, 68.0]+6.0 [+5.0, +7.0]–+26.0 [+25.0, +27.0]0.9 s1.820.002100"
    assert line in text
    table = text[text.index("math, teacher original: the table") :]
    assert table.index("on-policy RKL") < table.index("GKD–") < table.index("gold SFT needs no teacher")
    assert "TIP failed: the loss is no number" in table


def test_each_teacher_has_a_panel_with_its_methods_in_one_order(pages: dict[str, Path]) -> None:
    drawn = [svg for svg in Page(pages["compare"]).svgs if not svg["swatch"]]
    assert len(drawn) == 2


def test_rates_and_what_is_missing_are_told_with_their_reasons(pages: dict[str, Path]) -> None:
    text = plain(Page(pages["compare"]))
    assert "At the edge of what was tried, so that one beyond may be better: GKD." in text
    assert "0.001: 50.0 %" in text and "0.004: the loss is no number" in text
    assert "one tokenizer <b>stands</b> before both" in text and "students/original/tip-seed0" in text


@pytest.mark.parametrize(
    "changes",
    [{"rows": []}, {"rows": None, "rates": None}, {"before": []}, {"teachers": None}, {"cells": None}, {"baseline": 3}],
)
def test_a_result_that_lacks_parts_still_has_a_page(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert page(tmp_path, **changes).sections == ["glance", "result", "rates", "missing", "provenance"]


def test_the_word_of_a_difference_follows_its_one_adjusted_p(tmp_path: Path) -> None:
    result = comparison()
    for row in result["rows"]:
        if row["method"] == "sft_gold":  # over problems it holds, over trainings not
            row["to_baseline"] |= {"p_problems": 0.001, "p_trainings": 0.2, "adjusted": 0.4, "trainings": [-0.25, 0.05]}
    assert "1 of 2 are better than GKD and 0 worse" in plain(page(tmp_path, rows=result["rows"]))


def test_own_settings_failed_seeds_and_each_reason_for_free_tokens_stand_beside_a_method(tmp_path: Path) -> None:
    result = comparison()
    for row in result["rows"]:
        if row["method"] == "opd_rkl":
            row |= {"settings": {"problems": 400}, "budget": "chooses tokens"}
        if row["method"] == "sft_gold":
            row |= {"state": "in part", "reason": "seed 1: the loss is no number", "budget": "counts no tokens"}
    text = plain(page(tmp_path, rows=result["rows"]))
    assert "problems 400" in text and "in part: seed 1: the loss is no number" in text
    of_opd, of_sft = (METHODS[name].label for name in ("opd_rkl", "sft_gold"))
    assert f"{of_opd}: chooses tokens; {of_sft}: counts no tokens" in text and "° trained on the same steps" in text
