"""What moved between two models' answers: figures by hand, planted shifts, and nothing where nothing moved."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from distillknob.errors import BadInputError
from distillknob.evaluation.moved import SHOWN, Written, moved_on
from distillknob.models.sampling import Sample
from distillknob.results.stages import MovedFigure, MovedShare, MovedTask
from distillknob.tasks import get_task
from written import ask, draw

EVEN = {"every_step": 0.5, "two_at_a_time": 0.5}


def sample(text: str, tokens: int = 3, *, finished: bool = True) -> Sample:
    return Sample(text, list(range(tokens)), finished)


def figure(moved: MovedTask, name: str) -> MovedFigure:
    return next(row for row in moved["figures"] if row["name"] == name)


def test_the_figures_are_means_of_problems_that_both_have() -> None:
    one, two, three = ask("one"), ask("two"), ask("three")
    before = Written(
        prompts=[one, one, two, two, three],
        samples=[sample("a", 2), sample("b", 4), sample("c", 9), sample("c", 9, finished=False), sample("z", 100)],
        right=[True, True, True, False, True],
        logprobs=[[0.0, -1.0], [-0.01] * 4, [-0.01] * 9, [-5.0] * 9, [0.0]],
    )
    after = Written(
        prompts=[one, one, two, two, ask("four")],
        samples=[sample("a", 6), sample("a", 6), sample("d", 9, finished=False), sample("e", 9), sample("z", 1)],
        right=[True, True, False, False, True],
        logprobs=[[0.0] * 6, [0.0] * 3 + [-0.2] * 3, [-5.0] * 9, [-5.0] * 9, [0.0]],
    )
    moved = moved_on(get_task("qa"), before, after)
    assert moved["problems"] == 2
    tokens, finished, different, sure = moved["figures"]
    assert (tokens["before"], tokens["after"], tokens["difference"], tokens["problems"]) == (3.0, 6.0, 3.0, 1)
    assert (finished["before"], finished["after"], finished["problems"]) == (0.75, 0.75, 2)
    assert (different["before"], different["after"]) == pytest.approx((2.0, 1.0))
    assert (sure["before"], sure["after"]) == pytest.approx((5 / 6, 9 / 12))
    assert math.isnan(tokens["interval"][0] or 0.0) and finished["interval"][0] is not None


def test_more_right_answers_are_no_more_different_ones() -> None:
    texts = ["a", "b", "a", "b"]
    prompts = [ask("one")] * 4 + [ask("two")] * 4
    samples = [sample(text) for text in texts * 2]
    before = Written(prompts, samples, right=[True, True, False, False] * 2)
    after = Written(prompts, samples, right=[True] * 8)
    row = figure(moved_on(get_task("qa"), before, after), "different")
    assert (row["before"], row["after"]) == pytest.approx((2.0, 2 * (1 - 1 / 6)))  # two of four, without replacement


def test_what_nobody_measured_is_undefined() -> None:
    written = Written([ask("one")], [sample("a", finished=False)], right=[False])
    moved = moved_on(get_task("qa"), written, written)
    for name in ("tokens", "different", "sure"):
        row = figure(moved, name)
        assert (row["before"], row["difference"], row["interval"], row["problems"]) == (None, None, [None, None], 0)


def test_a_planted_shift_is_seen_with_its_sign_in_clusters_and_named_ways() -> None:
    task = get_task("math")
    examples = task.examples("train", 100, seed=3)
    before = draw(examples, {"every_step": 0.3, "two_at_a_time": 0.7})
    after = draw(examples, {"every_step": 0.7, "two_at_a_time": 0.3})
    moved = moved_on(task, before, after)
    named: dict[str, MovedShare] = {row["way"]: row for row in moved["ways"]}
    clustered: dict[str, MovedShare] = {task.style(row["example"]): row for row in moved["clusters"]}
    for changes in (named, clustered):
        up, down = changes["every_step"], changes["two_at_a_time"]
        assert 0.3 < up["difference"] < 0.5 and (up["interval"][0] or 0) > 0.2
        assert -0.5 < down["difference"] < -0.3 and (down["interval"][1] or 0) < -0.2
        assert up["after"] - up["before"] == pytest.approx(up["difference"])
    assert sum(row["answers"] for row in moved["clusters"]) == 800


def test_where_nothing_moved_about_one_interval_in_twenty_leaves_out_0() -> None:
    task = get_task("math")
    holds = []
    for seed in range(12):
        examples = task.examples("train", 25, seed=seed)
        moved = moved_on(task, draw(examples, EVEN, seed=seed), draw(examples, EVEN, seed=-seed - 1))
        # Of two shares that sum to 1, one.
        for row in (moved["figures"][0], moved["ways"][0], moved["clusters"][0]):
            low, high = row["interval"]
            holds.append((low or 0) <= 0 <= (high or 0))
    assert sum(holds) >= 30  # of 36: 34 are to be expected, and the three of one draw go together


def test_the_largest_change_comes_first() -> None:
    task = get_task("qa")
    examples = task.examples("train", 60)
    moved = moved_on(
        task, draw(examples, {"recall": 0.2, "elimination": 0.8}), draw(examples, {"recall": 0.9, "elimination": 0.1})
    )
    for rows in (moved["ways"], moved["clusters"]):
        sizes = [abs(row["difference"]) for row in rows]
        assert sizes == sorted(sizes, reverse=True) and sizes[0] > 0.5


def test_one_model_beside_itself_is_certainly_unchanged() -> None:
    task = get_task("math")
    written = draw(task.examples("train", 10), EVEN)
    moved = moved_on(task, written, written, same=True)
    rows: list[Any] = [*moved["figures"][:3], *moved["ways"], *moved["clusters"]]
    assert {(row["difference"], *row["interval"]) for row in rows} == {(0.0, 0.0, 0.0)}
    assert figure(moved, "sure")["difference"] is None


def test_a_task_that_names_no_ways_has_clusters_alone() -> None:
    written = Written([ask("one")] * 4, [sample("plain"), sample("text")] * 2, right=[True] * 4)
    assert moved_on(get_task("instruct"), written, written)["ways"] == []


def test_an_empty_answer_and_a_long_one_are_shown_as_they_are() -> None:
    texts = ["", "x " * SHOWN] * 4
    written = Written([ask("one")] * 4 + [ask("two")] * 4, [sample(text) for text in texts], right=[True] * 8)
    empty, long = sorted((row["example"] for row in moved_on(get_task("qa"), written, written)["clusters"]), key=len)
    assert empty == "" and len(long) == SHOWN + 1 and long.endswith("…")
    json.dumps(moved_on(get_task("qa"), written, written))


def test_rows_that_do_not_fit_are_refused() -> None:
    written = Written([ask("one")], [sample("a")], right=[True])
    with pytest.raises(BadInputError, match="1 samples, but 2 prompts"):
        replace(written, prompts=[ask("one")] * 2)
    with pytest.raises(BadInputError, match="0 rows of log-probabilities"):
        replace(written, logprobs=[])
    with pytest.raises(BadInputError, match="share no problem"):
        moved_on(get_task("qa"), written, replace(written, prompts=[ask("two")]))
