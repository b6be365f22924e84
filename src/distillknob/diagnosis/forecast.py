"""A forecast of what distillation brings: the score that the student would have if it wrote as the teacher does.

A student takes over its teacher's styles far sooner than it gets better within any of them (seen on the embedded pair,
the lab notebook). So the forecast keeps what the student can do in each style and weights the styles by the
teacher's habits. It needs a task that names its styles, samples of both models, and no training. What it leaves out:
what the student learns within a style, and what it forgets.

docs/research/benchmarks.md tells how well it ranks pairs by what their students then gained.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import numpy as np

from distillknob.diagnosis.samples import OwnAnswers, StyledAnswers
from distillknob.diagnosis.traps.base import Table
from distillknob.stats import interval


class ByStyle:
    """What a student can do in each style that it writes in, from its own answers.

    On each problem its accuracy in a style is that of its answers written so, and of one answer more that is as right
    as its answers written so are over all problems (0 where there are none). `score` is the share of right answers by
    problem, in the order of the answers.
    """

    def __init__(self, own: OwnAnswers):
        self._by_style: dict[str, list[float]] = defaultdict(list)
        self._by_problem: dict[tuple[int, str], list[float]] = defaultdict(list)
        rows: dict[int, list[float]] = defaultdict(list)
        for prompt, right, style in zip(own.prompt_A.tolist(), own.right_A.double().tolist(), own.style_A, strict=True):
            self._by_style[style].append(right)
            self._by_problem[prompt, style].append(right)
            rows[prompt].append(right)
        self.score = {prompt: float(np.mean(row)) for prompt, row in rows.items()}

    def accuracy(self, prompt: int, style: str) -> float:
        """The student's share of right answers where it writes in this style on this problem."""
        over_all = float(np.mean(self._by_style[style])) if style in self._by_style else 0.0
        return float(np.mean([*self._by_problem.get((prompt, style), []), over_all]))


def forecast_rows(own: OwnAnswers, traces: StyledAnswers) -> list[dict[str, Any]]:
    """One row: the student's `score` now, the `forecast`, and the `gain` between them with its interval by problem (all
    shares of right answers). No row where neither model writes in a style that the task names: nobody has measured what
    clusters foretell."""
    if not traces.named or {*own.style_A, *traces.style_A} <= {"other"}:
        return []
    student = ByStyle(own)
    habits: dict[int, Counter[str]] = defaultdict(Counter)
    for prompt, style in zip(traces.prompt_A.tolist(), traces.style_A, strict=True):
        habits[prompt][style] += 1
    shared = [prompt for prompt in student.score if prompt in habits]
    now = np.array([student.score[prompt] for prompt in shared])
    then = np.array(
        [
            sum(count * student.accuracy(prompt, style) for style, count in habits[prompt].items())
            / habits[prompt].total()
            for prompt in shared
        ]
    )
    gain = interval(then - now, proportion=False)
    return [
        {
            "task": own.task,
            "score": float(now.mean()),
            "forecast": float(then.mean()),
            "gain": gain.mean,
            "interval": gain.as_list(),
            "n": gain.n,
        }
    ]


FORECAST = Table(
    name="forecast",
    needs=lambda gathered: (gathered.own, gathered.styled),
    rows=lambda answers: forecast_rows(*answers),
)
