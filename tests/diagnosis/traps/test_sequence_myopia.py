"""Sequence-KL myopia, in gradients written down and planted in pairs."""

from __future__ import annotations

import pytest
import torch

from diagnosed import MILD, Diagnose, covers, fired, pairs, silent
from distillknob.diagnosis.samples import (
    GradientSample,
)
from distillknob.diagnosis.traps.sequence_myopia import sequence_myopia
from planted import ASKED, Table, chain, logits_of, words_of
from scored import noise


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


def expected_cosine(teacher: Table, student: Table) -> float:
    """E[cos(∇ of the sampled token, ∇ of the whole KL)] of answers of one word, over all words and parameters."""
    words = words_of(teacher, student)
    logp_V, logq_V = (
        logits_of(table, words)[words.index(ASKED)].double().log_softmax(-1) for table in (teacher, student)
    )
    size = len(words)
    scale = (1 / size + 1e-6) ** 0.5
    head_VH = logits_of(student, words).double().T * scale

    def logits(embedding_H: torch.Tensor, norm_H: torch.Tensor, head_VH: torch.Tensor) -> torch.Tensor:
        return head_VH @ (norm_H * embedding_H / embedding_H.square().mean().add(1e-6).sqrt())

    inputs = (
        torch.eye(size, dtype=torch.float64)[words.index(ASKED)],
        torch.ones(size, dtype=torch.float64),
        head_VH,
    )
    jacobian = torch.cat([part.reshape(size, -1) for part in torch.autograd.functional.jacobian(logits, inputs)], 1)
    kernel_VV = jacobian @ jacobian.T
    q_V, gap_V = logq_V.exp(), logq_V - logp_V
    whole_V = q_V * (gap_V - (q_V * gap_V).sum())
    sampled_VV = gap_V[:, None] * (torch.eye(size, dtype=torch.float64) - q_V)
    inner_V = sampled_VV @ kernel_VV @ whole_V
    length_V = ((sampled_VV @ kernel_VV) * sampled_VV).sum(1).clamp_min(0).sqrt()
    return float((q_V * inner_V / (length_V * (whole_V @ kernel_VV @ whole_V).sqrt())).nan_to_num(0.0).sum())


def test_sequence_myopia_is_found_where_one_word_of_many_is_seen(diagnose_tables: Diagnose) -> None:
    shares = torch.randn(100, generator=torch.Generator().manual_seed(5)).softmax(0).tolist()
    teacher = {ASKED: {f"w{i}": shares[i] for i in range(100)}}
    student = {ASKED: {f"w{i}": 1 / 100 for i in range(100)}}
    result = diagnose_tables(teacher, student, samples=1, problems=140, gradient_problems=140)
    finding = result["sequence_myopia"]
    assert fired(finding, "high") and covers(finding, expected_cosine(teacher, student))
    assert "sees the sampled token alone" in finding["cause"] and "method=gkd" in finding["remedy"]


def test_a_sampled_word_of_two_tells_the_whole(diagnose_tables: Diagnose) -> None:
    table = chain(*(pairs(i) for i in range(8)))
    finding = diagnose_tables(table, table, mild=MILD, gradient_problems=50)["sequence_myopia"]
    assert silent(finding) and finding["value"] > 0.7
