"""The utility guard: holds the teacher's task score while the knob turns, and stops before the teacher is lost.

It watches the policy's own training samples, which cost nothing more. Every `steps` steps it compares each task's mean
score over that window with the original teacher's. A drop beyond the tolerance doubles the anchor β; a window well
within it lets β relax towards its start. A drop beyond `collapse` times the tolerance, a log-ratio that has run away,
a value that isn't finite, or a drop that the strongest anchor can't hold, stops the run; the last good checkpoint, one
saved after a window within the tolerance, is kept.

The baseline is the original's score on other problems of the same split, so that it has an error of its own beside the
window's: to sample the original on the problems that are trained on would cost as much as several windows. Both errors
count. A drop counts as far as it goes beyond them, at a level that adds up to `ERROR` over all looks and tasks (the
union bound), so that a teacher that hasn't changed is taken for a strained one in at most that share of the runs.

Left out on purpose: any use of test problems, and a PID controller. Windows are few and noisy; doubling is enough.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from statistics import NormalDist
from typing import Any, Literal

from distillknob.results.stages import GuardEvent

ERROR = 0.05  # over all looks and tasks of a run
PSEUDO = 2  # prompts

Verdict = Literal["good", "strained", "stop", "unseen"]


@dataclass
class UtilityGuard:
    """State and rules of the guard. `baseline` holds the original teacher's mean score by task. Scores lie in [0, 1];
    those of other reward functions in whatever unit `tolerance` has too, with the original's `variance` by task.
    `baseline_errors` are the standard errors of the baseline, 0 where it is known exactly; `looks` is the number of
    windows that the run will have, which the trainer sets as it begins.

    `observe` takes one step's samples, `judge` closes a window. `state_dict`/`load_state_dict` survive a resume.
    """

    baseline: Mapping[str, float]
    tolerance: float
    beta: float
    steps: int = 5
    beta_max_factor: float = 16.0
    collapse: float = 10.0
    patience: int = 4
    log_ratio_factor: float = 10.0
    variance: Mapping[str, float] | None = None
    baseline_errors: Mapping[str, float] = field(default_factory=dict)
    looks: int = 1

    beta_start: float = field(init=False)
    strikes: int = field(default=0, init=False)
    log_ratio_start: float | None = field(default=None, init=False)
    reason: str | None = field(default=None, init=False)
    events: list[GuardEvent] = field(default_factory=list, init=False)
    last_good_step: int = field(default=0, init=False)
    _scores: dict[str, list[float]] = field(default_factory=dict, init=False)
    _log_ratios: list[float] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.beta_start = self.beta

    def observe(self, scores: Mapping[str, list[float]], log_ratio: float) -> None:
        """One step's scores by task, the mean of each prompt's samples, and its mean log-ratio in nats a sequence.

        Samples of one prompt are right or wrong together, so that it is prompts that a window's noise is told by.
        """
        for task, values in scores.items():
            self._scores.setdefault(task, []).extend(values)
        self._log_ratios.append(log_ratio)

    def check_finite(self, step: int, **values: float) -> bool:
        """False, with the reason kept, where a value is NaN or infinite."""
        broken = {name: value for name, value in values.items() if not math.isfinite(value)}
        if broken:
            self._stop(step, f"not finite at step {step}: {', '.join(f'{k}={v}' for k, v in broken.items())}")
        return not broken

    def judge(self, step: int) -> Verdict:
        """Close the window: adapt β, and say whether the policy is good, strained (β was raised) or lost (stop). A
        window in which nothing was scored is unseen: no proof that the policy is good."""
        if not self._log_ratios:
            return "unseen"
        seen = {task: list(values) for task, values in self._scores.items() if values}
        log_ratio = sum(self._log_ratios) / len(self._log_ratios)
        self._scores.clear()
        self._log_ratios.clear()
        if self.log_ratio_start is None:
            self.log_ratio_start = log_ratio
        limit = self.log_ratio_factor * max(1.0, abs(self.log_ratio_start))
        if not abs(log_ratio - self.log_ratio_start) <= limit:  # NaN is no log-ratio to go on with
            return self._stop(
                step,
                f"the log-ratio ran away: {log_ratio:.1f} nats a sequence at step {step}, from "
                f"{self.log_ratio_start:.1f} at the start (limit: {limit:.1f} away)",
            )
        if not seen:
            return "unseen"
        scores = {task: sum(values) / len(values) for task, values in seen.items()}
        drops = {task: self.baseline[task] - score for task, score in scores.items()}
        # A window's mean and the baseline are noisy: a drop counts only as far as it goes beyond that.
        sure = {task: drops[task] - self._noise(task, seen[task]) for task in seen}
        worst = max(sure, key=lambda task: sure[task])
        if sure[worst] > self.collapse * self.tolerance:
            return self._stop(
                step,
                f"the score on {worst} collapsed: {scores[worst]:.3f} at step {step}, the original's is "
                f"{self.baseline[worst]:.3f} (tolerance {self.tolerance}, collapse at {self.collapse:g} times that)",
            )
        if sure[worst] > self.tolerance:
            self.strikes += 1
            if self.strikes > self.patience:
                return self._stop(
                    step,
                    f"the anchor couldn't hold {worst}: {scores[worst]:.3f} at step {step} against "
                    f"{self.baseline[worst]:.3f}, {self.strikes} windows in a row below the tolerance of "
                    f"{self.tolerance}, with beta={self.beta:.3g}",
                )
            self._set_beta(step, min(2 * self.beta, self.beta_max_factor * self.beta_start), worst, scores[worst])
            return "strained"
        self.strikes = 0
        self.last_good_step = step
        if max(drops.values()) < self.tolerance / 2 and self.beta > self.beta_start:
            self._set_beta(step, max(self.beta / 1.5, self.beta_start), worst, scores[worst])
        return "good"

    def _noise(self, task: str, values: list[float]) -> float:
        """How far a window of these values may lie below the baseline by chance."""
        error = math.hypot(_standard_error(values, self._variance(task)), self.baseline_errors.get(task, 0.0))
        return NormalDist().inv_cdf(1 - ERROR / (max(1, self.looks) * len(self.baseline))) * error

    def _variance(self, task: str) -> float:
        """The variance of one answer's score under the original; of right and wrong answers by their rate."""
        if self.variance is not None:
            return self.variance[task]
        return self.baseline[task] * (1 - self.baseline[task])

    def _set_beta(self, step: int, beta: float, task: str, score: float) -> None:
        if beta != self.beta:
            what = (
                f"beta {self.beta:.3g} -> {beta:.3g}: {task} at {score:.3f}, the original at {self.baseline[task]:.3f}"
            )
            self.events.append({"step": step, "what": what})
        self.beta = beta

    def _stop(self, step: int, reason: str) -> Verdict:
        self.reason = reason
        self.events.append({"step": step, "what": f"stopped: {reason}"})
        return "stop"

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs, as JSON values."""
        return asdict(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a saved state; the rules (tolerance, patience …) stay those of this run."""
        for name in ("beta", "strikes", "log_ratio_start", "reason", "events", "last_good_step"):
            setattr(self, name, state[name])
        self._scores = {task: list(values) for task, values in state["_scores"].items()}
        self._log_ratios = list(state["_log_ratios"])


def _standard_error(values: list[float], variance: float) -> float:
    """Of the mean of prompts, with `PSEUDO` more in the variance that are as scattered as the
    original's answers: one prompt, or two that happen to agree, are no proof (`benchmarks/guard.py`). Floored
    besides: a window of nothing but right answers is no proof of more."""
    mean = sum(values) / len(values)
    scatter = sum((value - mean) ** 2 for value in values) + PSEUDO * variance
    return math.sqrt(max(scatter / (len(values) - 1 + PSEUDO), 1e-4) / len(values))
