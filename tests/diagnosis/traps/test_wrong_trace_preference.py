"""Wrong-trace preference, in candidates written down and planted in pairs."""

from __future__ import annotations

import pytest
import torch

from diagnosed import MILD, Diagnose, covers, fired, right, silent
from distillknob.diagnosis.samples import (
    Candidates,
)
from distillknob.diagnosis.traps.wrong_trace_preference import (
    in_one_style,
    in_two_styles,
    preference_by_prompt,
    preference_rows,
    wrong_trace_preference,
)
from planted import ASKED, PlantedTask, chain


def candidates(
    right: list[float],
    wrong: list[float],
    tokens: tuple[int, int] = (10, 10),
    prompts: int = 12,
    styles: list[str] | None = None,
) -> Candidates:
    """The same candidates for each prompt: log-likelihoods of right and of wrong ones, how long each kind is, and the
    way each is written in."""
    each = len(right) + len(wrong)
    return Candidates(
        task="planted",
        prompt_A=torch.arange(prompts).repeat_interleave(each),
        right_A=torch.tensor(([True] * len(right) + [False] * len(wrong)) * prompts),
        logprob_A=torch.tensor((right + wrong) * prompts),
        tokens_A=torch.tensor(([tokens[0]] * len(right) + [tokens[1]] * len(wrong)) * prompts),
        style_A=(styles or ["one"] * each) * prompts,
    )


def test_wrong_trace_preference_fires_where_the_teacher_prefers_wrong_answers() -> None:
    finding = wrong_trace_preference(candidates([-9.0, -2.0], [-1.0, -5.0]))
    assert finding.value == 0.75  # -1 beats both, -5 beats -9
    assert (finding.severity, finding.n) == ("high", 12)


def test_wrong_trace_preference_is_silent_where_the_teacher_knows_better() -> None:
    finding = wrong_trace_preference(candidates([-1.0, -2.0], [-7.0, -9.0]))
    assert (finding.value, finding.severity) == (0.0, "none")


def test_a_habit_shows_between_two_ways_of_writing_and_not_within_one() -> None:
    """A teacher that knows right from wrong in each way, but likes the second way so much better that its wrong answers
    beat the first way's right ones."""
    judged = candidates([-5.0, -1.0], [-8.0, -3.0], styles=["a", "b", "a", "b"])
    assert preference_by_prompt(judged, "sum", in_one_style)[1] == [0.0] * 12
    assert preference_by_prompt(judged, "sum", in_two_styles)[1] == [0.5] * 12  # b's wrong one beats a's right one
    rows = {(row["wrong_style"], row["right_style"]): row["value"] for row in preference_rows(judged)}
    assert rows == {("a", "a"): 0.0, ("a", "b"): 0.0, ("b", "a"): 1.0, ("b", "b"): 0.0}
    alone = candidates([-5.0], [-8.0], styles=["a", "b"])
    assert preference_by_prompt(alone, "sum", in_one_style) == ([], [])
    assert [row["n"] for row in preference_rows(alone)] == [12]


def test_ties_count_half_and_the_length_counts_where_it_is_asked_for() -> None:
    assert wrong_trace_preference(candidates([-3.0], [-3.0])).value == 0.5
    long_wrong = candidates([-2.0], [-4.0], tokens=(4, 16))  # -0.5 a token against -0.25
    assert wrong_trace_preference(long_wrong).value == 0.0
    per_token = wrong_trace_preference(long_wrong, "mean")
    assert (per_token.value, per_token.name) == (1.0, "wrong_trace_preference_per_token")


@pytest.mark.parametrize("kinds", [([-1.0], []), ([], [-1.0]), ([], [])])
def test_without_both_kinds_there_is_nothing_to_prefer(kinds: tuple[list[float], list[float]]) -> None:
    finding = wrong_trace_preference(candidates(*kinds))
    assert not finding.applicable and "both a right and a wrong" in finding.cause


def test_prompts_with_one_kind_alone_are_left_out() -> None:
    mixed = candidates([-2.0], [-1.0], prompts=4)
    mixed.right_A[:4] = True  # the first two prompts have right answers alone
    assert (wrong_trace_preference(mixed).n, wrong_trace_preference(mixed).value) == (2, 1.0)


def test_wrong_traces_that_the_teacher_prefers_are_found(diagnose_tables: Diagnose) -> None:
    """Of two wrong answers the teacher likes one better than the right one; the student writes both alike."""
    teacher = {ASKED: {"right": 0.3, "wrong": 0.6, "worse": 0.1}}
    student = {ASKED: {"right": 0.5, "wrong": 0.25, "worse": 0.25}}
    result = diagnose_tables(teacher, student, PlantedTask(right), candidates=16)
    for name in ("wrong_trace_preference", "wrong_trace_preference_per_token"):
        finding = result[name]
        assert fired(finding, "high") and covers(finding, 0.5)
        assert (
            "habits of writing" in finding["cause"] and "2.0 tokens on average, the right ones 2.0" in finding["cause"]
        )
        assert "method=sft_verified" in finding["remedy"]


def test_a_teacher_that_knows_better_prefers_no_wrong_trace(diagnose_tables: Diagnose) -> None:
    table = {ASKED: {"right": 0.9, "wrong": 0.05, "worse": 0.05}}
    result = diagnose_tables(table, table, PlantedTask(right), mild=MILD, candidates=16)
    for name in ("wrong_trace_preference", "wrong_trace_preference_per_token"):
        assert silent(result[name]) and result[name]["value"] == 0.0


@pytest.mark.parametrize("longer", ["right", "wrong"])
def test_a_bias_of_length_is_told_by_one_of_the_two_preferences(diagnose_tables: Diagnose, longer: str) -> None:
    """Sums of log-likelihoods favour the short answer, means the long one whose every word is likelier."""
    shorter = "wrong" if longer == "right" else "right"
    # log 0.4 = -0.92 over two tokens, against log 0.6 + 5·log 0.8 = -1.63 over seven.
    steps = [{f"c{i}": 0.8, f"d{i}": 0.2} for i in range(5)]
    table = {ASKED: {longer: 0.6, shorter: 0.4}, **chain(*steps, start=longer)}
    result = diagnose_tables(table, table, PlantedTask(lambda words: words[0] == "right"), candidates=32, problems=60)
    summed, mean = result["wrong_trace_preference"], result["wrong_trace_preference_per_token"]
    if longer == "right":
        # Every long answer loses by its sum; by its mean only those with two or more of the unlikely words.
        assert (
            fired(summed, "high")
            and summed["value"] == 1.0
            and "wrong answers that it prefers have 2.0" in summed["cause"]
        )
        assert "the right ones 7.0" in summed["cause"]
    else:
        assert silent(summed) and summed["value"] == 0.0
        assert fired(mean, "high") and "wrong answers that it prefers have 7.0" in mean["cause"]
    # A short answer has -0.46 a token; a long one -0.23, and 0.20 less for each unlikely word: it wins with up to one.
    loses = 1 - 0.8**5 - 5 * 0.8**4 * 0.2
    assert covers(mean, loses if longer == "right" else 1 - loses)
