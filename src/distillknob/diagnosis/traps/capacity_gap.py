"""Capacity gap: what the teacher's right answers cost the student above what they cost the teacher.

The ways are those that the task names, or else clusters of answers that are written alike (`diagnosis/ways.py`).
Costs are compared style by style: the KL of the two models within a way of writing. The likelihoods are
log q(answer) − log q(style), the share of the student's own answers written so standing for q(style), and the teacher's
alike: what the student seldom does is a habit, what it does badly a lack of capacity. What neither can foretell, a
style with many wordings, is no gap.

It measures how much would be gained by other answers of the same teacher, so it has a `room`, which is told in the
place of its severity.

The two remedies do different things. Selection leaves the teacher as it is and can take only what is among its samples;
calibration moves what it writes. So the finding tells on how many problems there was something to take.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from distillknob.diagnosis.finding import Finding, finding_of, graded, not_applicable, room_of
from distillknob.diagnosis.samples import StyledAnswers, means_by_prompt
from distillknob.diagnosis.traps.base import ByPrompt, Trap
from distillknob.results.stages import Plot, PlotSeries
from distillknob.stats import interval

NAME = "capacity_gap"
CLUSTERED = " (clusters of answers that are written alike, as the task names no ways)"
FEWEST = 10  # problems from which a style has a cost to be set beside others


def student_cost(answers: StyledAnswers) -> torch.Tensor:
    """−log q(answer | its style) under the student, in nats, [A] float64."""
    habit_A = torch.tensor([answers.log_habit[style] for style in answers.style_A], dtype=torch.float64)
    return habit_A - answers.student_logprob_A.double()


def excess_cost(answers: StyledAnswers) -> torch.Tensor:
    """log p(answer | its style) under the teacher − the same under the student, in nats, [A] float64. Over the
    teacher's answers in a style its mean is a KL: 0 for a student that writes so as the teacher does."""
    habit_A = torch.tensor([answers.teacher_log_habit[style] for style in answers.style_A], dtype=torch.float64)
    return answers.teacher_logprob_A.double() - habit_A + student_cost(answers)


def style_rows(answers: StyledAnswers) -> list[dict[str, Any]]:
    """A row for each style in which the teacher is right, the commonest first: its share of the teacher's right answers
    and of the student's own answers, what one costs the student (nats an answer, interval by prompt), and by how much
    that is above what it costs the teacher (`excess`)."""
    cost_A, styles = student_cost(answers), np.array(answers.style_A, dtype=object)
    excess_A = excess_cost(answers).numpy()
    right = answers.right_A.numpy()
    rows = []
    for style in sorted(set(styles[right]), key=lambda style: (-np.sum(styles[right] == style), style)):
        here = right & (styles == style)
        cost = interval(cost_A.numpy()[here], answers.prompt_A.numpy()[here], proportion=False)
        rows.append(
            {
                "task": answers.task,
                "style": style,
                "teacher_share": float(here.sum() / right.sum()),
                "student_share": float(np.exp(answers.log_habit[style])),
                "cost": cost.mean,
                "interval": cost.as_list(),
                "excess": float(excess_A[here].mean()),
                "n": cost.n,
            }
        )
    return rows


def capacity_gap(answers: StyledAnswers) -> Finding:
    """What the teacher's right answers cost the student beyond the teacher on average, above the cheapest style in
    which the teacher is right: nats an answer. A style counts if it is named and occurs on `FEWEST` problems: "other"
    is no style but what is left, often the answers to other problems. Of clusters there have to be two.

    At a gap of g the student finds these answers e^g times less likely than those in its easiest style: 1.6 times is
    low (0.5), 2.7 times medium (1), 7 times high (2).

    The styles are compared over the problems that each occurs on: one that the teacher keeps for easy problems looks
    cheaper than it is.
    """
    named_rows = [row for row in style_rows(answers) if row["style"] != "other"]
    rows = [row for row in named_rows if row["n"] >= FEWEST]
    if not rows or not (answers.named or len(rows) > 1):
        return not_applicable(NAME, answers.task, _why_not(answers, named_rows))
    easiest = min(rows, key=lambda row: float(row["excess"]))
    hardest = max(rows, key=lambda row: float(row["excess"]))
    style_A = np.array(answers.style_A, dtype=object)
    named = answers.right_A.numpy() & (style_A != "other")
    cost_A, prompt_A = excess_cost(answers).numpy()[named], answers.prompt_A.numpy()[named]
    easy_A = (style_A == easiest["style"])[named]
    asked = len(answers.prompt_A.unique())
    mean, share = float(cost_A.mean()), float(easy_A.mean())
    value = mean - float(easiest["excess"])
    # Linearised contributions of a difference between the mean of all and the mean of some (the delta method).
    influence_A = value + (cost_A - mean) - np.where(easy_A, (cost_A - easiest["excess"]) / share, 0.0)
    gap = replace(interval(influence_A, prompt_A, proportion=False), mean=value)
    return finding_of(
        NAME,
        answers.task,
        gap,
        unit="nats an answer that the teacher's ways of writing cost the student more than the easiest of them",
        severity=graded(gap, 0.5, 1.0, 2.0),
        room=room_of(gap),
        cause=(
            f"the teacher is right in {len(rows)} ways of writing{'' if answers.named else CLUSTERED}; "
            f"{hardest['style']!r}, {hardest['teacher_share']:.0%} of its right answers, is {hardest['excess']:.1f} "
            f"nats less likely to the student than to the teacher, {easiest['style']!r} {easiest['excess']:.1f}"
        ),
        remedy=_remedy(str(easiest["style"]), prompt_A[easy_A], asked),
        plot=_cost_plot(answers, [str(row["style"]) for row in rows]),
    )


def _remedy(style: str, prompt_A: np.ndarray, asked: int) -> str:
    """When to calibrate and when to select: `prompt_A` are the problems of the right answers in the easiest style."""
    reached = len(np.unique(prompt_A))
    return (
        "calibrate the teacher (eta=-0.5): one more training, which helps every method. Or leave it as it is, and "
        "train on those of its answers that the student can follow (method=sft_best_of_n_sure): n times the samples "
        "(candidates), for methods on traces alone. Selection can only choose what was drawn: "
        f"{style!r} was among the teacher's right answers on {reached} of {asked} problems; where it is seldom, "
        "calibrate first and select then"
    )


def _why_not(answers: StyledAnswers, named_rows: list[dict[str, Any]]) -> str:
    """Why no style counts: the task names none and all answers are written alike, or there are too few problems."""
    if not answers.named and len({*answers.style_A, *answers.log_habit}) == 1:
        return (
            "all answers of both models are written alike (one cluster), and the task names no ways of writing. Where "
            "you know of several, name them by patterns, `styles` in a task file (own:TASK.yaml)"
        )
    if {*answers.style_A, *answers.log_habit} <= {"other"}:
        return (
            "the task names no ways of writing: name them by patterns, `styles` in a task file (own:TASK.yaml), or by "
            "style() of a task in Python (docs/reference/tasks.md)"
        )
    counted = sum(row["n"] >= FEWEST for row in named_rows)
    if counted:
        return "right answers come in one way of writing alone (one cluster): there is none to set beside it"
    problems, most = len(answers.prompt_A.unique()), max((row["n"] for row in named_rows), default=0)
    return (
        f"a way of writing counts from {FEWEST} problems on which it is right: of {problems} here the most "
        f"frequent one is right on {most}; raise problems or samples"
    )


def _cost_plot(answers: StyledAnswers, styles: list[str]) -> Plot:
    """What each right answer costs the student beyond the teacher, in ascending order, a line a style."""
    cost_A = excess_cost(answers)
    series: list[PlotSeries] = []
    for style in styles:
        here = answers.right_A & torch.tensor([s == style for s in answers.style_A])
        costs = cost_A[here].sort().values
        share = ((torch.arange(len(costs)) + 0.5) / len(costs)).tolist()
        series.append({"name": style.replace("_", " "), "x": share, "y": costs.tolist(), "low": [], "high": []})
    return {
        "title": "cost to the student beyond the teacher",
        "x_label": "share of the right answers",
        "y_label": "nats an answer",
        "x_scale": "linear",
        "series": series,
    }


def _by_prompt(answers: StyledAnswers) -> list[ByPrompt]:
    """What the teacher's right answers cost the student."""
    right = answers.right_A
    costs = means_by_prompt(answers.prompt_A[right], student_cost(answers)[right])
    return [ByPrompt("student_cost_of_right_answers", "nats/answer", *costs)]


CAPACITY_GAP = Trap(
    name=NAME,
    needs=lambda gathered: gathered.styled,
    finding=capacity_gap,
    tables={"style": style_rows},
    by_prompt=_by_prompt,
)
