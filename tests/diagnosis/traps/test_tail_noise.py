"""Tail noise, in logits and planted in pairs: it fires where the tails disagree, and not where they only are."""

from __future__ import annotations

import math

import pytest
import torch

from diagnosed import MILD, Diagnose, fired, silent
from distillknob.diagnosis.traps.signal_sparsity import signal_sparsity
from distillknob.diagnosis.traps.tail_noise import scatter_rows, tail_noise, tail_rows
from distillknob.divergences.dense import divergence
from planted import ASKED, EOS
from scored import PROMPTS, TOKENS, VOCABULARY, noise, sampled


def peaked(tail: float) -> torch.Tensor:
    """A teacher that has five tokens to say, and gives the tail that share of its mass."""
    probs = torch.full((VOCABULARY,), tail / (VOCABULARY - 5))
    probs[:5] = (1 - tail) / 5
    return probs.log().repeat(PROMPTS * TOKENS, 1)


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


def test_identical_models_set_no_trap() -> None:
    teacher = noise(PROMPTS * TOKENS, VOCABULARY)
    for trap in (tail_noise, signal_sparsity):
        finding = trap(sampled(teacher, teacher))
        assert not finding.applicable and finding.severity == "none" and math.isnan(finding.value)
        assert "agree exactly" in finding.cause
    assert all(row["share"] == 0.0 for row in tail_rows(sampled(teacher, teacher)))


def test_what_training_on_the_top_k_leaves_out_is_told() -> None:
    teacher, student = noise(PROMPTS * TOKENS, VOCABULARY, seed=2), noise(PROMPTS * TOKENS, VOCABULARY, seed=3)
    rows = tail_rows(sampled(teacher, student))
    assert [row["left_out"] for row in rows] == sorted((row["left_out"] for row in rows), reverse=True)
    assert rows[-1]["left_out"] == 0.0
    for row in rows:
        over_top_k = divergence(student, teacher, "forward_kl", top_k=row["k"])
        missing = (divergence(student, teacher, "forward_kl") - over_top_k).double().mean()
        assert row["left_out"] == pytest.approx(float(missing), abs=1e-6)
        assert row["left_out_interval"][0] <= row["left_out"] <= row["left_out_interval"][1]


def spread(heads: float = 0.85, tails: float = 0.02) -> dict[str, dict[str, float]]:
    """After every word the same: five words to say, two hundred that are hardly ever said, or the end."""
    row = {f"h{i}": heads / 5 for i in range(5)} | {f"t{i}": tails / 200 for i in range(200)}
    row |= {EOS: 1 - heads - tails}
    return {word: row for word in (ASKED, *(word for word in row if word != EOS))}


def test_tail_noise_is_found_in_a_pair_whose_tails_disagree(diagnose_tables: Diagnose) -> None:
    teacher = spread()
    tails = (3.0 * torch.randn(200, generator=torch.Generator().manual_seed(3))).softmax(0).tolist()
    row = dict(teacher[ASKED]) | {f"t{i}": 0.02 * tails[i] for i in range(200)}
    student = dict.fromkeys(teacher, row)
    finding = diagnose_tables(teacher, student)["tail_noise"]
    p, q = (torch.tensor(list(table[ASKED].values()), dtype=torch.float64) for table in (teacher, student))
    tail = torch.arange(len(p)).ge(5) & torch.arange(len(p)).lt(205)
    exact = float((p[tail] * (p[tail] / q[tail]).log()).sum() / (p * (p / q).log()).sum())  # nothing but the tail's
    assert exact == pytest.approx(1.0) and finding["value"] == pytest.approx(exact, rel=1e-3)
    assert fired(finding, "high")
    assert "a hundred times less likely" in finding["cause"] and "top_k=" in finding["remedy"]


def test_a_tail_that_is_only_too_heavy_is_no_noise(diagnose_tables: Diagnose) -> None:
    """A student that says unsaid words ten times too often, all alike: most of the KL lies beyond the top 5, and it is
    one number, which a loss with one bucket knows."""
    result = diagnose_tables(spread(), spread(heads=0.67, tails=0.2))
    assert silent(result["tail_noise"]) and result["tail_noise"]["value"] < 0.01
    beyond = 1 - next(row["share"] for row in result["tail"] if row["k"] == 5)
    assert beyond > 0.5 and f"{beyond:.0%} of the KL" in result["tail_noise"]["cause"]


def test_a_pair_that_differs_everywhere_alike_has_no_tail_noise(diagnose_tables: Diagnose) -> None:
    finding = diagnose_tables(spread(), spread(), mild=MILD)["tail_noise"]
    assert silent(finding) and 0 < finding["value"] < 0.05


def test_fifty_words_to_choose_from_are_no_tail(diagnose_tables: Diagnose) -> None:
    row = {f"w{i}": 0.9 / 50 for i in range(50)} | {EOS: 0.1}
    table = {word: row for word in (ASKED, *(f"w{i}" for i in range(50)))}
    result = diagnose_tables(table, table, mild=MILD)
    assert silent(result["tail_noise"])
    assert next(row["share"] for row in result["tail"] if row["k"] == 5) < 0.5
