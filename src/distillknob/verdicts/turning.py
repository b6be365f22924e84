"""This module judges whether a teacher's knob turned: by the calibration reward (in the paper the log-ratio
log π − log π_C) of the original teacher and of the calibrated one, each on its own samples of the same held-out
problems, paired by problem."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from distillknob.results.schema import Verdict
from distillknob.results.stages import Turned, TurnedOn
from distillknob.stats import paired_difference

TURNED: Verdict = "turned"

UNCLEAR: Verdict = "can't tell"

WRONG: Verdict = "the wrong way"

NOT: Verdict = "not at all"


LOG_RATIO = "log-ratio to the target"  # the paper's reward, and the only one of older runs


@dataclass(frozen=True, kw_only=True)
class Turning:
    """A turning says whether the knob turned. `before` and `after` are means of the `quantity` in `unit` over the
    `problems` on which both teachers have samples that the calibration reward is given to (`over`); `difference` is
    after − before with its 95 % `interval`. What could not be measured is None; `same` says that the calibrated
    teacher is the original itself. Of several tasks, `tasks` holds the same by task: a knob that turned over all of
    them may have turned the wrong way on one."""

    verdict: Verdict
    reason: str
    before: float | None
    after: float | None
    difference: float | None
    interval: tuple[float, float] | None
    problems: int
    unit: str
    over: str
    quantity: str = LOG_RATIO
    same: bool = False
    tasks: Mapping[str, Turning] = field(default_factory=dict)

    def as_row(self) -> Turned:
        """Return the verdict and its figures as `result.json` holds them."""
        return {**self._alone(), "tasks": [{"task": name, **one._alone()} for name, one in self.tasks.items()]}

    def _alone(self) -> TurnedOn:
        return {
            "verdict": self.verdict,
            "reason": self.reason,
            "before": self.before,
            "after": self.after,
            "difference": self.difference,
            "interval": self.interval and list(self.interval),
            "problems": self.problems,
            "unit": self.unit,
            "over": self.over,
            "quantity": self.quantity,
            "same": self.same,
        }


def turning_of_tasks(
    before: Mapping[str, Sequence[float | None]], after: Mapping[str, Sequence[float | None]], **of_all: Any
) -> Turning:
    """Judge with `turning` over the problems of all tasks together, and by task where there are several."""
    first, second = ([value for name in before for value in side[name]] for side in (before, after))
    pooled = turning(first, second, **of_all)
    if len(before) < 2:
        return pooled
    return replace(pooled, tasks={name: turning(before[name], after[name], **of_all) for name in before})


def turning(
    before: Sequence[float | None],
    after: Sequence[float | None],
    *,
    eta: float,
    quantity: str = LOG_RATIO,
    unit: str = "nats an answer",
    gated: bool = True,
    same: str | None = None,
) -> Turning:
    """Judge whether a calibration at `eta` moved its reward, from each held-out problem's mean.

    `before[i]` and `after[i]` belong to problem i and are what the reward gives (`quantity`, in `unit`); None where no
    sample of that problem counts (with `gated`, only right, finished ones do). `same` says why the calibrated teacher
    is the original itself: then the difference is exactly 0, and there is no interval.
    """
    over = "right and finished samples" if gated else "all samples"
    if same is not None:
        own = [value for value in before if value is not None]
        mean = sum(own) / len(own) if own else None
        return Turning(
            verdict=NOT,
            reason=same,
            before=mean,
            after=mean,
            difference=0.0,
            interval=None,
            problems=len(own),
            unit=unit,
            over=over,
            quantity=quantity,
            same=True,
        )
    without_figures = partial(
        Turning, before=None, after=None, difference=None, interval=None, unit=unit, over=over, quantity=quantity
    )
    pairs = [(a, b) for a, b in zip(before, after, strict=True) if a is not None and b is not None]
    if not pairs:
        verdict, reason = (NOT, "η is 0") if eta == 0 else (UNCLEAR, f"no held-out problem has {over} on both sides")
        return without_figures(verdict=verdict, reason=reason, problems=0)
    unmeasured = sum(not (math.isfinite(a) and math.isfinite(b)) for a, b in pairs)
    if unmeasured:
        reason = f"the {quantity} isn't finite on {unmeasured} of {len(pairs)} held-out problems"
        return without_figures(verdict=NOT if eta == 0 else UNCLEAR, reason=reason, problems=len(pairs))
    firsts, seconds = [a for a, _ in pairs], [b for _, b in pairs]
    change = paired_difference(firsts, seconds, proportion=False)
    interval = None if math.isnan(change.low) or math.isnan(change.high) else (change.low, change.high)
    verdict, reason = _judged(eta, interval, len(pairs), quantity)
    return Turning(
        verdict=verdict,
        reason=reason,
        before=sum(firsts) / len(firsts),
        after=sum(seconds) / len(seconds),
        difference=change.mean,
        interval=interval,
        problems=len(pairs),
        unit=unit,
        over=over,
        quantity=quantity,
    )


def _judged(eta: float, interval: tuple[float, float] | None, problems: int, quantity: str) -> tuple[Verdict, str]:
    if eta == 0:
        return NOT, "η is 0: the teacher was trained on its tasks alone"
    wanted = "fall" if eta < 0 else "rise"
    if interval is None:
        return UNCLEAR, f"{problems} held-out problem gives no interval: raise guard_problems"
    low, high = interval
    if low <= 0 <= high:
        return UNCLEAR, f"the {quantity} should {wanted}, and the interval of its change holds 0"
    if (high < 0) == (eta < 0):
        return TURNED, f"the {quantity} {'fell' if eta < 0 else 'rose'}, as it should"
    return WRONG, f"the {quantity} {'rose' if eta < 0 else 'fell'}, and should {wanted}"


def tasks_turned_wrong(turned: Mapping[str, Any]) -> list[str]:
    """Return the tasks on which the knob turned the wrong way, where the verdict over all tasks is another."""
    if turned.get("verdict") == WRONG:
        return []
    return [str(row["task"]) for row in turned.get("tasks") or [] if row["verdict"] == WRONG]


def turned_text(turned: Mapping[str, Any]) -> str:
    """Tell the verdict with its figures, in a sentence or two."""
    verdict, reason = turned["verdict"], turned["reason"]
    head = {
        TURNED: "The knob turned",
        UNCLEAR: "Whether the knob turned can't be told",
        WRONG: "The knob turned the wrong way",
    }.get(verdict, "The knob did not turn")
    summary = f"{head}: {reason}."
    if turned.get("same") or turned["difference"] is None:
        return summary
    by_task = [
        f"{row['task']} {row['verdict']} ({row['difference']:+.2f}{_interval_text(row['interval'])})"
        if row["difference"] is not None
        else f"{row['task']} {row['verdict']} ({row['reason']})"
        for row in turned.get("tasks") or []
    ]
    quantity = turned.get("quantity") or LOG_RATIO
    return (
        f"{summary} {quantity[:1].upper()}{quantity[1:]} {turned['before']:.2f} before, {turned['after']:.2f} after "
        f"({turned['difference']:+.2f} {turned['unit']}{_interval_text(turned['interval'])}; {turned['over']} of "
        f"{turned['problems']} held-out problems)." + (f" By task: {', '.join(by_task)}." if by_task else "")
    )


def _interval_text(bounds: Sequence[float] | None) -> str:
    return "" if bounds is None else f", 95 % interval {bounds[0]:+.2f} to {bounds[1]:+.2f}"
