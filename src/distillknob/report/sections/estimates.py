"""These tables show what a KL's estimates are worth on this pair: off-policy weightings, sampled-token gradients,
quadrants of tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence

from distillknob.report.drawing.markup import (
    Child,
    Html,
    Row,
    decimal,
    decimal_range,
    join,
    number,
    percent,
    plural,
    table,
    tag,
    text,
    with_range,
)
from distillknob.report.rows import distinct, find, where

_NEAR = 0.5  # of the value: what is further off says nothing of it


def off_policy_table(estimates: Sequence[Row]) -> Html | None:
    """Show the estimates of the reverse KL, one row a weighting and estimator, one column a task; the on-policy value
    is the last row."""
    if not estimates:
        return None
    tasks = distinct(estimates, "task")
    body: list[list[Child]] = []
    for weighting in distinct(estimates, "weighting"):
        for estimator in distinct(where(estimates, weighting=weighting), "estimator"):
            own = [find(estimates, weighting=weighting, estimator=estimator, task=task) or {} for task in tasks]
            name = f"{weighting.replace('_', ' ')}, {estimator}"
            body.append([name, *(_cell(row, "value", "interval") for row in own)])
    on = [find(estimates, task=task) or {} for task in tasks]
    body.append([tag("b", "on-policy, k1"), *(_cell(row, "on_policy", "on_policy_interval") for row in on)])
    return table(["Reverse KL, nats a sequence", *tasks], body, class_="named")


def off_policy_sentence(estimates: Sequence[Row]) -> str:
    """Name the weighting that comes nearest to the on-policy value, and count the tasks on which none is near."""
    nearest: list[tuple[float, str]] = []
    for task in distinct(estimates, "task"):
        biases = [
            (abs(bias), row) for row in where(estimates, task=task) if (bias := number(row.get("bias"))) is not None
        ]
        if biases:
            bias, row = min(biases, key=lambda pair: pair[0])
            name = f"{text(row.get('weighting')).replace('_', ' ')} {text(row.get('estimator'))}"
            value = number(row.get("on_policy"))
            share = bias / abs(value) if value else math.inf
            nearest.append((share, f"{name} on {task}, off by {decimal(bias, 2)} of {decimal(value, 2)} nats"))
    if not nearest:
        return ""
    useless = sum(share > _NEAR for share, _ in nearest)
    best = min(nearest, key=lambda one: one[0])[1]
    summary = f"From the teacher's samples, {best}, comes nearest to the on-policy reverse KL."
    if not useless:
        return summary
    of_tasks = f"On {useless} of {plural(len(nearest), 'task')}"
    return f"{summary} {of_tasks} no estimate is of use: all are off by more than half."


def myopia_table(estimates: Sequence[Row]) -> Html | None:
    """Show how well a gradient's estimates agree with the token-level one, one row a task and estimate."""
    if not estimates:
        return None
    body: list[list[Child]] = [
        [
            f"{text(row.get('task'))}, {text(row.get('estimate')).replace('_', ' ')}",
            _cell(row, "cosine", "interval"),
            decimal(row.get("cosine_of_means")),
            decimal(row.get("variance_ratio"), 2),
            text(row.get("n")),
        ]
        for row in estimates
    ]
    head = ["Gradient of the reverse KL", "cosine, a prompt", "cosine, all prompts", "variance ratio", "n"]
    return table(head, body, class_="named")


def myopia_sentence(estimates: Sequence[Row]) -> str:
    """Say where the sampled-token gradient points furthest away from the token-level one."""
    cosines = [
        (cosine, text(row.get("task")))
        for row in where(estimates, estimate="sampled_token")
        if (cosine := number(row.get("cosine"))) is not None
    ]
    if not cosines:
        return ""
    cosine, task = min(cosines)
    return (
        "A prompt's sampled-token gradient should point where its token-level gradient does (cosine 1). It does so "
        f"least on {task}: {decimal(cosine, 2)}."
    )


def quadrant_table(quadrants: Sequence[Row]) -> Html | None:
    """Show the share of the tokens and of the KL, one row a quadrant, one column a task."""
    if not quadrants:
        return None
    tasks = distinct(quadrants, "task")
    body: list[list[Child]] = []
    for entropy in distinct(quadrants, "entropy"):
        for divergence in distinct(where(quadrants, entropy=entropy), "divergence"):
            own = [find(quadrants, entropy=entropy, divergence=divergence, task=task) or {} for task in tasks]
            name = f"{entropy} student entropy, {divergence} divergence"
            shares = [join(percent(row.get("share_of_kl")), f" in {percent(row.get('tokens'))}") for row in own]
            body.append([name, *shares])
    return table(["Share of the forward KL, in a share of the tokens", *tasks], body, class_="named")


def _cell(row: Row, key: str, interval: str) -> Html:
    return with_range(decimal(row.get(key)), decimal_range(row.get(interval)))
