"""How far the knob can turn, told from answers of which it is known."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from diagnosed import recipe_lines
from distillknob.diagnosis.finding import FAR, Finding
from distillknob.diagnosis.knob import Knob, _gains_most, frontier_rows, knob_rows, reward_rows, turns
from distillknob.diagnosis.knob_finding import knob_finding
from distillknob.diagnosis.samples import KnobSamples, OwnAnswers
from distillknob.stats import Interval

PROBLEMS, SAMPLES = 40, 8
Rows = list[list[Any]]


def planted(
    ratio: Rows,
    *,
    right: Rows | None = None,
    way: Rows | None = None,
    answer: Rows | None = None,
    **values: Any,
) -> Knob:
    """The forecast of answers with these log-ratios, [problems][samples]: right and different where nothing is said."""
    problems, samples = len(ratio), len(ratio[0])
    rights = torch.tensor(right or [[True] * samples] * problems).view(-1)
    ways = [one for row in way or [["other"] * samples] * problems for one in row]
    ratio_A = torch.tensor(ratio, dtype=torch.float64).view(-1)
    chosen: dict[str, Any] = {
        "task": "planted",
        "samples": samples,
        "score_A": rights.double(),
        "right_A": rights,
        "rewards_A": {values.get("reward", "sure_tokens"): ratio_A.masked_fill(~rights, 0.0)},
        "tokens_A": torch.full((problems * samples,), 10),
        "answer_A": torch.arange(problems * samples) if answer is None else torch.tensor(answer).view(-1),
        "way_A": ways,
        "named": set(ways) != {"other"},
        "etas": (-0.5, 0.5),
        "beta": 0.1,
        "reward": "sure_tokens",
    }
    own = OwnAnswers(
        task="planted",
        prompt_A=torch.arange(problems).repeat_interleave(2),
        right_A=torch.tensor([True, False] * problems),
        style_A=["easy", "hard"] * problems,
    )
    return Knob(KnobSamples(**{**chosen, **values}), own)


def two_ways(gap: float = 2.0, easy: int = 4, problems: int = PROBLEMS) -> tuple[Rows, Rows]:
    """Log-ratios and ways of answers of which `easy` cost the student `gap` nats less than the others, and a little
    noise that is each problem's own."""
    noise = torch.randn(problems, SAMPLES, generator=torch.Generator().manual_seed(5)).mul(0.05).tolist()
    ratios = [[1.0 + gap * (i >= easy) + row[i] for i in range(SAMPLES)] for row in noise]
    return ratios, [["easy"] * easy + ["hard"] * (SAMPLES - easy)] * problems


def finding(knob: Knob) -> Finding:
    told = knob_finding(knob)
    assert told.severity == "none" and bool(told.room) == told.applicable  # it is no trap
    assert (
        not told.applicable
        or recipe_lines(told.remedy)
        or "turn it to the other side" in told.remedy
        or "train the teacher" in told.remedy
        or any(f"take another {whom}" in told.remedy for whom in ("teacher", "student"))
    )
    return told


def test_two_ways_that_cost_otherwise_are_turned_far_and_the_student_follows() -> None:
    ratio, way = two_ways()
    knob = planted(ratio, way=way)
    below, above = (row for row in knob_rows(knob) if row["scope"] == "ways")
    assert below["turns"] == above["turns"] == "far"
    assert below["log_ratio"] == pytest.approx(2.0, abs=0.05)
    assert below["log_ratio_after"] == pytest.approx(1.0, abs=0.05)
    assert above["log_ratio_after"] == pytest.approx(3.0, abs=0.05)
    assert below["difference_per_token"] == pytest.approx(-0.1, abs=0.01)  # ten tokens an answer
    # Half of the answers lie in each way: to write one alone costs log 2.
    assert below["kl"] == pytest.approx(math.log(2), abs=0.01) and below["effective_samples"] == pytest.approx(
        4, abs=0.1
    )
    easy = next(one for one in below["ways"] if one["way"] == "easy")
    assert easy["before"] == 0.5 and easy["after"] == pytest.approx(1.0, abs=0.01)
    # The student is right where it writes the easy way, and half of its answers do.
    assert (below["student"], below["student_after"]) == (0.5, pytest.approx(1.0, abs=0.01))
    assert above["student_after"] == pytest.approx(0.0, abs=0.01)
    assert below["score"] == below["score_after"] == 1.0
    told = finding(knob)
    assert told.room in ("some", "much")  # a nat either way: the interval begins near the edge between these
    assert told.value == pytest.approx(2.0, abs=0.05) and told.interval[0] < told.value < told.interval[1]
    assert "η = -0.5: far" in told.cause and "50% are 'easy', then 100% (η = -0.5)" in told.cause
    assert recipe_lines(told.remedy) == [("eta", "-0.5"), ("method", "sft_best_of_n_sure")]


def test_log_ratios_that_are_alike_hardly_turn_it_and_the_cause_says_so() -> None:
    # They differ a lot between problems, where η can't reach.
    ratio = [[float(problem)] * SAMPLES for problem in range(PROBLEMS)]
    knob = planted(ratio, way=two_ways()[1])
    for row in knob_rows(knob):
        assert row["turns"] == "hardly" and row["difference"] == 0.0 and row["kl"] == pytest.approx(0.0, abs=1e-9)
    told = finding(knob)
    assert told.value == 0.0
    assert "the log-ratio hardly differs between right answers to one problem" in told.cause
    assert "deviation 0.00 nats; 0% of its variance lies there" in told.cause


def test_where_what_differs_is_wrong_that_is_the_cause() -> None:
    right = [[True, True, True, True, False, False, False, False]] * PROBLEMS
    answer = [[100 * i, 100 * i, 100 * i, 100 * i, *range(100 * i + 1, 100 * i + 5)] for i in range(PROBLEMS)]
    ratio = [[1.0] * 4 + [9.0, -9.0, 5.0, -5.0] for _ in range(PROBLEMS)]
    told = finding(planted(ratio, right=right, answer=answer))
    assert "on 100% of the problems the right answers are the same, or none is, and what differs is wrong" in told.cause
    assert "train the teacher on the task first" in told.remedy


def test_where_all_answers_are_the_same_that_is_the_cause() -> None:
    answer = [[problem] * SAMPLES for problem in range(PROBLEMS)]
    told = finding(planted([[2.0] * SAMPLES] * PROBLEMS, answer=answer))
    assert "all 8 answers are the same on 100% of the problems" in told.cause
    assert "take another teacher, or prompts that leave a choice" in told.remedy


def test_a_small_coefficient_beside_the_anchor_is_the_cause() -> None:
    ratio, way = two_ways()
    told = finding(planted(ratio, way=way, etas=(-0.01,), beta=1.0))
    assert "η = -0.01: hardly" in told.cause and "|η| is small beside the anchor (|η| / β = 0.01)" in told.cause
    assert recipe_lines(told.remedy) == [("eta", ""), ("beta", "")]


def test_an_easier_way_that_differs_from_problem_to_problem_turns_nothing_in_common() -> None:
    ratio, way = two_ways()
    mixed = [row if problem % 2 else row[4:] + row[:4] for problem, row in enumerate(ratio)]
    knob = planted(mixed, way=way)
    words = {(row["scope"], row["eta"]): row["turns"] for row in knob_rows(knob)}
    assert words["ways", -0.5] == words["ways", 0.5] == "hardly"
    assert words["answers", -0.5] == words["answers", 0.5] == "far"
    told = finding(knob)
    assert "no way of writing is favoured on all problems alike" in told.cause
    assert "With each problem learnt for itself: -1." in told.cause
    one_way = finding(planted(mixed))
    assert "all answers are of one way of writing" in one_way.cause


def test_a_teacher_that_mostly_writes_so_already_has_little_way_left() -> None:
    ratio, way = two_ways(easy=1)  # one easy answer of eight: the others lie at the other end already
    knob = planted(ratio, way=way)
    words = {row["eta"]: row["turns"] for row in knob_rows(knob) if row["scope"] == "ways"}
    assert words == {-0.5: "far", 0.5: "a little"}
    told = finding(knob)
    assert "the teacher mostly writes so already" in told.cause


def test_a_task_that_pulls_harder_turns_the_knob_the_wrong_way() -> None:
    """The hard way is mostly wrong: what η > 0 asks for costs more of the task's reward than it is worth."""
    ratio, way = two_ways()
    right = [[True] * 4 + [True, False, False, False]] * PROBLEMS
    knob = planted(ratio, way=way, right=right, etas=(0.1,))
    (row,) = (row for row in knob_rows(knob) if row["scope"] == "ways")
    assert row["turns"] == "the wrong way" and row["difference"] < 0 < row["score_difference"]
    told = finding(knob)
    assert "right are 'easy' in 100%, 'hard' in 25% of the answers" in told.cause
    assert recipe_lines(told.remedy) == [("task_term", "hold")]


def test_the_teacher_s_own_log_probability_counts_where_the_reward_is_the_whole_answer_s() -> None:
    ratio, way = two_ways()
    sure, whole = (
        next(row for row in knob_rows(planted(ratio, way=way, reward=reward)) if row["eta"] < 0)
        for reward in ("sure_tokens", "sequence")
    )
    assert sure["shift"] == whole["shift"] == sure["difference"]
    assert whole["difference"] == pytest.approx(sure["difference"] + sure["kl"], abs=1e-6)


def test_a_mean_is_told_of_a_mean_answer() -> None:
    ratio, way = two_ways()
    tokens = torch.tensor([[10] * 4 + [30] * 4] * PROBLEMS).view(-1)
    whole, mean = (
        next(row for row in knob_rows(planted(ratio, way=way, reward=reward, tokens_A=tokens)) if row["eta"] < 0)
        for reward in ("sequence", "sequence_mean")
    )
    assert mean["shift"] == whole["shift"] and mean["kl"] == whole["kl"]
    # The easy way has 10 tokens, a mean answer 20: its own log-probability rises by twice as much a token.
    assert mean["difference"] == pytest.approx(mean["shift"] + 2 * mean["kl"], abs=0.01)
    assert mean["difference_per_token"] == pytest.approx(mean["shift"] / 20, abs=1e-6)


def rewarded(**ratios: Rows) -> Knob:
    """The two ways with the log-ratios of several rewards, of which the first is asked about."""
    ways = two_ways()[1]
    rewards = {name: torch.tensor(ratio, dtype=torch.float64).view(-1) for name, ratio in ratios.items()}
    return planted(next(iter(ratios.values())), way=ways, rewards_A=rewards, reward=next(iter(ratios)))


def test_each_reward_is_told_with_the_way_that_it_favours() -> None:
    ratio = two_ways()[0]
    other = [[3.0 - value for value in row] for row in ratio]  # finds the easy way hard
    rows = reward_rows(rewarded(sure_tokens=ratio, sequence=other))
    told = [(row["eta"], row["reward"], row["way"]) for row in rows]
    assert told == [
        (-0.5, "sure_tokens", "easy"),
        (-0.5, "sequence", "hard"),
        (0.5, "sure_tokens", "hard"),
        (0.5, "sequence", "easy"),
    ]
    for row in rows:
        assert row["before"] == 0.5 and row["after"] == pytest.approx(1.0, abs=0.01)
        assert row["student_before"] == 0.5 and row["certainty"] == 1.0
        assert row["student_after"] == pytest.approx(1.0 if row["way"] == "easy" else 0.0, abs=0.01)
    assert reward_rows(planted([[1.0] * SAMPLES] * 3, right=[[False] * SAMPLES] * 3)) == []


def test_a_reward_that_does_more_with_the_student_is_advised() -> None:
    ratio, flat = two_ways()[0], [[float(p)] * SAMPLES for p in range(PROBLEMS)]
    told = finding(rewarded(sequence=flat, sure_tokens=ratio))
    assert "at η = -0.5 take another reward" in told.remedy and "go from 50% to 100%" in told.remedy
    assert "at η = +0.5 take another reward" in told.remedy and "go from 50% to 0%" in told.remedy
    named = [("eta", "-0.5"), ("reward", "sure_tokens"), ("eta", "0.5"), ("reward", "sure_tokens")]
    assert recipe_lines(told.remedy) == named  # and nothing that says otherwise
    # Not where the reward that was asked about does it already, nor where no other does.
    assert "another reward" not in finding(rewarded(sure_tokens=ratio, sequence=ratio)).remedy
    assert "another reward" not in finding(rewarded(sequence=flat, sure_tokens=flat)).remedy


@pytest.mark.parametrize("easy", [2, 6])
def test_what_the_teacher_does_to_a_student_unturned_is_no_reward_s_doing(easy: int) -> None:
    """A student that took over the teacher's ways would rise or fall before any turning."""
    ratio, way = two_ways(easy=easy)
    flat = torch.arange(PROBLEMS, dtype=torch.float64)[:, None].expand(-1, SAMPLES).reshape(-1)
    rewards = {"sequence": flat, "sure_tokens": torch.tensor(ratio, dtype=torch.float64).view(-1)}
    knob = planted(ratio, way=way, rewards_A=rewards, reward="sequence")
    for row in reward_rows(knob):
        assert row["student_before"] == easy / SAMPLES
        if row["reward"] == "sequence":
            assert row["way"] is row["before"] is row["certainty"] is None and row["student_change"] == pytest.approx(
                0, abs=1e-9
            )
    remedy = finding(knob).remedy
    assert f"go from {easy / SAMPLES:.0%} to 100%" in remedy and f"go from {easy / SAMPLES:.0%} to 0%" in remedy


def test_a_reward_that_costs_the_teacher_is_not_advised() -> None:
    ratio, way = two_ways()
    flat = torch.arange(PROBLEMS, dtype=torch.float64)[:, None].expand(-1, SAMPLES).reshape(-1)
    right = [[True] * 4 + [True, True, False, False]] * PROBLEMS  # the hard way is wrong half of the time
    rights = torch.tensor(right).view(-1)
    ratio_A = torch.tensor(ratio, dtype=torch.float64).view(-1)
    rewards = {"sequence": flat.masked_fill(~rights, 0.0), "sure_tokens": (3 * ratio_A).masked_fill(~rights, 0.0)}
    knob = planted(ratio, way=way, right=right, rewards_A=rewards, reward="sequence", etas=(2.0,))
    (row,) = (row for row in reward_rows(knob) if row["reward"] == "sure_tokens")
    assert row["student_change"] < 0 and row["score_interval"][1] < 0
    assert "another reward" not in finding(knob).remedy


def test_the_frontier_ends_at_the_best_of_the_samples() -> None:
    ratio, way = two_ways()
    rows = frontier_rows(planted(ratio, way=way))
    for scope, most in (("ways", math.log(2)), ("answers", math.log(SAMPLES))):
        for side, sign in (("below 0", -1), ("above 0", 1)):
            own = [row for row in rows if (row["scope"], row["side"]) == (scope, side)]
            spent, moved = [row["kl"] for row in own], [sign * row["shift"] for row in own]
            assert spent == sorted(spent) and moved == sorted(moved) and own[-1]["eta"] is None
            assert spent[0] > 0 and spent[-1] == pytest.approx(most, abs=1e-6)
    best = [row["shift"] for row in rows if row["scope"] == "answers" and row["eta"] is None]
    ends = torch.tensor(ratio)
    assert best[0] == pytest.approx(float((ends.min(1).values - ends.mean(1)).mean()), abs=1e-5)
    assert best[1] == pytest.approx(float((ends.max(1).values - ends.mean(1)).mean()), abs=1e-5)


def test_a_teacher_that_is_never_right_is_told_so() -> None:
    knob = planted([[1.0] * SAMPLES] * 3, right=[[False] * SAMPLES] * 3)
    told = knob_finding(knob)
    assert not told.applicable and "right in none of these answers" in told.cause
    assert knob_rows(knob) == frontier_rows(knob) == []


def test_problems_without_a_right_answer_count_in_no_log_ratio() -> None:
    ratio, way = two_ways(problems=10)
    half = planted(ratio * 2, way=way * 2, right=[[True] * SAMPLES] * 10 + [[False] * SAMPLES] * 10)
    for row, whole in zip(knob_rows(half), knob_rows(planted(ratio, way=way)), strict=True):
        assert row["n"] == 10 and row["log_ratio"] == pytest.approx(whole["log_ratio"])
        assert row["score"] == 0.5


def test_one_problem_has_values_and_no_word() -> None:
    ratio, way = two_ways(problems=1)
    for row in knob_rows(planted(ratio, way=way)):
        assert row["turns"] == "can't tell" and math.isfinite(row["difference"])
    assert "can't tell" in finding(planted(ratio, way=way)).cause


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (FAR, 2.0, "far"),
        (0.2, 0.9, "a little"),
        (-0.05, 0.3, "hardly"),
        (0.0, 0.0, "hardly"),
        (-0.09, -0.02, "hardly"),
        (-0.9, -0.2, "the wrong way"),
        (-1.0, 1.0, "can't tell"),
        (math.nan, math.nan, "can't tell"),
    ],
)
def test_the_word_goes_by_the_end_of_the_interval_that_is_nearer_to_nothing(low: float, high: float, word: str) -> None:
    assert turns(Interval(mean=(low + high) / 2, low=low, high=high, n=9), 0.5) == word
    assert turns(Interval(mean=(low + high) / -2, low=-high, high=-low, n=9), -0.5) == word


def test_ways_that_only_the_forecast_found_say_nothing_of_the_student() -> None:
    ratio, way = two_ways()
    knob = planted(ratio, way=way)
    row = knob_rows(replace(knob, samples=replace(knob.samples, named=False)))[0]
    assert row["student"] is None and row["student_interval"] == [None, None] and row["turns"] == "far"


def unlike(gap: float) -> Knob:
    """Two ways that a student can follow by all or nothing, and of which one is easier by so many nats only."""
    ratio, way = two_ways(gap=gap)
    return planted(ratio, way=way)


def test_a_student_that_would_surely_gain_is_worth_a_calibration_though_the_log_ratio_moves_little() -> None:
    knob = unlike(0.6)  # so that the log-ratio moves by less than half a nat, and half of the answers change their way
    rows = {row["eta"]: row for row in knob_rows(knob) if row["scope"] == "ways"}
    assert rows[-0.5]["turns"] == rows[0.5]["turns"] == "a little"
    remedy = finding(knob).remedy
    assert recipe_lines(remedy) == [("eta", "-0.5"), ("eta", "0.5")]
    assert "calibrate all the same (eta=-0.5): a student that writes as the teacher does would go from 50% to" in remedy
    # Not where the task names no ways, so that nothing is known of a student.
    unnamed = finding(planted(two_ways(gap=0.6)[0], way=two_ways()[1], named=False))
    assert "all the same" not in unnamed.remedy


def test_resamples_in_which_nothing_moves_count_for_no_way() -> None:
    still = planted([[float(p)] * SAMPLES for p in range(PROBLEMS)], way=two_ways()[1])
    weight_PS, share_P = still.untilted_PS, torch.full((PROBLEMS,), 1 / PROBLEMS, dtype=torch.float64)
    assert _gains_most(still, weight_PS, share_P) is None
    moved_PS = still.untilted_PS.clone()
    moved_PS[:, 0], moved_PS[:, -1] = moved_PS[:, 0] + 0.1, moved_PS[:, -1] - 0.1
    assert _gains_most(still, moved_PS, share_P) == "easy"
