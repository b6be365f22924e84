"""Teacher hacking: the student fits the teacher's flaws rather than what the teacher knows, seen in the training loss.

The loss that measures the distance to the teacher (the proxy) falls as a power of the step while a student learns from
it, and departs from that power law where the student begins to exploit the fixed data or the teacher's flaws (Tiapkin
et al., arXiv 2502.02671). The law is fitted to log loss against log step in the first half of the training and judged
on the second. Steps on the student's own samples have a level of their own, as their loss is another quantity.

A loss that starts on a plateau, or falls exponentially, bends on a log-log scale from the beginning and would be found
far from any line through its first half. So where a parabola fits that half better than a line, beyond doubt (99.9 %),
there is no law to depart from, and the trap doesn't apply.

What it can't tell apart: a learning rate that falls towards zero also bends the curve, mostly downwards at first. So a
finding is a reason to look at held-out scores, not a verdict.

Where a better model than the teacher is at hand, the oracle, it is seen directly (`hacking_by_oracle`): on held-out
problems the student's distance to the teacher keeps falling while that to the oracle, the golden distance, turns up.
The thresholds of both are ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from distillknob.diagnosis.finding import Finding, finding_of, graded, not_applicable
from distillknob.results.stages import Plot
from distillknob.stats import Floats, Interval, paired_difference, t_quantile

NAME, BY_ORACLE = "teacher_hacking", "teacher_hacking_by_oracle"
FEWEST = 20  # logged steps in each half
_FEWEST_POINTS = 3  # of a learning curve: one cannot turn in fewer
_SMALL = 1e-3  # nats a token: a golden distance below it is as good as none


def teacher_hacking(
    steps: Sequence[int], losses: Sequence[float | None], on_policy: Sequence[float] | None = None, *, warmup: int = 0
) -> Finding:
    """How far the training loss of the second half lies from the power law of the first, in the mean of its logarithm.

    Args: steps (from 1), losses and, for methods that mix, whether each step was on the student's own samples (0 to 1);
      steps up to `warmup` are left out.
    Value: the absolute departure in units of the log of the loss (0.1 is about 10 %). Low from 0.05, medium from 0.1,
      high from 0.2. Not applicable with fewer than 20 positive losses in either half, and where the first half follows
      no power law.
    """
    own = [0.0] * len(steps) if on_policy is None else on_policy
    logged = [
        (step, loss, share)
        for step, loss, share in zip(steps, losses, own, strict=True)
        if step > warmup and loss is not None and loss > 0
    ]
    half = len(logged) // 2
    if half < FEWEST:
        return not_applicable(
            NAME, None, f"{len(logged)} positive losses after the warm-up: a power law wants {2 * FEWEST}"
        )
    step_N, loss_N, share_N = np.array(logged, dtype=float).T
    columns = [np.ones(len(logged)), np.log(step_N)]
    if np.ptp(share_N[:half]) > 0:
        columns.append(share_N)
    design_ND, log_loss_N = np.stack(columns, 1), np.log(loss_N)
    if _bends(design_ND[:half], log_loss_N[:half]):
        return not_applicable(
            NAME, None, f"the loss of the first {half} steps bends on a log-log scale: no power law to depart from"
        )
    fit_D = np.linalg.lstsq(design_ND[:half], log_loss_N[:half], rcond=None)[0]
    residual_N = log_loss_N - design_ND @ fit_D
    departure = float(residual_N[half:].mean())
    # The variance of a mean of new observations about a fitted line: their own noise and the line's.
    freedom = half - design_ND.shape[1]
    noise = float((residual_N[:half] ** 2).sum() / freedom)
    middle_D = design_ND[half:].mean(0)
    leverage = float(middle_D @ np.linalg.pinv(design_ND[:half].T @ design_ND[:half]) @ middle_D)
    reach = t_quantile(0.975, freedom) * (noise * (1 / (len(logged) - half) + leverage)) ** 0.5
    bounds = sorted((abs(departure) - reach, abs(departure) + reach))
    size = Interval(mean=abs(departure), low=max(0.0, bounds[0]), high=bounds[1], n=len(logged))
    above = departure > 0
    return finding_of(
        NAME,
        None,
        size,
        unit=f"mean |log| departure of the loss from its power law, which it lies {'above' if above else 'below'}",
        severity=graded(size, 0.05, 0.1, 0.2),
        cause=f"the loss fell as step^{fit_D[1]:.2f} at first and then {'more slowly' if above else 'faster'}: the "
        "student begins to fit what is particular to these traces or this teacher, or the learning rate has run out",
        remedy="watch held-out scores (curve_steps), use more prompts (problems) or fresh samples of the student "
        "(lmbda=1), or stop early (max_steps)",
        plot=_plot(step_N, loss_N, np.exp(design_ND @ fit_D), half),
    )


def turned_up(proxy: Sequence[float], golden: Sequence[float]) -> list[bool]:
    """At which points of a learning curve has the golden distance risen above its lowest point before, while the proxy
    has fallen below what it was there?"""
    flags = [False] * min(1, len(golden))
    for i in range(1, len(golden)):
        lowest = _lowest(golden[:i])
        flags.append(golden[i] > golden[lowest] and proxy[i] < proxy[lowest])
    return flags


def _lowest(values: Sequence[float]) -> int:
    """The place of the lowest value; of several the last."""
    return len(values) - 1 - int(np.argmin(values[::-1]))


def hacking_by_oracle(
    task: str, steps: Sequence[int], proxy_PN: Sequence[Sequence[float]], golden_PN: Sequence[Sequence[float]]
) -> Finding:
    """How far the distance to the oracle has risen at the end above its lowest point, while that to the teacher fell.

    Args: the steps of a learning curve's P points and, for each, the student's distances to the teacher and to the
      oracle on N held-out problems, in nats a token.
    Value: the rise of the golden distance from its lowest point to the last one, as a share of the former, paired by
      problem. Its lowest point is chosen by the data, which makes a rise from noise alone likelier. Low from 0.05,
      medium from 0.1, high from 0.2, where the proxy has fallen meanwhile. Not applicable with fewer than three points.
    """
    if len(steps) < _FEWEST_POINTS:
        return not_applicable(BY_ORACLE, task, f"{len(steps)} points of a learning curve: a turn wants three")
    proxy, golden = ([float(np.mean(values)) for values in points] for points in (proxy_PN, golden_PN))
    lowest = _lowest(golden)
    rise = paired_difference(golden_PN[lowest], golden_PN[-1], proportion=False)
    share = max(golden[lowest], _SMALL)
    size = Interval(mean=rise.mean / share, low=rise.low / share, high=rise.high / share, n=rise.n)
    flags = turned_up(proxy, golden)
    if flags[-1]:
        first = next(step for step, flag in zip(steps, flags, strict=True) if flag)
        cause = (
            f"the student still comes closer to its teacher and moves away from the oracle, first at step {first}: "
            "it learns what is particular to the teacher or to its traces"
        )
    elif lowest < len(steps) - 1:
        cause = f"the golden distance was lowest at step {steps[lowest]}, and that to the teacher didn't fall since"
    else:
        cause = "the golden distance is lowest at the end"
    return finding_of(
        BY_ORACLE,
        task,
        size,
        unit="rise of the distance to the oracle over its lowest point, as a share of it",
        severity=graded(size, 0.05, 0.1, 0.2) if flags[-1] else "none",
        cause=cause,
        remedy="use more prompts (problems) or fresh samples of the student (lmbda=1), or stop early (max_steps)",
        plot={
            "title": f"{task}: the student's distance to its teacher and to the oracle",
            "x_label": "step",
            "y_label": "KL, nats a token",
            "x_scale": "linear",
            "series": [
                {"name": name, "x": list(steps), "y": values, "low": [], "high": []}
                for name, values in (("to the teacher (proxy)", proxy), ("to the oracle (golden)", golden))
            ],
        },
    )


def _bends(design_ND: Floats, log_loss_N: Floats) -> bool:
    """Is the coefficient of (log step)² off zero, at 99.9 %?"""
    with_square_ND = np.column_stack([design_ND, design_ND[:, 1] ** 2])
    fit_D = np.linalg.lstsq(with_square_ND, log_loss_N, rcond=None)[0]
    freedom = len(log_loss_N) - len(fit_D)
    noise = float(((log_loss_N - with_square_ND @ fit_D) ** 2).sum() / freedom)
    error = (noise * float(np.linalg.pinv(with_square_ND.T @ with_square_ND)[-1, -1])) ** 0.5
    return bool(abs(float(fit_D[-1])) > t_quantile(0.9995, freedom) * error)


def _plot(step_N: Floats, loss_N: Floats, law_N: Floats, half: int) -> Plot:
    lines = (("training loss", step_N, loss_N), ("power law of the first half", step_N, law_N))
    return {
        "title": f"training loss and the power law of its first {half} steps",
        "x_label": "step",
        "y_label": "training loss",
        "x_scale": "log",
        "series": [{"name": name, "x": x.tolist(), "y": y.tolist(), "low": [], "high": []} for name, x, y in lines],
    }
