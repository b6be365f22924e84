"""Signal sparsity, in logits and planted in pairs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from diagnosed import MILD, Diagnose, covers, fired, pairs, silent
from distillknob.diagnosis.traps.signal_sparsity import position_rows, quadrant_rows, signal_sparsity
from planted import chain
from scored import PROMPTS, TOKENS, VOCABULARY, noise, sampled


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


def test_signal_sparsity_is_found_where_one_word_in_twenty_differs(diagnose_tables: Diagnose) -> None:
    teacher = chain(*(pairs(i) for i in range(19)))
    student = chain(*(pairs(i, 0.1 if i == 7 else 0.5) for i in range(19)))
    finding = diagnose_tables(teacher, student)["signal_sparsity"]
    assert fired(finding, "high") and finding["value"] == pytest.approx(1 / 20, abs=0.01) and covers(finding, 1 / 20)
    assert "of 4800 carry 90 %" in finding["cause"]  # 240 answers of twenty, of which the end is sure


def test_a_pair_that_differs_everywhere_alike_has_no_sparse_signal(diagnose_tables: Diagnose) -> None:
    table = chain(*(pairs(i) for i in range(19)))
    assert silent(diagnose_tables(table, table, mild=MILD)["signal_sparsity"])
