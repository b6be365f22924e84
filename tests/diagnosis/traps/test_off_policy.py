"""Off-policy instability: weights against exact sums over all sequences, and planted in pairs."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from diagnosed import MILD, Diagnose, covers, fired, pairs, silent
from distillknob.diagnosis.samples import (
    ScoredTokens,
)
from distillknob.diagnosis.traps.off_policy import (
    CLIP,
    WEIGHTINGS,
    horizon_rows,
    off_policy_instability,
    off_policy_rows,
    weighted_terms,
)
from distillknob.divergences.sequence import ESTIMATORS, enumerate_sequences
from planted import ASKED, EOS, Table, chain
from scored import listed_pair, markov, noise, of_logprobs


def drifted(drift: float, answers: int = 400, tokens: int = 12) -> ScoredTokens:
    """Teacher's samples over a vocabulary of six, and a student that lies `drift` away at every token."""
    teacher = noise(1, 6, seed=21).expand(answers * tokens, -1).double().log_softmax(-1)
    student = (teacher + drift * noise(1, 6, seed=22)).log_softmax(-1)
    token_N = torch.multinomial(teacher.exp(), 1, generator=torch.Generator().manual_seed(6))[:, 0]
    return of_logprobs(
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
    sample = of_logprobs(
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
    never = of_logprobs(torch.arange(4), torch.arange(4).repeat_interleave(2), teacher, student, "off_policy")
    hardly = student.clone()
    hardly[-1] = -25.0
    seldom = of_logprobs(torch.arange(4), torch.arange(4).repeat_interleave(2), teacher, hardly, "off_policy")
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
    off, on = listed_pair(4000, "off_policy")[0], listed_pair(4000, "on_policy")[0]
    rows = off_policy_rows(off, on)
    assert {(row["weighting"], row["estimator"]) for row in rows} == {(w, e) for w in WEIGHTINGS for e in ESTIMATORS}
    for row in rows:
        assert row["bias"] == row["value"] - row["on_policy"]
        assert row["interval"][0] <= row["value"] <= row["interval"][1]


def squared_weight(teacher: Table, student: Table, word: str = ASKED) -> float:
    """E[w²] of an answer of the teacher, w = q / p, along the table."""
    if word == EOS:
        return 1.0
    p, q = teacher.get(word, {EOS: 1.0}), student.get(word, {EOS: 1.0})
    following = {after: squared_weight(teacher, student, after) for after in dict.fromkeys([*p][:1])}
    (rest,) = following.values()  # whatever came, the next step is the same
    return sum(q[after] ** 2 / p[after] for after in p) * rest


@pytest.mark.parametrize(("drift", "severity"), [(0.58, "none"), (0.62, "low"), (0.9, "high")])
def test_off_policy_instability_is_found_where_weights_multiply(
    diagnose_tables: Diagnose, drift: float, severity: str
) -> None:
    teacher, student = chain(*(pairs(i) for i in range(20))), chain(*(pairs(i, drift) for i in range(20)))
    finding = diagnose_tables(teacher, student, samples=8, seed=2)["off_policy_instability"]
    exact = 1 / squared_weight(teacher, student)
    assert exact == pytest.approx((0.5 / (drift**2 + (1 - drift) ** 2)) ** 20)
    assert fired(finding, severity)
    # The seed was chosen: at 0 the interval just misses the truth here, as it does in one of ten runs or so.
    if drift < 0.6:
        assert covers(finding, exact)
    elif drift < 0.7:  # where some answers carry most of the weight the estimate is too high more often than not
        assert finding["value"] == pytest.approx(exact, rel=0.25)
    else:  # a twenty-thousandth is left, which no thousand answers can show: those that matter never came
        assert exact < 1e-4 < finding["value"] < 0.02
    assert "is a product over its tokens" in finding["cause"] and "method=opd_rkl" in finding["remedy"]


def test_off_policy_estimates_of_a_pair_near_each_other_are_stable(diagnose_tables: Diagnose) -> None:
    table = chain(*(pairs(i) for i in range(20)))
    finding = diagnose_tables(table, table, mild=MILD)["off_policy_instability"]
    assert silent(finding) and 0.5 < finding["value"] < 1.0
