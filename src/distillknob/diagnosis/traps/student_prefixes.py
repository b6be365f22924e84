"""Accuracy on student prefixes: how right the teacher still is when it goes on from where the student has got to.

That is where on-policy distillation asks it for advice.
"""

from __future__ import annotations

from typing import Any

from distillknob.diagnosis.finding import Finding, finding_of, graded, not_applicable
from distillknob.diagnosis.samples import Continuations
from distillknob.diagnosis.traps.base import ByPrompt, Trap
from distillknob.results.stages import Plot, PlotSeries
from distillknob.stats import interval, paired_difference

NAME = "accuracy_on_student_prefixes"
HALF = 0.5  # of the student's answer: where the finding reads the teacher's accuracy


def prefix_rows(continuations: Continuations) -> list[dict[str, Any]]:
    """The teacher's mean score for each share of a student's answer that it goes on from, with its interval."""
    rows = []
    for share in continuations.share_A.unique().tolist():
        here = continuations.share_A == share
        score = interval(continuations.score_A[here].numpy(), continuations.prompt_A[here].numpy())
        rows.append(
            {
                "task": continuations.task,
                "kept": share,
                "score": score.mean,
                "interval": score.as_list(),
                "n": score.n,
            }
        )
    return rows


def score_by_prompt(continuations: Continuations, share: float) -> tuple[list[int], list[float]]:
    """The problems, and the teacher's mean score on each, going on from this share of the student's answer."""
    here = continuations.share_A == share
    prompt_A, score_A = continuations.prompt_A[here], continuations.score_A[here].double()
    prompts = prompt_A.unique()
    return prompts.tolist(), [float(score_A[prompt_A == prompt].mean()) for prompt in prompts]


def accuracy_on_student_prefixes(continuations: Continuations) -> Finding:
    """The score that the teacher loses when it goes on from half of a student's answer, paired by problem. Low from 5
    points, medium from 15, high from 30."""
    alone = dict(zip(*score_by_prompt(continuations, 0.0), strict=True))
    led = dict(zip(*score_by_prompt(continuations, HALF), strict=True))
    shared = [prompt for prompt in alone if prompt in led]
    if not shared:
        return not_applicable(NAME, continuations.task, "no answer of the student is long enough to be cut in half")
    lost = paired_difference([led[p] for p in shared], [alone[p] for p in shared])
    return finding_of(
        NAME,
        continuations.task,
        lost,
        unit="score (0 to 1) that the teacher loses when it goes on from half of a student's answer",
        severity=graded(lost, 0.05, 0.15, 0.30),
        cause="by then the student has gone wrong, and the teacher can't put it right from there",
        remedy="train on fewer of the student's own samples: begin gkd with lmbda=0",
        plot=_prefix_plot(continuations),
    )


def _prefix_plot(continuations: Continuations) -> Plot:
    rows = prefix_rows(continuations)
    series: PlotSeries = {
        "name": continuations.task,
        "x": [row["kept"] for row in rows],
        "y": [row["score"] for row in rows],
        "low": [row["interval"][0] for row in rows],
        "high": [row["interval"][1] for row in rows],
    }
    return {
        "title": "the teacher goes on from the student's answer",
        "x_label": "share of the student's answer",
        "y_label": "teacher's score",
        "x_scale": "linear",
        "series": [series],
    }


def _by_prompt(continuations: Continuations) -> list[ByPrompt]:
    """The teacher's score by itself, and from half of a student's answer."""
    return [
        ByPrompt("teacher_score", "share", *score_by_prompt(continuations, 0.0)),
        ByPrompt("teacher_score_on_student_prefixes", "share", *score_by_prompt(continuations, HALF)),
    ]


ACCURACY_ON_STUDENT_PREFIXES = Trap(
    name=NAME,
    needs=lambda gathered: gathered.continuations,
    finding=accuracy_on_student_prefixes,
    tables={"prefix": prefix_rows},
    by_prompt=_by_prompt,
)
