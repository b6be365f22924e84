"""Estimates of a sequence-level KL, against exact values over all sequences."""

from __future__ import annotations

import math

import pytest
import torch

from distillknob.divergences.dense import divergence
from distillknob.divergences.sequence import ESTIMATORS, enumerate_sequences, moments, sequence_kl
from textbook import policy


def test_exact_sequence_kl_by_the_chain_rule() -> None:
    student, teacher = policy(1), policy(2)
    ids, logp = enumerate_sequences(student, 4, 5)
    _, logq = enumerate_sequences(teacher, 4, 5)
    assert ids.shape == (4**5, 5)
    # Σ over steps of the expected per-token KL under the sampler's own prefixes.
    chain = 0.0
    for step in range(5):
        prefixes, weight = enumerate_sequences(student, 4, step) if step else (ids[:1, :0], torch.zeros(1).double())
        per_token = divergence(student(prefixes), teacher(prefixes), "reverse_kl").double()
        chain += (weight.exp() * per_token).sum().item()
    assert moments(logp, logq, "k1").kl == pytest.approx(chain, rel=1e-6)


def test_bias_and_variance_of_the_estimators() -> None:
    _, logp = enumerate_sequences(policy(1), 4, 5)
    _, logq = enumerate_sequences(policy(2), 4, 5)
    exact = {name: moments(logp, logq, name) for name in ESTIMATORS}
    assert exact["k1"].bias == pytest.approx(0, abs=1e-6)
    assert exact["k3"].bias == pytest.approx(0, abs=1e-6)
    assert abs(exact["k2"].bias) > 0.05
    # Close policies: k2's bias is of third order, and k2 and k3 vary far less than k1.
    near = torch.log_softmax(logp + 0.02 * torch.randn(len(logp), generator=torch.Generator().manual_seed(0)), -1)
    close = {name: moments(logp, near, name) for name in ESTIMATORS}
    assert abs(close["k2"].bias) < 0.05 * close["k2"].kl
    assert max(close["k2"].variance, close["k3"].variance) < 0.01 * close["k1"].variance
    # And a sample shows what was promised.
    drawn = torch.multinomial(logp.exp(), 20_000, replacement=True, generator=torch.Generator().manual_seed(1))
    for name, moment in exact.items():
        values = sequence_kl(logp[drawn].unsqueeze(1), logq[drawn].unsqueeze(1), name)
        assert values.mean().item() == pytest.approx(moment.mean, abs=5 * math.sqrt(moment.variance / 20_000))


def test_estimators_of_what_the_other_policy_cannot_write_are_infinite() -> None:
    for name in ESTIMATORS:
        assert sequence_kl(torch.tensor([[-1.0, -1.0]]), torch.tensor([[-1.0, -math.inf]]), name).item() == math.inf
        assert moments(torch.tensor([0.5, 0.5]).log(), torch.tensor([1.0, 0.0]).log(), name).kl == math.inf


def test_estimators_by_hand_and_masked() -> None:
    sampler, other = torch.tensor([[-1.0, -2.0, -math.inf]]), torch.tensor([[-2.0, -2.5, 0.0]])
    mask = torch.tensor([[1, 1, 0]])
    hand = {"k1": 1.5, "k2": 1.125, "k3": 1.5 - 1 + math.exp(-1.5)}
    for name, expected in hand.items():
        assert sequence_kl(sampler, other, name, mask=mask).item() == pytest.approx(expected)
