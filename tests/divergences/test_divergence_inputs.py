"""What a bad input of a divergence is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from distillknob.divergences.dense import divergence
from distillknob.divergences.per_token import token_stats
from distillknob.divergences.sequence import enumerate_sequences, moments, sequence_kl
from distillknob.divergences.top_k import divergence_from_topk, topk_of
from distillknob.errors import BadInputError
from textbook import LOG2, policy

X = torch.zeros(2, 3)


IDS, LOGPS, TAIL = torch.zeros(2, 1, dtype=torch.long), torch.full((2, 1), -LOG2), torch.full((2,), -LOG2)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: divergence(X, X, "forwardkl"), "did you mean 'forward_kl'"),
        (lambda: divergence(X, X[:1], "jsd"), r"\[2, 3\].*\[1, 3\]"),
        (lambda: divergence(X, X, "jsd", beta=1.5), "beta.*1.5"),
        (lambda: divergence(X, X, "skew_forward_kl", alpha=1.0), "alpha.*1.0"),
        (lambda: divergence(X, X, "jsd", temperature=0.0), "temperature.*0"),
        (lambda: divergence(X, X, "jsd", jsd_scale="gkd"), "jsd_scale.*'gkd'"),
        (lambda: divergence(X, X, "jsd", top_k=0), "top-k.*0"),
        (lambda: divergence(X.long(), X, "jsd"), "floating point.*int64"),
        (lambda: divergence(X[:, :0], X, "jsd"), "empty"),
        (lambda: token_stats(X, X, [1, -2]), "-2"),
        (lambda: divergence_from_topk(X, IDS + 5, LOGPS, TAIL, "jsd"), "from 5 to 5.*3 tokens"),
        (lambda: divergence_from_topk(X, IDS, LOGPS, TAIL[:1], "jsd"), r"tail_logprob.*\[1\]"),
        (lambda: topk_of(X, 4), "k = 4.*3 tokens"),
        (lambda: sequence_kl(X, X, "k4"), "unknown estimator 'k4'"),
        (lambda: sequence_kl(X, X[:, :1], "k1"), r"\[2, 3\].*\[2, 1\]"),
        (lambda: sequence_kl(X, X, "k1", mask=X[:1]), r"mask \[1, 3\]"),
        (lambda: moments(X[0], X[0], "k1"), "sum to 3"),
        (lambda: enumerate_sequences(policy(1), 10, 10), "can't be listed"),
    ],
)
def test_a_bad_input_is_told_what_was_wrong(call: Callable[[], Any], told: str) -> None:
    with pytest.raises(BadInputError, match=told):
        call()
