"""The graders of mathematics and choices: a corpus of hard strings, and limits that hold in any thread.

tests/fixtures/graders.jsonl holds completions with the verdict that a careful reader would give. A part of a completion
that is a pair [text, n] stands for n repetitions.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distillknob.tasks.graders import math_equality
from distillknob.tasks.graders.choice import chosen_letter, committed_choice
from distillknob.tasks.graders.math_equality import equal
from distillknob.tasks.graders.mathematics import final_answer, is_correct

FIXTURES = Path(__file__).parents[2] / "fixtures"
CORPUS = [json.loads(line) for line in (FIXTURES / "graders.jsonl").read_text("utf-8").splitlines()]
CHOICES = ["Paris", "London", "A man", "none of these", "Rome"]


def completion_of(row: dict[str, Any]) -> str:
    parts = row["completion"] if isinstance(row["completion"], list) else [row["completion"]]
    return "".join(part if isinstance(part, str) else part[0] * part[1] for part in parts)


def accepts(row: dict[str, Any]) -> bool:
    if row["grader"] == "math":
        return is_correct(completion_of(row), row["reference"])
    return chosen_letter(completion_of(row), row.get("choices", CHOICES)) == row["reference"]


@pytest.fixture(scope="module")
def verdicts() -> list[tuple[dict[str, Any], bool, float]]:
    found = []
    equal("x", "y")  # the worker's start isn't a string's time
    for row in CORPUS:
        started = time.monotonic()
        accepted = accepts(row)
        found.append((row, accepted, time.monotonic() - started))
    return found


def test_the_corpus_is_large_and_has_both_verdicts_for_both_graders() -> None:
    counts = Counter((row["grader"], row["right"]) for row in CORPUS)
    assert len(CORPUS) >= 80 and len(counts) == 4 and min(counts.values()) >= 20, counts


def test_nothing_wrong_is_accepted_and_what_is_wrongly_rejected_is_known(
    verdicts: list[tuple[dict[str, Any], bool, float]],
) -> None:
    false_accepts = [row["what"] for row, accepted, _ in verdicts if accepted and not row["right"]]
    false_rejects = [row["what"] for row, accepted, _ in verdicts if row["right"] and not accepted]
    known = [row["what"] for row in CORPUS if row.get("known_false_reject")]
    print(
        f"{len(verdicts)} strings, {len(false_accepts)} false accepts, {len(false_rejects)} false rejects (all known)"
    )
    assert false_accepts == []
    assert false_rejects == known


def test_no_string_takes_longer_than_its_time(verdicts: list[tuple[dict[str, Any], bool, float]]) -> None:
    # A killed worker is started again within the next string's time.
    slowest = max(verdicts, key=lambda verdict: verdict[2])
    assert slowest[2] < math_equality.SECONDS + 20, slowest[0]["what"]


def test_nothing_in_a_completion_is_executed(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    code = f"__import__('pathlib').Path('{mark}').touch()"
    for text in (code, f"Answer: {code}", f"\\boxed{{{code}}}", f"\\boxed{{1+{code}}}", f"Answer: ${code}$"):
        assert not is_correct(text, "x")
        assert not is_correct(text, "1")
    assert not mark.exists()


@pytest.fixture
def short_time(monkeypatch: pytest.MonkeyPatch) -> float:
    monkeypatch.setattr(math_equality, "SECONDS", 1.0)
    return 1.0


def test_the_time_limit_holds_in_threads_and_the_next_answer_is_right(short_time: float) -> None:
    """A thread can't have an alarm, and a loop in C couldn't be interrupted by one."""
    powers = [f"9^{{9^{{9^{n}}}}}" for n in (7, 8)]
    with ThreadPoolExecutor(4) as pool:
        started = time.monotonic()
        found = list(pool.map(lambda answer: equal("x^2", answer), powers))
        assert found == [False, False]
        assert time.monotonic() - started < len(powers) * short_time + 30
        assert list(pool.map(lambda i: equal(f"{i}+y", f"y+{i}"), range(20, 40))) == [True] * 20
    assert threading.active_count() < 50


def test_a_worker_that_dies_is_replaced() -> None:
    assert equal("a+1", "1+a")
    worker = math_equality._current
    assert worker is not None
    worker.process.kill()
    worker.process.wait()
    assert equal("b+1", "1+b")
    assert math_equality._current is not worker


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_has_a_worker_of_its_own() -> None:
    assert equal("c+1", "1+c")
    pid = os.fork()
    if pid == 0:
        os._exit(0 if equal("d+2", "2+d") and not equal("d+2", "d+3") else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert equal("e+1", "1+e")


@settings(max_examples=100, deadline=None)
@given(
    st.text(max_size=60), st.sampled_from(["", "Answer: ", "\\boxed{", "#### ", "the answer is "]), st.text(max_size=60)
)
def test_graders_never_raise(before: str, middle: str, after: str) -> None:
    text = before + middle + after
    assert is_correct(text, "\\text{no such answer}") in (True, False)
    for found in (final_answer(text), committed_choice(text)):
        assert found is None or found.strip()
    assert chosen_letter(text, CHOICES) in (None, *"ABCDE")


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("so \\boxed{3}", "3"),
        ("\\boxed{\\frac{1}{2}} then \\boxed{4}", "4"),
        ("Answer: 5\n", "5"),
        ("\\boxed{3}\n\nAnswer: 4", "4"),
        ("I give up.", None),
        ("", None),
    ],
)
def test_what_a_completion_commits_to(completion: str, answer: str | None) -> None:
    assert final_answer(completion) == answer
