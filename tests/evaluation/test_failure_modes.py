"""The failure modes' rules, on texts that were planted for each of them and for none."""

from __future__ import annotations

import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distillknob.evaluation.failure_modes import CONFIDENT, LONGEST_RUN, MODES, REPEATS, failure_mode, repeats_itself
from distillknob.tasks import get_task

DEGRADED, COLLAPSED, HALLUCINATED = MODES
SURE, UNSURE = math.log(0.95), math.log(0.5)
MATH, INSTRUCT = get_task("math"), get_task("instruct")
RIGHT = "47+85=22\n-10=12\nAnswer: 12"


@pytest.mark.parametrize(
    ("text", "score", "mean_logprob", "mode"),
    [
        # Repetition and emptiness, whatever else the text is.
        ("", 0.0, SURE, DEGRADED),
        (" \n ", 0.0, UNSURE, DEGRADED),
        ("the the the", 0.0, UNSURE, DEGRADED),
        ("so 47 + 47 + 47 + 47 + 47 Answer: 12", 0.0, SURE, DEGRADED),
        ("well, I see. I see. I see. Answer: 12", 1.0, SURE, DEGRADED),
        # Steps, and no answer.
        ("47+85=22\n-10=12", 0.0, SURE, COLLAPSED),
        ("47+85=22 no, 47+85=32 wait, 47+85=22", 0.0, UNSURE, COLLAPSED),
        ("Answer:", 0.0, SURE, COLLAPSED),
        # A wrong answer, with and without confidence.
        ("47+85=32\n-10=22\nAnswer: 22", 0.0, SURE, HALLUCINATED),
        ("47+85=32\n-10=22\nAnswer: 22", 0.0, math.log(CONFIDENT), HALLUCINATED),
        ("47+85=32\n-10=22\nAnswer: 22", 0.0, math.log(CONFIDENT) - 1e-9, None),
        ("47+85=32\n-10=22\nAnswer: 22", 0.0, UNSURE, None),
        # Nothing wrong.
        (RIGHT, 1.0, SURE, None),
        (RIGHT, 1.0, UNSURE, None),
        ("the the lamp Answer: 12", 1.0, SURE, None),  # twice is no loop
    ],
)
def test_planted_texts_have_the_mode_that_was_planted(
    text: str, score: float, mean_logprob: float, mode: str | None
) -> None:
    assert failure_mode(MATH, text, score, mean_logprob) == mode


@pytest.mark.parametrize("text", ["The lamp is near the river.", "lamp river", "Answer: 12"])
def test_a_task_without_one_right_answer_knows_degradation_alone(text: str) -> None:
    assert failure_mode(INSTRUCT, text, 0.0, SURE) is None
    assert failure_mode(INSTRUCT, "lamp lamp lamp", 0.9, SURE) == DEGRADED
    assert failure_mode(INSTRUCT, "", 0.0, SURE) == DEGRADED


WORDS = [f"w{i}" for i in range(2 * LONGEST_RUN)]


@pytest.mark.parametrize("length", range(1, LONGEST_RUN + 1))
def test_a_run_of_up_to_eight_words_three_times_over_is_a_loop(length: int) -> None:
    run = WORDS[:length]
    for before in ([], ["so"]):
        for after in ([], ["then"]):
            assert repeats_itself(" ".join([*before, *run * REPEATS, *after]))
            assert not repeats_itself(" ".join([*before, *run * (REPEATS - 1), *after]))
    broken = [*run * REPEATS]
    broken[-1] = "other"
    assert not repeats_itself(" ".join(broken))


@pytest.mark.parametrize(
    "text",
    [
        r"2 \times 2 \times 2 \times 2 = 16. \boxed{16}",
        "3 + 3 + 3 + 3 = 12\n#### 12",
        "0 & 0 & 0 & 1",
        "| a | b | c |\n| --- | --- | --- |\n| 1 | 2 | 3 |",
    ],
)
def test_a_right_answer_may_have_signs_and_numbers_in_a_row(text: str) -> None:
    assert failure_mode(MATH, text, 1.0, SURE) is None
    assert failure_mode(MATH, text, 0.0, SURE) == DEGRADED
    assert failure_mode(MATH, f"{text} I see. I see. I see.", 1.0, SURE) == DEGRADED


def test_a_longer_run_is_no_loop() -> None:
    assert not repeats_itself(" ".join(WORDS[: LONGEST_RUN + 1] * REPEATS))
    assert not repeats_itself(" ".join(WORDS))
    assert not repeats_itself("a b a b a")


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from("abc"), max_size=14))
def test_loops_are_those_that_a_plain_search_finds(words: list[str]) -> None:
    plainly = any(
        words[i : i + n] == words[i + n : i + 2 * n] == words[i + 2 * n : i + 3 * n]
        for n in range(1, LONGEST_RUN + 1)
        for i in range(len(words) - 3 * n + 1)
    )
    assert repeats_itself(" ".join(words)) == plainly


@settings(max_examples=100, deadline=None)
@given(st.text(), st.floats(-20, 0))
def test_any_text_has_one_mode_or_none(text: str, mean_logprob: float) -> None:
    for task, reference in ((MATH, "12"), (INSTRUCT, {"kind": "sentence", "words": ["lamp", "river"]})):
        assert failure_mode(task, text, task.grade(text, reference), mean_logprob) in (*MODES, None)


def test_a_long_text_is_judged_in_no_time() -> None:
    started = time.process_time()
    assert not repeats_itself(" ".join(f"w{i}" for i in range(100_000)))
    assert repeats_itself("x " * 100_000)
    assert time.process_time() - started < 5
