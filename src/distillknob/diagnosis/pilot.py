"""The pilot table: token- and sequence-level × forward and reverse × on- and off-policy KL, by task.

Token-level values are exact means over the visited tokens; between two tokenizers the mean log-ratio of spans stands
there. Sequence-level ones are Monte Carlo: from its own policy's samples the plain mean of the log-ratio (k1); from the
other policy's samples the self-normalised importance-weighted mean, whose effective sample size is told, because it is
what breaks (the paper's off-policy instability).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from distillknob.diagnosis.samples import ScoredAnswers, ScoredTokens
from distillknob.stats import interval


def pilot_rows(samples: Sequence[ScoredAnswers]) -> list[dict[str, Any]]:
    """Eight rows a task, six where the pieces are spans: level, direction, policy, task, value, interval, unit, n
    (prompts), effective sample size."""
    rows = []
    for sample in samples:
        on_policy = sample.policy == "on_policy"
        log_ratio_N = sample.teacher_logprob_N - sample.student_logprob_N
        # Of a span only the policy's own KL can be estimated, by the mean of the log-ratio.
        by_piece = (
            [("forward_kl", sample.forward_kl_N), ("reverse_kl", sample.reverse_kl_N)]
            if isinstance(sample, ScoredTokens)
            else [("reverse_kl", -log_ratio_N) if on_policy else ("forward_kl", log_ratio_N)]
        )
        for direction, values_N in by_piece:
            mean = interval(values_N.numpy(), sample.prompt_N.numpy(), proportion=False)
            rows.append(
                _row(sample.piece, direction, sample, mean.mean, mean.as_list(), f"nats/{sample.piece}", mean.n)
            )
        log_ratio_A = sample.per_answer(sample.teacher_logprob_N) - sample.per_answer(sample.student_logprob_N)
        for direction, sign in (("forward_kl", 1.0), ("reverse_kl", -1.0)):
            term_A = sign * log_ratio_A
            if (direction == "reverse_kl") == on_policy:  # sampled from the distribution that the KL averages over
                mean = interval(term_A.numpy(), sample.prompt_A.numpy(), proportion=False)
                rows.append(_row("sequence", direction, sample, mean.mean, mean.as_list(), "nats/sequence", mean.n))
                continue
            weight_A = torch.softmax(term_A, 0)  # self-normalised importance weights
            value = float((weight_A * term_A).sum())
            # Linearised (delta-method) contributions of the ratio estimator, for a clustered interval around it.
            influence_A = len(term_A) * weight_A * (term_A - value)
            spread = interval(influence_A.numpy(), sample.prompt_A.numpy(), proportion=False)
            bounds = [value + spread.low - spread.mean, value + spread.high - spread.mean]
            row = _row("sequence", direction, sample, value, bounds, "nats/sequence", spread.n)
            rows.append({**row, "effective_samples": float(1 / weight_A.square().sum()), "samples": len(term_A)})
    return rows


def _row(
    level: str, direction: str, sample: ScoredAnswers, value: float, bounds: list[float], unit: str, n: int
) -> dict[str, Any]:
    return {
        "level": level,
        "direction": direction,
        "policy": sample.policy,
        "task": sample.task,
        "value": value,
        "interval": bounds,
        "unit": unit,
        "n": n,
    }
