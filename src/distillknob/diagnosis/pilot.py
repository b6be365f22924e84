"""The pilot table: token- and sequence-level × forward and reverse × on- and off-policy KL, by task.

Token-level values are exact means over the visited tokens; between two tokenizers the mean log-ratio of spans stands
there. Sequence-level ones are Monte Carlo: from its own policy's samples the plain mean of the log-ratio (k1); from the
other policy's samples the self-normalised importance-weighted mean, whose effective sample size is told, because it is
what breaks (the paper's off-policy instability).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from distillknob.diagnosis.samples import BothPolicies, ScoredAnswers, ScoredTokens, means_by_prompt
from distillknob.diagnosis.traps.base import ByPrompt, Table
from distillknob.stats import Interval, interval


def pilot_rows(samples: Sequence[ScoredAnswers]) -> list[dict[str, Any]]:
    """Eight rows a task, six where the pieces are spans: level, direction, policy, task, value, interval, unit, n
    (prompts), effective sample size."""
    return [row for sample in samples for row in (*_piece_rows(sample), *_sequence_rows(sample))]


def _piece_rows(sample: ScoredAnswers) -> Iterator[dict[str, Any]]:
    """Both KLs a token; of spans only the policy's own KL can be estimated, by the mean of the log-ratio."""
    if isinstance(sample, ScoredTokens):
        columns = [("forward_kl", sample.forward_kl_N), ("reverse_kl", sample.reverse_kl_N)]
    else:
        log_ratio_N = sample.teacher_logprob_N - sample.student_logprob_N
        columns = [("reverse_kl", -log_ratio_N) if sample.policy == "on_policy" else ("forward_kl", log_ratio_N)]
    for direction, values_N in columns:
        mean = interval(values_N.numpy(), sample.prompt_N.numpy(), proportion=False)
        yield _row(sample, sample.piece, direction, mean)


def _sequence_rows(sample: ScoredAnswers) -> Iterator[dict[str, Any]]:
    """Both KLs a sequence, estimated from this policy's answers."""
    own = "reverse_kl" if sample.policy == "on_policy" else "forward_kl"  # the one that averages over this policy
    log_ratio_A = sample.per_answer(sample.teacher_logprob_N) - sample.per_answer(sample.student_logprob_N)
    for direction, sign in (("forward_kl", 1.0), ("reverse_kl", -1.0)):
        term_A = sign * log_ratio_A
        if direction == own:
            mean = interval(term_A.numpy(), sample.prompt_A.numpy(), proportion=False)
            yield _row(sample, "sequence", direction, mean)
            continue
        weight_A = torch.softmax(term_A, 0)  # self-normalised importance weights
        value = float((weight_A * term_A).sum())
        # Linearised (delta-method) contributions of the ratio estimator, for a clustered interval around it.
        influence_A = len(term_A) * weight_A * (term_A - value)
        spread = interval(influence_A.numpy(), sample.prompt_A.numpy(), proportion=False)
        low, high = value + spread.low - spread.mean, value + spread.high - spread.mean
        row = _row(sample, "sequence", direction, replace(spread, mean=value, low=low, high=high))
        yield {**row, "effective_samples": float(1 / weight_A.square().sum()), "samples": len(term_A)}


def _row(sample: ScoredAnswers, level: str, direction: str, value: Interval) -> dict[str, Any]:
    return {
        "level": level,
        "direction": direction,
        "policy": sample.policy,
        "task": sample.task,
        "value": value.mean,
        "interval": value.as_list(),
        "unit": f"nats/{level}",
        "n": value.n,
    }


def _token_kls(scored: BothPolicies) -> list[ByPrompt]:
    """Both KLs a token on both policies' answers; none where the pieces are spans."""
    return [
        ByPrompt(f"token_{direction}_{sample.policy}", "nats/token", *means_by_prompt(sample.prompt_N, values_N))
        for sample in (scored.on_policy, scored.off_policy)
        if isinstance(sample, ScoredTokens)
        for direction, values_N in (("reverse_kl", sample.reverse_kl_N), ("forward_kl", sample.forward_kl_N))
    ]


PILOT = Table(
    name="pilot",
    needs=lambda gathered: gathered.scored,
    rows=lambda scored: pilot_rows([scored.on_policy, scored.off_policy]),
    by_prompt=_token_kls,
)
