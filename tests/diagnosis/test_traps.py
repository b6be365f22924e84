"""Traps on planted pairs: each fires where its trap was laid, is silent where not, and says so where it can't know."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from distillknob.diagnosis import DiagnoseConfig, Finding, diagnose
from distillknob.diagnosis.compare import BY_PROMPT, compare
from distillknob.diagnosis.finding import graded
from distillknob.diagnosis.forecast import forecast_rows
from distillknob.diagnosis.gradients import compare_gradients
from distillknob.diagnosis.pair_scores import RARE
from distillknob.diagnosis.pilot import pilot_rows
from distillknob.diagnosis.samples import (
    Candidates,
    Continuations,
    GradientSample,
    OwnAnswers,
    ScoredTokens,
    StyledAnswers,
)
from distillknob.diagnosis.traps.capacity_gap import capacity_gap, style_rows
from distillknob.diagnosis.traps.off_policy import (
    CLIP,
    WEIGHTINGS,
    horizon_rows,
    off_policy_instability,
    off_policy_rows,
    weighted_terms,
)
from distillknob.diagnosis.traps.sequence_myopia import myopia_rows, sequence_myopia
from distillknob.diagnosis.traps.signal_sparsity import position_rows, quadrant_rows, signal_sparsity
from distillknob.diagnosis.traps.student_prefixes import accuracy_on_student_prefixes, prefix_rows
from distillknob.diagnosis.traps.tail_noise import scatter_rows, tail_noise, tail_rows
from distillknob.diagnosis.traps.teacher_hacking import teacher_hacking
from distillknob.diagnosis.traps.wrong_trace_preference import (
    in_one_style,
    in_two_styles,
    preference_by_prompt,
    preference_rows,
    wrong_trace_preference,
)
from distillknob.divergences.dense import divergence
from distillknob.divergences.per_token import token_stats
from distillknob.divergences.sequence import ESTIMATORS, enumerate_sequences
from distillknob.errors import BadInputError
from distillknob.models.chat import prompt_ids
from distillknob.models.load import load_model
from distillknob.models.scoring import answer_logits, batches
from distillknob.runs.files import read_json
from distillknob.runs.run import verify_manifest
from distillknob.stats import Interval
from pairs import Pair

VOCABULARY, PROMPTS, TOKENS = 200, 80, 20


def sampled(
    teacher: torch.Tensor,
    student: torch.Tensor,
    *,
    ks: tuple[int, ...] = (1, 5, 50, VOCABULARY),
    policy: str = "off_policy",
) -> ScoredTokens:
    """One answer a prompt, TOKENS tokens each, from logits [PROMPTS·TOKENS, V]."""
    generator = torch.Generator().manual_seed(0)
    source = teacher if policy == "off_policy" else student
    token_N = torch.multinomial(source.softmax(-1), 1, generator=generator)[:, 0]
    stats = token_stats(student, teacher, list(ks), rare=RARE)
    assert stats.rare_kl is not None
    return ScoredTokens(
        task="planted",
        policy=policy,
        prompt_A=torch.arange(PROMPTS),
        answer_N=torch.arange(PROMPTS).repeat_interleave(TOKENS),
        token_N=token_N,
        forward_kl_N=stats.forward_kl,
        reverse_kl_N=stats.reverse_kl,
        teacher_logprob_N=teacher.log_softmax(-1).gather(-1, token_N[:, None])[:, 0],
        student_logprob_N=student.log_softmax(-1).gather(-1, token_N[:, None])[:, 0],
        student_entropy_N=stats.student_entropy,
        forward_parts_topk_NK=stats.forward_parts_topk,
        forward_gap_topk_NK=stats.forward_gap_topk,
        rare_kl_N=stats.rare_kl,
        ks=ks,
        texts={i: f"<{i}>" for i in range(teacher.size(-1))},
    )


def known_logprobs(
    prompt_A: torch.Tensor, answer_N: torch.Tensor, teacher_N: torch.Tensor, student_N: torch.Tensor, policy: str
) -> ScoredTokens:
    """A sample of which nothing but its log-probabilities is known."""
    zeros = torch.zeros(len(answer_N))
    return ScoredTokens(
        task="known",
        policy=policy,
        prompt_A=prompt_A,
        answer_N=answer_N,
        token_N=zeros.long(),
        forward_kl_N=zeros,
        reverse_kl_N=zeros,
        teacher_logprob_N=teacher_N,
        student_logprob_N=student_N,
        student_entropy_N=zeros,
        forward_parts_topk_NK=zeros[:, None],
        forward_gap_topk_NK=zeros[:, None],
        rare_kl_N=zeros,
        ks=(1,),
        texts={},
    )


def markov(table: torch.Tensor) -> Any:
    """Next-token log-probabilities over three tokens: each depends on the last one, the first on nothing."""
    return lambda ids: (table[ids[:, -1]] if ids.size(1) else table[:1].expand(len(ids), -1)).log_softmax(-1)


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def peaked(tail: float) -> torch.Tensor:
    """A teacher that has five tokens to say, and gives the tail that share of its mass."""
    probs = torch.full((VOCABULARY,), tail / (VOCABULARY - 5))
    probs[:5] = (1 - tail) / 5
    return probs.log().repeat(PROMPTS * TOKENS, 1)


# Tail noise


def test_tail_noise_fires_where_the_disagreement_lies_in_the_tail() -> None:
    teacher = peaked(0.2)
    student = teacher.clone()
    student[:, 5:] += 2.0 * noise(PROMPTS * TOKENS, VOCABULARY - 5)
    finding = tail_noise(sampled(teacher, student))
    assert finding.applicable and finding.severity == "high" and finding.value > 0.4
    assert finding.interval[0] <= finding.value <= finding.interval[1]
    assert finding.n == PROMPTS and "top 5" in finding.cause


def test_tail_noise_is_silent_where_the_head_disagrees() -> None:
    teacher = peaked(0.0001)
    student = teacher.clone()
    student[:, :5] += 2.0 * noise(PROMPTS * TOKENS, 5)
    finding = tail_noise(sampled(teacher, student))
    assert finding.severity == "none" and finding.value < 0.05
    assert "top_k=5" in finding.remedy


def test_the_shares_of_the_tail_rise_to_the_whole() -> None:
    teacher, student = noise(PROMPTS * TOKENS, VOCABULARY, seed=2), noise(PROMPTS * TOKENS, VOCABULARY, seed=3)
    sample = sampled(teacher, student)
    rows = tail_rows(sample)
    assert [row["k"] for row in rows] == [1, 5, 50, VOCABULARY]
    shares = [row["share"] for row in rows]
    assert shares == sorted(shares) and shares[-1] == pytest.approx(1.0, abs=1e-4)
    # The whole carries the whole: a share has no noise where it can't be anything else.
    assert rows[-1]["interval"] == pytest.approx([1.0, 1.0], abs=1e-4)
    assert all(0 <= row["interval"][0] <= row["share"] <= row["interval"][1] <= 1 for row in rows)
    by_hand = [float(sample.forward_parts_topk_NK[:, j].sum() / sample.forward_kl_N.sum()) for j in range(4)]
    assert shares == pytest.approx(by_hand, abs=1e-4)


def test_the_scatter_has_a_point_for_each_token_type_and_k() -> None:
    sample = sampled(noise(PROMPTS * TOKENS, 8, seed=2), noise(PROMPTS * TOKENS, 8, seed=3), ks=(1, 8))
    rows = scatter_rows(sample)
    assert len(rows) == 2 * 8
    for row in rows:
        here = sample.token_N == int(row["token"].strip("<>"))
        assert row["frequency"] == int(here.sum())
        column = sample.ks.index(row["k"])
        assert row["kl"] == pytest.approx(float(sample.forward_parts_topk_NK[here, column].mean()), rel=1e-4)
    few = scatter_rows(sample, tokens=3)
    assert len(few) == 6
    assert {row["frequency"] for row in few} <= set(sorted((r["frequency"] for r in rows), reverse=True)[:6])


def test_a_tail_whose_mass_alone_differs_is_no_noise() -> None:
    teacher = peaked(0.001)
    finding = tail_noise(sampled(teacher, teacher + torch.cat([torch.zeros(5), torch.full((VOCABULARY - 5,), 3.0)])))
    assert finding.severity == "none" and finding.value < 1e-3
    assert float(finding.cause.split("%")[0]) > 50  # of the KL, which lies beyond the top 5


def test_an_infinite_kl_has_no_shares() -> None:
    teacher = noise(PROMPTS * TOKENS, VOCABULARY)
    student = teacher.clone()
    student[3, 7] = -math.inf
    for trap in (tail_noise, signal_sparsity):
        finding = trap(sampled(teacher, student))
        assert not finding.applicable and "probability 0" in finding.cause and math.isnan(finding.value)


# Signal sparsity


def test_signal_sparsity_fires_where_a_few_tokens_carry_the_signal() -> None:
    teacher = noise(PROMPTS * TOKENS, VOCABULARY)
    student = teacher.clone()
    student[::TOKENS] = noise(PROMPTS, VOCABULARY, seed=5)  # one token of twenty
    finding = signal_sparsity(sampled(teacher, student))
    assert finding.applicable and finding.severity == "high" and 0 < finding.value <= 0.05


def test_signal_sparsity_is_silent_where_every_token_carries_its_part() -> None:
    teacher = noise(PROMPTS * TOKENS, VOCABULARY)
    finding = signal_sparsity(sampled(teacher, teacher + 0.5 * noise(PROMPTS * TOKENS, VOCABULARY, seed=5)))
    assert finding.severity == "none" and finding.value > 0.8


def test_the_signal_s_place_in_the_answer_is_told() -> None:
    teacher = noise(PROMPTS * TOKENS, VOCABULARY)
    student = teacher.clone()
    student.view(PROMPTS, TOKENS, VOCABULARY)[:, 2:4] += noise(PROMPTS, 2, VOCABULARY, seed=2)  # third and fourth token
    rows = position_rows(sampled(teacher, student))
    assert [(row["first"], row["last"]) for row in rows] == [(1, 1), (2, 2), (3, 4), (5, 8), (9, 16), (17, 32)]
    means = {row["first"]: row["mean"] for row in rows}
    assert means.pop(3) > 0.1 and all(mean == 0.0 for mean in means.values())
    assert all(row["n"] == PROMPTS for row in rows)


def test_quadrants_part_the_tokens_by_entropy_and_divergence() -> None:
    """Half of the tokens unsure, a quarter apart, half of each kind: hand-made, so that every share is known."""
    sample = sampled(noise(PROMPTS * TOKENS, VOCABULARY), noise(PROMPTS * TOKENS, VOCABULARY, seed=2))
    place = torch.arange(PROMPTS * TOKENS)
    made = replace(
        sample,
        student_entropy_N=(place % 2 == 1).double(),
        forward_kl_N=torch.where(place % 4 >= 3, 3.0, torch.where(place % 4 == 2, 1.0, 0.0)),
    )
    rows = {(row["entropy"], row["divergence"]): row for row in quadrant_rows(made)}
    assert {key: row["tokens"] for key, row in rows.items()} == dict.fromkeys(rows, 0.25) and len(rows) == 4
    assert rows["high", "high"]["share_of_kl"] == pytest.approx(0.75)
    assert rows["low", "high"]["share_of_kl"] == pytest.approx(0.25)
    assert rows["high", "low"]["share_of_kl"] == rows["low", "low"]["share_of_kl"] == 0.0


def test_identical_models_set_no_trap() -> None:
    teacher = noise(PROMPTS * TOKENS, VOCABULARY)
    for trap in (tail_noise, signal_sparsity):
        finding = trap(sampled(teacher, teacher))
        assert not finding.applicable and finding.severity == "none" and math.isnan(finding.value)
        assert "agree exactly" in finding.cause
    assert all(row["share"] == 0.0 for row in tail_rows(sampled(teacher, teacher)))


# Wrong-trace preference


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


def test_severity_asks_for_evidence() -> None:
    def severity(low: float) -> str:
        return graded(Interval(mean=0.9, low=low, high=1.0, n=5), 0.05, 0.1, 0.25)

    assert [severity(low) for low in (0.04, 0.06, 0.2, 0.3, math.nan)] == ["none", "low", "medium", "high", "none"]


# Off-policy instability


def drifted(drift: float, answers: int = 400, tokens: int = 12) -> ScoredTokens:
    """Teacher's samples over a vocabulary of six, and a student that lies `drift` away at every token."""
    teacher = noise(1, 6, seed=21).expand(answers * tokens, -1).double().log_softmax(-1)
    student = (teacher + drift * noise(1, 6, seed=22)).log_softmax(-1)
    token_N = torch.multinomial(teacher.exp(), 1, generator=torch.Generator().manual_seed(6))[:, 0]
    return known_logprobs(
        torch.arange(answers) // 2,
        torch.arange(answers).repeat_interleave(tokens),
        teacher.gather(-1, token_N[:, None])[:, 0],
        student.gather(-1, token_N[:, None])[:, 0],
        "off_policy",
    )


def test_off_policy_instability_fires_where_the_policies_lie_apart_and_not_where_they_are_near() -> None:
    near, far = off_policy_instability(drifted(0.1)), off_policy_instability(drifted(2.0))
    teacher = noise(1, 6, seed=21).double().log_softmax(-1)
    student = (teacher + 0.1 * noise(1, 6, seed=22)).log_softmax(-1)
    exact = float((2 * student - teacher).exp().sum()) ** -12  # 1 / E[w²] over twelve independent tokens
    assert near.severity == "none" and near.value == pytest.approx(exact, rel=0.05)
    assert far.severity == "high" and far.value < 0.05 and "opd_rkl" in far.remedy
    for finding in (near, far):
        assert finding.interval[0] <= finding.value <= finding.interval[1] and finding.n == 200
    shares = [row["share"] for row in horizon_rows(drifted(1.0))]
    assert len(shares) == 12 and shares[0] > 2 * shares[-1]


def test_off_policy_instability_is_silent_on_identical_models_and_undefined_on_one_answer() -> None:
    same = off_policy_instability(drifted(0.0))
    assert (same.value, same.severity) == (1.0, "none")
    assert not off_policy_instability(drifted(0.0, answers=1)).applicable
    one_prompt = off_policy_instability(drifted(2.0, answers=2))  # whose spread nothing is known of
    assert all(math.isnan(bound) for bound in one_prompt.interval) and one_prompt.severity == "none"


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_weighted_estimates_of_the_reverse_kl_agree_with_their_exact_values(weighting: str, estimator: str) -> None:
    # Three tokens, sequences of four: the expectation is a sum over 81 sequences, computed here by brute force.
    answers, first, second = 40_000, noise(3, 3, seed=11).double(), noise(3, 3, seed=12).double()
    p_next, q_next = markov(first), markov(0.5 * first + 0.5 * second)
    ids, p = enumerate_sequences(p_next, 3, 4)
    _, q = enumerate_sequences(q_next, 3, 4)

    def tokenwise(next_token: Any) -> torch.Tensor:
        return torch.stack([next_token(ids[:, :t]).gather(1, ids[:, t : t + 1])[:, 0] for t in range(4)], 1)

    p_tokens, q_tokens = tokenwise(p_next), tokenwise(q_next)
    torch.testing.assert_close(p_tokens.sum(1), p)
    drawn = torch.multinomial(p.exp(), answers, replacement=True, generator=torch.Generator().manual_seed(4))
    sample = known_logprobs(
        torch.arange(answers),
        torch.arange(answers).repeat_interleave(4),
        p_tokens[drawn].flatten(),
        q_tokens[drawn].flatten(),
        "off_policy",
    )

    def estimate(gap: torch.Tensor) -> torch.Tensor:
        return {"k1": gap, "k2": gap.square() / 2, "k3": (-gap).exp() - 1 + gap}[estimator]

    weight, value = (q - p).exp(), estimate(q - p)
    if weighting == "per_decision":
        steps = q_tokens - p_tokens
        exact = (p.exp() * (steps.cumsum(1).exp() * estimate(steps)).sum(1)).sum()
    elif weighting == "clipped":
        exact = (p.exp() * weight.clamp(max=CLIP) * value).sum()
    else:  # self-normalised up to 1/n
        exact = (q.exp() * value).sum()
    terms = weighted_terms(sample, weighting, estimator)
    noise_of_mean = float(terms.std()) / answers**0.5
    assert abs(float(terms.mean() - exact)) < 4 * noise_of_mean + 1e-4
    if weighting != "clipped" and estimator != "k2":  # which are other quantities
        assert float(exact) == pytest.approx(float((q.exp() * (q - p)).sum()), rel=1e-9)


def test_an_answer_that_the_student_cannot_write_weighs_nothing() -> None:
    """Its weight of 0 times an estimator that is infinite there is what it tends to, and not NaN."""
    teacher, student = torch.full((8,), -1.0), torch.tensor([-0.5, -1.5, -1.0, -2.0, -0.5, -0.5, -1.0, -math.inf])
    never = known_logprobs(torch.arange(4), torch.arange(4).repeat_interleave(2), teacher, student, "off_policy")
    hardly = student.clone()
    hardly[-1] = -25.0
    seldom = known_logprobs(torch.arange(4), torch.arange(4).repeat_interleave(2), teacher, hardly, "off_policy")
    for weighting in WEIGHTINGS:
        for estimator in ESTIMATORS:
            terms = [weighted_terms(sample, weighting, estimator) for sample in (never, seldom)]
            assert terms[0].isfinite().all()
            torch.testing.assert_close(*terms, atol=1e-6, rtol=1e-6)


def test_a_control_variate_takes_variance_away() -> None:
    sample = drifted(0.5)
    plain, controlled = (weighted_terms(sample, name, "k1") for name in ("plain", "control_variate"))
    assert controlled.std() < plain.std()


def test_off_policy_rows_set_every_estimate_beside_the_on_policy_value() -> None:
    off, on = known_pair(4000, "off_policy")[0], known_pair(4000, "on_policy")[0]
    rows = off_policy_rows(off, on)
    assert {(row["weighting"], row["estimator"]) for row in rows} == {(w, e) for w in WEIGHTINGS for e in ESTIMATORS}
    for row in rows:
        assert row["bias"] == row["value"] - row["on_policy"]
        assert row["interval"][0] <= row["value"] <= row["interval"][1]


def test_answers_are_laid_out_token_by_token() -> None:
    sample = sampled(noise(PROMPTS * TOKENS, 5), noise(PROMPTS * TOKENS, 5, seed=2), ks=(1, 5))
    kept = torch.arange(PROMPTS * TOKENS) % TOKENS < (torch.arange(PROMPTS * TOKENS) // TOKENS) % TOKENS + 1
    ragged = replace(sample, answer_N=sample.answer_N[kept])
    values, mask = ragged.by_answer(torch.arange(PROMPTS * TOKENS)[kept])
    assert mask.sum(1).tolist() == [i % TOKENS + 1 for i in range(PROMPTS)]
    assert values[3].tolist() == [60, 61, 62, 63, *[0] * (TOKENS - 4)]


# The pilot table


def test_the_pilot_table_has_eight_rows_a_task_with_intervals() -> None:
    teacher = noise(PROMPTS * TOKENS, VOCABULARY)
    student = teacher + 0.3 * noise(PROMPTS * TOKENS, VOCABULARY, seed=5)
    pair = [sampled(teacher, student, policy=policy) for policy in ("on_policy", "off_policy")]
    rows = pilot_rows(pair)
    assert len({(row["level"], row["direction"], row["policy"]) for row in rows}) == len(rows) == 8
    for row in rows:
        assert row["interval"][0] <= row["value"] <= row["interval"][1]
        assert (row["task"], row["n"]) == ("planted", PROMPTS)
        assert row["unit"] == f"nats/{row['level']}"
        weighted = row["level"] == "sequence" and (row["direction"] == "reverse_kl") != (row["policy"] == "on_policy")
        assert ("effective_samples" in row) == weighted
        if weighted:
            assert 1 <= row["effective_samples"] <= row["samples"] == PROMPTS
    for sample in pair:
        (row,) = (
            r for r in rows if (r["level"], r["direction"], r["policy"]) == ("token", "forward_kl", sample.policy)
        )
        assert row["value"] == pytest.approx(float(sample.forward_kl_N.mean()), rel=1e-5)


def known_pair(answers: int, policy: str) -> tuple[ScoredTokens, float, float]:
    """A teacher and a student over three tokens and sequences of four, of which all 81 can be listed: a large sample
    of one policy, and the exact sequence-level KLs, forward and reverse."""
    first, second = noise(3, 3, seed=11).double(), noise(3, 3, seed=12).double()
    ids, teacher = enumerate_sequences(markov(first), 3, 4)
    _, student = enumerate_sequences(markov(0.5 * first + 0.5 * second), 3, 4)
    forward = float((teacher.exp() * (teacher - student)).sum())
    reverse = float((student.exp() * (student - teacher)).sum())
    weights = (student if policy == "on_policy" else teacher).exp()
    drawn = torch.multinomial(weights, answers, replacement=True, generator=torch.Generator().manual_seed(4))
    # The whole sequence's log-probability in one entry.
    sample = known_logprobs(torch.arange(answers) // 2, torch.arange(answers), teacher[drawn], student[drawn], policy)
    assert ids.shape == (81, 4) and forward > 0.01 and reverse > 0.01
    return sample, forward, reverse


@pytest.mark.parametrize("policy", ["on_policy", "off_policy"])
def test_sequence_kls_agree_with_their_exact_values(policy: str) -> None:
    sample, forward, reverse = known_pair(20_000, policy)
    rows = {row["direction"]: row for row in pilot_rows([sample]) if row["level"] == "sequence"}
    for direction, exact in (("forward_kl", forward), ("reverse_kl", reverse)):
        low, high = rows[direction]["interval"]
        assert low - (high - low) / 2 <= exact <= high + (high - low) / 2, direction
        assert high - low < 0.3 * exact
    weighted = rows["forward_kl" if policy == "on_policy" else "reverse_kl"]
    assert 0 < weighted["effective_samples"] < 20_000


def test_an_answer_s_sum_is_over_its_own_tokens() -> None:
    sample = sampled(noise(PROMPTS * TOKENS, 5), noise(PROMPTS * TOKENS, 5, seed=2), ks=(1, 5))
    sums = sample.per_answer(sample.teacher_logprob_N)
    assert sums.tolist() == pytest.approx(sample.teacher_logprob_N.view(PROMPTS, TOKENS).sum(1).tolist(), rel=1e-5)
    assert sample.prompt_N.tolist() == sample.answer_N.tolist()


# Capacity gap


def styled(hard: float, *, habit: float = 0.5, answers: int = 200, teacher: float = 0.0) -> StyledAnswers:
    """Right answers in two ways, every other one hard: an easy one costs the student 3 nats, a hard one `hard`, beside
    what its `habit` of writing so (the share of its own answers in the hard way) costs. `teacher`: what a hard one
    costs the teacher, which easy ones cost nothing."""
    is_hard = torch.arange(answers) % 2 == 1
    log_habit = {"hard": math.log(habit), "easy": math.log(1 - habit)}
    cost = torch.where(is_hard, hard - log_habit["hard"], 3.0 - log_habit["easy"]) + 0.3 * noise(answers)
    return StyledAnswers(
        task="planted",
        prompt_A=torch.arange(answers) // 2,
        right_A=torch.ones(answers, dtype=torch.bool),
        style_A=["hard" if h else "easy" for h in is_hard.tolist()],
        student_logprob_A=-cost,
        teacher_logprob_A=math.log(0.5) - teacher * is_hard,
        log_habit=log_habit,
        teacher_log_habit={"hard": math.log(0.5), "easy": math.log(0.5)},
    )


def test_capacity_gap_fires_where_half_of_the_right_answers_are_beyond_the_student() -> None:
    finding = capacity_gap(styled(9.0))
    assert finding.severity == "high" and finding.value == pytest.approx(3.0, abs=0.1)  # half of them cost 6 nats more
    assert finding.interval[0] < finding.value < finding.interval[1]
    assert "'hard'" in finding.cause and "sft_best_of_n" in finding.remedy and finding.n == 100
    assert [series["name"] for series in finding.plot["series"]] == ["easy", "hard"]  # type: ignore[index]


def test_capacity_gap_is_silent_where_the_student_only_seldom_writes_so() -> None:
    finding = capacity_gap(styled(3.0, habit=0.001))
    assert finding.severity == "none" and abs(finding.value) < 0.2


def test_what_is_hard_for_the_teacher_as_well_is_no_gap() -> None:
    finding = capacity_gap(styled(9.0, teacher=6.0))
    assert finding.severity == "none" and abs(finding.value) < 0.1
    rows = {row["style"]: row for row in style_rows(styled(9.0, teacher=6.0))}
    assert rows["hard"]["cost"] == pytest.approx(9.0, abs=0.1) and rows["hard"]["excess"] == pytest.approx(3.0, abs=0.1)


def test_what_has_no_name_is_no_way_of_writing() -> None:
    """A third of the answers, of no named way and cheaper than all others, moves nothing."""
    rows = styled(9.0, answers=300)
    other = torch.arange(300) % 6 > 3
    style = ["other" if o else name for o, name in zip(other.tolist(), rows.style_A, strict=True)]
    habit = {**rows.log_habit, "other": 0.0}
    mixed = replace(rows, style_A=style, log_habit=habit, teacher_log_habit={**rows.teacher_log_habit, "other": 0.0})
    cheap = replace(mixed, student_logprob_A=torch.where(other, 0.0, mixed.student_logprob_A))
    assert capacity_gap(cheap).value == capacity_gap(mixed).value == pytest.approx(3.0, abs=0.1)
    assert "2 ways" in capacity_gap(cheap).cause


def test_a_teacher_that_has_all_but_given_up_the_easy_way_leaves_a_gap() -> None:
    rows = styled(9.0, answers=400)
    kept = (torch.arange(400) % 2 == 1) | (torch.arange(400) < 40)  # all 200 hard answers, 20 of the easy ones
    finding = capacity_gap(replace(rows, right_A=kept))
    assert finding.severity == "high" and finding.value == pytest.approx(6.0 * 200 / 220, abs=0.2)


def test_the_capacity_gap_s_interval_covers_the_truth() -> None:
    missed = 0
    for seed in range(200):
        rows = styled(4.0, answers=120)
        cost = torch.where(torch.arange(120) % 2 == 1, 4.0, 3.0) + 0.8 * noise(120, seed=seed) + math.log(2)
        low, high = capacity_gap(replace(rows, student_logprob_A=-cost)).interval
        missed += not low <= 0.5 <= high
    assert missed <= 20  # of 200; 10 expected at 95 %


def test_ways_of_writing_are_told_with_their_shares_and_what_cannot_be_asked() -> None:
    answers = styled(9.0, habit=0.2)
    rows = style_rows(answers)
    assert [row["style"] for row in rows] == ["easy", "hard"] and all(row["teacher_share"] == 0.5 for row in rows)
    assert [row["student_share"] for row in rows] == pytest.approx([0.8, 0.2])
    assert [row["cost"] for row in rows] == pytest.approx([3.0, 9.0], abs=0.1)
    wrong = replace(answers, right_A=torch.zeros(200, dtype=torch.bool))
    assert style_rows(wrong) == []
    assert "counts from 10 problems" in capacity_gap(wrong).cause and "right on 0;" in capacity_gap(wrong).cause
    few = replace(answers, right_A=torch.arange(200) < 8)
    assert "of 100 here the most frequent one is right on " in capacity_gap(few).cause
    unnamed = replace(answers, style_A=["other"] * 200, log_habit={"other": 0.0}, teacher_log_habit={"other": 0.0})
    assert "names no ways of writing: name them by patterns, `styles`" in capacity_gap(unnamed).cause
    few_unnamed = replace(unnamed, right_A=torch.arange(200) < 8)
    assert "names no ways of writing" in capacity_gap(few_unnamed).cause  # however few problems there are


# Accuracy on student prefixes


def continued(on_half: float) -> Continuations:
    """A teacher that is right on 95 % by itself, and on this share from half of a student's answer; 100 problems."""
    prompt_A = torch.arange(100)
    alone, led = (prompt_A >= 5).double(), (prompt_A >= 100 * (1 - on_half)).double()
    return Continuations(
        task="planted",
        prompt_A=prompt_A.repeat(2),
        kept_A=torch.tensor([0.0, 0.5], dtype=torch.float64).repeat_interleave(100),
        score_A=torch.cat([alone, led]),
    )


def test_a_teacher_that_student_prefixes_lead_astray_is_found() -> None:
    finding = accuracy_on_student_prefixes(continued(0.4))
    assert finding.severity == "high" and finding.value == pytest.approx(0.55) and finding.n == 100
    assert [(row["kept"], row["score"]) for row in prefix_rows(continued(0.4))] == [(0.0, 0.95), (0.5, 0.4)]


def test_a_teacher_that_finds_its_way_back_is_left_alone() -> None:
    assert accuracy_on_student_prefixes(continued(0.95)).severity == "none"


def test_answers_too_short_to_cut_have_no_prefixes() -> None:
    whole = continued(0.5)
    alone = replace(whole, **{f: getattr(whole, f)[:100] for f in ("prompt_A", "kept_A", "score_A")})
    assert not accuracy_on_student_prefixes(alone).applicable


# Teacher hacking


def power_law(bend: float, *, seed: int = 0, steps: int = 200, noise_size: float = 0.1) -> list[float]:
    """0.5 · step^−0.4 with noise, which from the middle on falls faster (bend > 0) or rises (bend < −0.4)."""
    step = torch.arange(1, steps + 1).double()
    late = (step / (steps / 2)).clamp(min=1).log() * bend
    return (0.5 * step.pow(-0.4) * (-late + noise_size * noise(steps, seed=seed)).exp()).tolist()


def test_teacher_hacking_fires_where_the_loss_leaves_its_power_law() -> None:
    for bend, way in ((2.0, "below"), (-2.0, "above")):
        finding = teacher_hacking(list(range(1, 201)), power_law(bend))
        assert finding.severity == "high" and f"lies {way}" in finding.unit
        assert finding.interval[0] <= finding.value <= finding.interval[1] and finding.n == 200


def test_teacher_hacking_is_silent_on_a_power_law() -> None:
    fired, missed = 0, 0
    for seed in range(200):
        finding = teacher_hacking(list(range(1, 201)), power_law(0.0, seed=seed))
        fired += finding.severity != "none"
        missed += finding.interval[0] > 0  # the interval leaves out a departure of 0, which is the truth
    assert missed <= 20  # of 200, 10 expected at 95 %
    assert fired <= 4


def test_a_loss_that_bends_from_the_beginning_has_no_power_law() -> None:
    steps = torch.arange(1, 201).double()
    for curve in (0.5 * (-steps / 40).exp(), 0.5 / (1 + (steps / 30) ** 2)):
        finding = teacher_hacking(steps.long().tolist(), (curve * (0.1 * noise(200)).exp()).tolist())
        assert not finding.applicable and "no power law to depart from" in finding.cause
    told = [teacher_hacking(list(range(1, 201)), power_law(0.0, seed=seed)).applicable for seed in range(200)]
    assert sum(told) >= 198  # a power law is taken for none once in a thousand


def test_teacher_hacking_tells_on_policy_steps_from_a_departure() -> None:
    own = (noise(200, seed=9) > 0).double()
    own[100:] = 1.0  # only the student's own samples in the second half, at twice the loss
    losses = [loss * (1 + o) for loss, o in zip(power_law(0.0), own.tolist(), strict=True)]
    steps = list(range(1, 201))
    assert teacher_hacking(steps, losses, own.tolist()).severity == "none"
    assert teacher_hacking(steps, losses).severity != "none"


def test_too_short_a_training_has_no_power_law() -> None:
    assert not teacher_hacking(list(range(1, 31)), power_law(0.0, steps=30)).applicable
    assert not teacher_hacking(list(range(1, 101)), [0.0] * 100).applicable
    assert teacher_hacking(list(range(1, 61)), [None, *power_law(0.0, steps=59)], warmup=10).n == 50


# The stage


def softmax_gradients(student: torch.Tensor, teacher: torch.Tensor, draws: int = 40) -> GradientSample:
    """Gradients in the logits [V] of a student that writes one token from them; `draws` answers of one token each."""
    logq, logp = student.log_softmax(-1), teacher.log_softmax(-1)
    q, gap = logq.exp(), logq - logp
    token_level = q * (gap - (q * gap).sum())
    drawn = torch.multinomial(q, draws, replacement=True, generator=torch.Generator().manual_seed(0))
    score = torch.eye(len(q))[drawn] - q
    sampled = gap[drawn, None] * score
    gradient_BEV = torch.stack([token_level.expand_as(sampled), sampled, sampled], 1).double()
    mean_EV = gradient_BEV.mean(0)
    return GradientSample(
        task="planted",
        prompt_B=torch.arange(draws),
        product_BEE=gradient_BEV @ gradient_BEV.transpose(1, 2),
        mean_EE=mean_EV @ mean_EV.T,
    )


def test_sequence_myopia_fires_where_many_tokens_share_the_signal() -> None:
    finding = sequence_myopia(softmax_gradients(noise(500), noise(500, seed=2)))
    assert finding.severity == "high" and finding.value < 0.2
    assert "sampled token alone" in finding.cause and "gkd" in finding.remedy


def test_sequence_myopia_is_silent_where_the_sampled_token_tells_all() -> None:
    # With two tokens both gradients lie on one line, and in one direction: log q/p is positive for exactly one token.
    finding = sequence_myopia(softmax_gradients(torch.tensor([0.3, -0.2]), torch.tensor([-0.5, 0.9])))
    assert finding.severity == "none" and finding.value == pytest.approx(1.0)


def test_without_a_gradient_there_is_no_direction() -> None:
    same = noise(50)
    finding = sequence_myopia(softmax_gradients(same, same))
    assert not finding.applicable and finding.severity == "none"


def test_sampled_gradients_are_the_token_level_one_in_the_mean(teacher: Any, tiny_pair: Pair) -> None:
    """Every answer of one token, weighted by its probability: the three gradients of `compare_gradients` agree."""
    student = load_model(tiny_pair.student)
    with torch.no_grad():
        student.model.model.norm.weight.mul_(6)  # sure of its tokens, so that few of them are nearly all
    prompt = [{"role": "user", "content": "Calculate modulo 1000: start with 1, and after that add 2."}]
    (batch,) = batches(prompt_ids(teacher.tokenizer, [prompt]), [[0]], student.model.device, 100)
    likely = answer_logits(student, batch)[0, 0].detach().log_softmax(-1).double().topk(200)
    assert float(likely.values.exp().sum()) > 0.999
    answers = [[[int(token)]] for token in likely.indices]
    found = compare_gradients(teacher, student, "math", [prompt] * len(answers), answers)
    assert found.product_BEE.shape == (len(answers), 3, 3)
    # one token: the sequence is the token, and the token-level gradient doesn't depend on which was drawn
    assert torch.allclose(found.product_BEE[:, 1], found.product_BEE[:, 2], rtol=1e-5)
    whole = found.product_BEE[0, 0, 0]
    assert torch.allclose(found.product_BEE[:, 0, 0], whole.expand(len(answers)), rtol=1e-5)
    # E[g_token · g_sampled] = |g_token|²: one answer with each token, q as its share
    expected = (likely.values.exp() * found.product_BEE[:, 0, 1]).sum()
    assert float(expected) == pytest.approx(float(whole), rel=1e-3)


def test_gradients_skip_prompts_without_answers(teacher: Any, student: Any) -> None:
    prompt = [{"role": "user", "content": "Calculate modulo 1000: start with 1, and after that add 2."}]
    found = compare_gradients(teacher, student, "math", [prompt] * 3, [[[5, 6], []], [[]], [[7]]])
    assert found.prompt_B.tolist() == [0, 2]
    rows = myopia_rows(found)
    assert [row["estimate"] for row in rows] == ["sampled_token", "sequence"] and all(row["n"] == 2 for row in rows)
    nothing = compare_gradients(teacher, student, "math", [], [])
    assert not sequence_myopia(nothing).applicable and myopia_rows(nothing) == []


def config(pair: Pair, **values: Any) -> DiagnoseConfig:
    return DiagnoseConfig(
        **{
            "teacher": pair.teacher,
            "student": pair.student,
            "tasks": ["math", "instruct"],
            "problems": 6,
            "samples": 2,
            "candidates": 3,
            **values,
        }
    )


def test_a_diagnosis_holds_its_tables_for_each_task(tiny_pair: Pair, tmp_path: Path) -> None:
    run = diagnose(config(tiny_pair), tmp_path / "run")
    result = run.result
    for task in ("math", "instruct"):
        pilot = [row for row in result["pilot"] if row["task"] == task]
        assert len(pilot) == 8 and all(row["n"] == 6 and None not in row["interval"] for row in pilot)
        assert all(row["value"] >= 0 for row in pilot if row["level"] == "token")
        tail = [row for row in result["tail"] if row["task"] == task]
        assert [row["k"] for row in tail] == [1, 2, 5, 10, 20, 50, 100, 200, 500, 2048]
        assert tail[-1]["share"] == pytest.approx(1.0, abs=1e-3)
        findings = [row for row in result["findings"] if row["task"] == task]
        assert len({row["name"] for row in findings}) == len(findings) >= 4
    tokens = {row["token"] for row in result["scatter"]}
    assert {"1", "2", "="} <= tokens
    for task in ("math", "instruct"):
        assert [row["kept"] for row in result["prefix"] if row["task"] == task] == [0.0, 0.25, 0.5, 0.75]
    assert verify_manifest(run.path) == []
    assert diagnose(config(tiny_pair), tmp_path / "run").result == result


def test_a_student_that_ends_no_answer_is_diagnosed_all_the_same(tiny_pair: Pair, tmp_path: Path) -> None:
    run = diagnose(config(tiny_pair, tasks=["math"], max_new_tokens=1), tmp_path / "run")
    finding = next(row for row in run.result["findings"] if row["name"] == "wrong_trace_preference")
    assert not finding["applicable"] and finding["value"] is None


def test_the_same_model_twice_sets_no_trap(tiny_pair: Pair, tmp_path: Path) -> None:
    values = config(tiny_pair, student=tiny_pair.teacher, tasks=["qa"])
    result = diagnose(values, tmp_path / "run").result
    found = {row["name"]: row for row in result["findings"]}
    assert not found["tail_noise"]["applicable"] and not found["signal_sparsity"]["applicable"]
    assert all(row["value"] == 0.0 for row in result["pilot"])
    relative = ("tail_noise", "signal_sparsity", "off_policy_instability", "sequence_myopia")
    assert all(found[name]["severity"] == "none" for name in relative)


def test_two_diagnoses_are_compared_problem_by_problem(tiny_pair: Pair, tmp_path: Path) -> None:
    values = {"tasks": ["math"], "problems": 8}
    diagnose(config(tiny_pair, **values), tmp_path / "before")
    diagnose(config(tiny_pair, **values, teacher=tiny_pair.student), tmp_path / "after")
    compared = compare([tmp_path / "before", tmp_path / "after", tmp_path / "before"])
    assert [run["teacher"] for run in compared["runs"]] == [tiny_pair.teacher, tiny_pair.student, tiny_pair.teacher]
    before, after, again = (row for row in compared["rows"] if row["measure"] == "token_reverse_kl_on_policy")
    assert before["difference"] is None and before["value"] > 0 and before["n"] == 8
    assert after["value"] == 0.0 and after["difference"] == pytest.approx(-before["value"])
    assert after["interval"][0] <= after["difference"] <= after["interval"][1]
    assert again["difference"] == 0.0
    table = read_json(tmp_path / "before" / BY_PROMPT)
    own = next(row for row in table if row["measure"] == "token_reverse_kl_on_policy")
    assert own["prompt"] == list(range(8)) and sum(own["value"]) / 8 == pytest.approx(before["value"])


def test_what_cannot_be_compared_is_told(tiny_pair: Pair, tmp_path: Path) -> None:
    diagnose(config(tiny_pair, tasks=["math"], gradient_problems=0), tmp_path / "one")
    diagnose(config(tiny_pair, tasks=["math"], gradient_problems=0, seed=7), tmp_path / "seven")
    for paths, told in (
        ([tmp_path / "one"], "got 1 run"),
        ([tmp_path / "one", tmp_path / "seven"], "seed=7, .* with 0"),
        ([tmp_path / "one", tmp_path / "none"], "no run directory"),
    ):
        with pytest.raises(BadInputError, match=told):
            compare(paths)
    (tmp_path / "one" / BY_PROMPT).unlink()
    with pytest.raises(BadInputError, match="older distillknob"):
        compare([tmp_path / "one", tmp_path / "one"])


def test_missing_models_are_told_before_anything_is_written(tiny_pair: Pair, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="no checkpoint folder '/no/such'"):
        diagnose(config(tiny_pair, teacher="/no/such"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    for values, what in (
        ({"ks": []}, r"ks=\[\]"),
        ({"ks": [0]}, r"ks=\[0\]"),
        ({"problems": 0}, "problems=0"),
        ({"gradient_problems": -1}, "-1"),
    ):
        with pytest.raises(BadInputError, match=what):
            config(tiny_pair, **values)


def test_a_finding_that_cannot_be_made_says_why() -> None:
    from distillknob.diagnosis.finding import not_applicable

    finding = not_applicable("tail_noise", None, "there is nothing")
    assert isinstance(finding, Finding)
    assert (finding.applicable, finding.severity, finding.n, finding.cause) == (False, "none", 0, "there is nothing")


# The forecast


def habits(every_step: float, *, answers: int = 400, right: dict[str, float] | None = None) -> OwnAnswers:
    """Answers, four a problem, `every_step` of them in the easy way, each way as often right as `right` says."""
    generator = torch.Generator().manual_seed(3)
    easy = torch.rand(answers, generator=generator) < every_step
    styles = ["every_step" if one else "two_at_a_time" for one in easy.tolist()]
    chance = torch.tensor([(right or {"every_step": 0.8, "two_at_a_time": 0.2})[style] for style in styles])
    return OwnAnswers(
        task="planted",
        prompt_A=torch.arange(answers) // 4,
        right_A=torch.rand(answers, generator=generator) < chance,
        style_A=styles,
    )


def taught(every_step: float, answers: int = 200) -> StyledAnswers:
    drawn = (torch.rand(answers, generator=torch.Generator().manual_seed(4)) < every_step).tolist()
    return StyledAnswers(
        task="planted",
        prompt_A=torch.arange(answers) // 2,
        right_A=torch.ones(answers, dtype=torch.bool),
        style_A=["every_step" if one else "two_at_a_time" for one in drawn],
        student_logprob_A=torch.zeros(answers),
        teacher_logprob_A=torch.zeros(answers),
        log_habit={"every_step": math.log(0.5), "two_at_a_time": math.log(0.5)},
        teacher_log_habit={"every_step": math.log(0.5), "two_at_a_time": math.log(0.5)},
    )


def test_the_forecast_weights_what_the_student_can_do_by_the_teacher_s_habits() -> None:
    for habit, expected in ((1.0, 0.8), (0.0, 0.2), (0.5, 0.5)):
        (row,) = forecast_rows(habits(0.5), taught(habit))
        assert row["forecast"] == pytest.approx(expected, abs=0.06) and row["score"] == pytest.approx(0.5, abs=0.06)
        assert row["gain"] == pytest.approx(row["forecast"] - row["score"]) and row["n"] == 100
        assert row["interval"][0] < row["gain"] < row["interval"][1]


def test_a_way_that_the_student_has_never_written_is_beyond_it() -> None:
    (row,) = forecast_rows(habits(0.0), taught(1.0))
    assert row["forecast"] == 0.0


def test_without_named_ways_there_is_no_forecast() -> None:
    own, traces = habits(0.5), taught(0.5)
    unnamed = replace(own, style_A=["other"] * 400), replace(traces, style_A=["other"] * 200)
    assert forecast_rows(*unnamed) == []


# Two tokenizers, and a run that was stopped


def test_two_tokenizers_are_diagnosed_by_text_and_by_spans(tiny_pair: Pair, tiny_other: str, tmp_path: Path) -> None:
    run = diagnose(config(tiny_pair, student=tiny_other, problems=8), tmp_path / "run")
    findings = {(row["task"], row["name"]): row for row in run.result["findings"]}
    for task in ("math", "instruct"):
        for name in ("tail_noise", "signal_sparsity", "sequence_myopia"):
            told = findings[task, name]
            assert not told["applicable"] and "different tokenizers" in told["cause"]
        assert findings[task, "off_policy_instability"]["applicable"]
        assert "spans" in findings[task, "off_policy_instability"]["cause"]
        pilot = [row for row in run.result["pilot"] if row["task"] == task]
        assert {(row["level"], row["direction"], row["policy"]) for row in pilot} == {
            ("span", "reverse_kl", "on_policy"),
            ("span", "forward_kl", "off_policy"),
            *(("sequence", d, p) for d in ("forward_kl", "reverse_kl") for p in ("on_policy", "off_policy")),
        }
        assert [row["kept"] for row in run.result["prefix"] if row["task"] == task] == [0.0, 0.25, 0.5, 0.75]
        assert sum(row["task"] == task for row in run.result["off_policy"]) == 15
    assert run.result["tail"] == run.result["scatter"] == run.result["myopia"] == []
    measures = {row["measure"] for row in read_json(run.path / BY_PROMPT)}
    assert "sequence_reverse_kl" in measures and "token_reverse_kl_on_policy" not in measures


@pytest.mark.parametrize("batches_done", [0, 1, 2, 4, 7, 12])
def test_a_stopped_diagnosis_goes_on_at_the_batch_where_it_was(
    tiny_pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batches_done: int
) -> None:
    """Stopped while a batch is kept, gone on with, and equal to an unbroken run; no batch is done twice."""
    from distillknob.runs.journal import Journal

    values = config(tiny_pair, tasks=["math", "qa"], gradient_problems=2)
    whole = diagnose(values, tmp_path / "whole")
    kept, keep = [0], Journal.keep

    def stops(self: Journal, *batch: Any) -> None:
        if kept[0] == batches_done:
            raise KeyboardInterrupt
        kept[0] += 1
        keep(self, *batch)

    monkeypatch.setattr(Journal, "keep", stops)
    with pytest.raises(KeyboardInterrupt):
        diagnose(values, tmp_path / "stopped")
    files = sorted((tmp_path / "stopped" / "unfinished").rglob("*.pt"))
    assert len(files) == batches_done
    then = {file: file.stat().st_mtime_ns for file in files}

    def goes_on(self: Journal, *batch: Any) -> None:
        kept[0] += 1
        keep(self, *batch)
        assert all(file.stat().st_mtime_ns == time for file, time in then.items())

    monkeypatch.setattr(Journal, "keep", goes_on)
    with pytest.raises(BadInputError, match="--resume"):
        diagnose(values, tmp_path / "stopped")
    resumed = diagnose(values, tmp_path / "stopped", resume=True)
    assert resumed.result == whole.result
    assert (resumed.path / BY_PROMPT).read_bytes() == (whole.path / BY_PROMPT).read_bytes()
    assert not resumed.unfinished.exists() and verify_manifest(resumed.path) == []
    assert [row["task"] for row in resumed.metrics()] == ["math", "qa"]
    # on-policy and off-policy scores, candidates, three samplings, two prompts' gradients: eight a task
    assert kept[0] == 16


def test_a_journal_of_another_version_is_refused(tmp_path: Path) -> None:
    from distillknob.runs.journal import Journal

    Journal(tmp_path).part("a").keep([1, 2], torch.ones(2))
    again = Journal(tmp_path).part("a")
    with pytest.raises(BadInputError, match="another batch"):
        again.take([1, 3])
    assert torch.equal(again.take([1, 2]), torch.ones(2)) and again.take([3]) is None
    assert Journal().take([1]) is None


def test_sketched_gradients_keep_their_inner_products() -> None:
    from distillknob.diagnosis.gradients import SKETCH, _products, _sketched

    short = [noise(1000, seed=seed) for seed in range(3)]
    assert torch.equal(_sketched(short), torch.stack(short))
    base = noise(5 * SKETCH + 17)
    long = [base, base + noise(len(base), seed=2), noise(len(base), seed=3)]
    exact, sketched = _products(long), _products(list(_sketched(long)))
    size = exact.diagonal().sqrt()
    assert ((exact - sketched).abs() <= 5 * (2 / SKETCH) ** 0.5 * size[:, None] * size).all()
    assert not torch.equal(exact, sketched)


def test_what_training_on_the_top_k_leaves_out_is_told() -> None:
    teacher, student = noise(PROMPTS * TOKENS, VOCABULARY, seed=2), noise(PROMPTS * TOKENS, VOCABULARY, seed=3)
    rows = tail_rows(sampled(teacher, student))
    assert [row["left_out"] for row in rows] == sorted((row["left_out"] for row in rows), reverse=True)
    assert rows[-1]["left_out"] == 0.0
    for row in rows:
        kept = divergence(student, teacher, "forward_kl", top_k=row["k"])
        missing = (divergence(student, teacher, "forward_kl") - kept).double().mean()
        assert row["left_out"] == pytest.approx(float(missing), abs=1e-6)
        assert row["left_out_interval"][0] <= row["left_out"] <= row["left_out_interval"][1]
