"""What attackers keep of a teacher's answers."""

from __future__ import annotations

import pytest

from distillknob.attacks.base import Answer, Trace
from distillknob.attacks.choosing import is_degenerate, majority, right_ones, without_repeats
from distillknob.attacks.scene import resampled


def answer(text: str, *, committed: str | None = None, right: bool = True, finished: bool = True) -> Answer:
    return Answer(text, [], finished, committed, right)


@pytest.mark.parametrize(
    "text, degenerate",
    [
        ("raid " * 40, True),
        ("First we add two. " + "and so on " * 6, True),
        ("a b c d " * 4, True),
        ("12+3=15\n15+4=19\n19-2=17\nAnswer: 17", False),
        ("yes yes yes", False),
        ("", False),
        ("we take the sum of the first and the sum of the second and the product", False),
    ],
)
def test_loops_are_told_from_answers(text: str, degenerate: bool) -> None:
    assert is_degenerate(text) is degenerate


def test_repeats_go_within_a_problem_and_over_problems() -> None:
    rows = [
        [answer("one"), answer("one"), answer("said to all")],
        [answer("said to all"), answer("two"), answer("cut off", finished=False), answer("")],
    ]
    assert [[one.text for one in row] for row in without_repeats(rows)] == [["one"], ["two"]]


def test_a_right_answer_that_was_cut_off_is_none() -> None:
    assert right_ones([answer("a", finished=False), answer("b"), answer("c", right=False)]) == [answer("b")]


def test_the_majority_ignores_answers_that_commit_to_nothing() -> None:
    assert majority([answer("a"), answer("b"), answer("c", committed="7")]) == "7"
    assert majority([answer("a")]) is None


def test_a_trace_is_taken_as_often_as_its_weight_says() -> None:
    traces = [Trace(None, name, weight=weight) for name, weight in (("a", 0.0), ("b", 2.0), ("c", 0.5), ("d", 1.5))]  # type: ignore[arg-type]
    counts = {name: [trace.text for trace in resampled(traces)].count(name) for name in "abcd"}
    assert counts["a"] == 0 and counts["b"] == 2 and sum(counts.values()) == 4
    assert counts["c"] in (0, 1) and counts["d"] in (1, 2)
