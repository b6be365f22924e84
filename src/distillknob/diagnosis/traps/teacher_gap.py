"""Teacher-student gap: the teacher prefers wrong traces, writes in ways that are beyond the student, or can't help it.

- Wrong-trace preference: how often the teacher finds a wrong answer likelier than a right one. Candidates are answers
  of the undistilled student: what the student would write, judged by the teacher. For each problem with both kinds, the
  rate is over its pairs of a wrong and a right candidate; ties count half.
- Capacity gap: what the teacher's right answers cost the student above what they cost the teacher, by the way that they
  are written in: the KL of the two within a way of writing. The likelihoods are log q(answer) − log q(way), the share
  of the student's own answers written so standing for q(way), and the teacher's alike: what the student seldom does is
  a habit, what it does badly a lack of capacity. What neither can foretell, a way with many wordings, is no gap.
- Accuracy on student prefixes: how right the teacher still is when it goes on from where the student has got to, which
  is where on-policy distillation asks it for advice.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch

from distillknob.diagnosis.finding import Finding, graded, not_applicable
from distillknob.diagnosis.samples import Candidates, Continuations, StyledAnswers
from distillknob.results.stages import Plot, PlotSeries
from distillknob.stats import Interval, interval, paired_difference

KNOWN = 10  # problems from which a way of writing has a cost to be set beside others
HALF = 0.5  # of the student's answer: where the finding reads the teacher's accuracy


def _likelihood(candidates: Candidates, reduction: Literal["sum", "mean"]) -> torch.Tensor:
    summed_A = candidates.logprob_A.double()
    return summed_A if reduction == "sum" else summed_A / candidates.tokens_A.clamp(min=1)


def preference_by_prompt(
    candidates: Candidates,
    reduction: Literal["sum", "mean"] = "sum",
    ways: Callable[[str, str], bool] = lambda wrong, right: True,
) -> tuple[list[int], list[float]]:
    """The problems with a pair of a wrong and a right candidate whose ways of writing are among those asked for, and
    the teacher's rate of preferring the wrong one over each problem's pairs."""
    likelihood_A, styles = _likelihood(candidates, reduction), np.array(candidates.style_A, dtype=object)
    prompts, rates = [], []
    for prompt in candidates.prompt_A.unique().tolist():
        here = candidates.prompt_A == prompt
        right_A, wrong_A = here & candidates.right_A, here & ~candidates.right_A
        asked = [[ways(wrong, right) for right in styles[right_A.numpy()]] for wrong in styles[wrong_A.numpy()]]
        pairs = torch.tensor(asked, dtype=torch.bool).reshape(int(wrong_A.sum()), int(right_A.sum()))
        if pairs.any():
            gap = (likelihood_A[wrong_A][:, None] - likelihood_A[right_A][None, :])[pairs]
            prompts.append(prompt)
            rates.append(float(((gap > 0).double() + 0.5 * (gap == 0).double()).mean()))
    return prompts, rates


def preference_rows(candidates: Candidates) -> list[dict[str, Any]]:
    """The wrong-trace preference by the ways in which the wrong and the right one of a pair are written: its `value`
    with an interval by prompt, over the `n` problems that have such a pair. Between candidates of one way the teacher
    tells right from wrong; between two ways, its habits speak too."""
    styles = sorted(set(candidates.style_A))
    rows = []
    for wrong, right in itertools.product(styles, styles):
        _, rates = preference_by_prompt(candidates, "sum", lambda *ways, pair=(wrong, right): ways == pair)
        if rates:
            rate = interval(np.array(rates))
            known = {"task": candidates.task, "wrong_style": wrong, "right_style": right}
            rows.append({**known, "value": rate.mean, "interval": rate.as_list(), "n": rate.n})
    return rows


def in_one_way(wrong: str, right: str) -> bool:
    """Are both candidates of a pair written in the same way?"""
    return wrong == right


def in_two_ways(wrong: str, right: str) -> bool:
    """Are the candidates of a pair written in different ways?"""
    return wrong != right


def wrong_trace_preference(candidates: Candidates, reduction: Literal["sum", "mean"] = "sum") -> Finding:
    """The rate at which the teacher prefers the wrong one of a pair, by its summed or per-token log-likelihood. Low
    from 5 %, medium from 15 %, high from 30 %."""
    name = "wrong_trace_preference" + ("" if reduction == "sum" else "_per_token")
    _, rates = preference_by_prompt(candidates, reduction)
    if not rates:
        return not_applicable(name, candidates.task, "no problem has both a right and a wrong candidate")
    rate = interval(np.array(rates))
    return Finding(
        name=name,
        task=candidates.task,
        value=rate.mean,
        interval=(rate.low, rate.high),
        unit=f"share of wrong-right pairs in which the teacher prefers the wrong one ({reduction} of log-likelihoods)",
        n=rate.n,
        severity=graded(rate, 0.05, 0.15, 0.30),
        cause="the teacher's likelihood follows its habits of writing, not only what is right"
        + _ways(candidates, reduction)
        + _lengths(candidates, reduction),
        # No calibration: on the embedded pair none of five moved it (docs/lab-notebook.md).
        remedy="train on verified traces (method=sft_verified)",
    )


def _ways(candidates: Candidates, reduction: Literal["sum", "mean"]) -> str:
    """The rate within one way of writing and between two; "" where all candidates are written in one."""
    rates = [preference_by_prompt(candidates, reduction, asked)[1] for asked in (in_one_way, in_two_ways)]
    if not all(rates):
        return ""
    one, two = (100 * sum(found) / len(found) for found in rates)
    return f" ({one:.0f}% of pairs in one way of writing, {two:.0f}% of those in two)"


def _lengths(candidates: Candidates, reduction: Literal["sum", "mean"]) -> str:
    """How long the wrong answers that the teacher prefers are, and the right ones that they beat; "" where none is."""
    likelihood_A = _likelihood(candidates, reduction)
    won, lost = [], []
    for prompt in candidates.prompt_A.unique().tolist():
        here = candidates.prompt_A == prompt
        right_A, wrong_A = here & candidates.right_A, here & ~candidates.right_A
        preferred = likelihood_A[wrong_A][:, None] > likelihood_A[right_A][None, :]
        won.append(candidates.tokens_A[wrong_A][:, None].expand_as(preferred)[preferred])
        lost.append(candidates.tokens_A[right_A][None, :].expand_as(preferred)[preferred])
    lengths = [torch.cat(side).double() for side in (won, lost)]
    if not len(lengths[0]):
        return ""
    wrong, right = (float(side.mean()) for side in lengths)
    return f": the wrong answers that it prefers have {wrong:.1f} tokens on average, the right ones {right:.1f}"


def student_cost(answers: StyledAnswers) -> torch.Tensor:
    """−log q(answer | its way of writing) under the student, in nats, [A] float64."""
    habit_A = torch.tensor([answers.log_habit[style] for style in answers.style_A], dtype=torch.float64)
    return habit_A - answers.student_logprob_A.double()


def excess_cost(answers: StyledAnswers) -> torch.Tensor:
    """log p(answer | its way of writing) under the teacher − the same under the student, in nats, [A] float64. Over the
    teacher's answers in a way of writing its mean is a KL: 0 for a student that writes so as the teacher does."""
    habit_A = torch.tensor([answers.teacher_log_habit[style] for style in answers.style_A], dtype=torch.float64)
    return answers.teacher_logprob_A.double() - habit_A + student_cost(answers)


def style_rows(answers: StyledAnswers) -> list[dict[str, Any]]:
    """For each way in which the teacher is right, the commonest first: its share of the teacher's right answers and of
    the student's own answers, what one costs the student (nats an answer, interval by prompt), and by how much that is
    above what it costs the teacher (`excess`)."""
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
    """What the teacher's right answers cost the student beyond the teacher on average, above the cheapest way in which
    the teacher is right: nats an answer. A way counts if it is named and occurs on `KNOWN` problems: "other" is no way
    but what is left, often the answers to other problems.

    At a gap of g the student finds these answers e^g times less likely than those in its easiest way: 1.6 times is low
    (0.5), 2.7 times medium (1), 7 times high (2).

    The ways are compared over the problems that each occurs on: one that the teacher keeps for easy problems looks
    cheaper than it is.
    """
    named_rows = [row for row in style_rows(answers) if row["style"] != "other"]
    rows = [row for row in named_rows if row["n"] >= KNOWN]
    if not rows:
        problems, most = len(answers.prompt_A.unique()), max((row["n"] for row in named_rows), default=0)
        why = (
            "the task names no ways of writing: name them by patterns, `styles` in a task file (own:TASK.yaml), or by "
            "style() of a task in Python (docs/tasks.md)"
            if {*answers.style_A, *answers.log_habit} <= {"other"}
            else f"a way of writing counts from {KNOWN} problems on which it is right: of {problems} here the most "
            f"frequent one is right on {most}; raise problems or samples"
        )
        return not_applicable("capacity_gap", answers.task, why)
    easiest = min(rows, key=lambda row: float(row["excess"]))
    styles = np.array(answers.style_A, dtype=object)
    named = answers.right_A.numpy() & (styles != "other")
    cost_A, prompt_A = excess_cost(answers).numpy()[named], answers.prompt_A.numpy()[named]
    easy_A = (styles == easiest["style"])[named]
    mean, share = float(cost_A.mean()), float(easy_A.mean())
    value = mean - float(easiest["excess"])
    # Linearised contributions of a difference between the mean of all and the mean of some (the delta method).
    influence_A = value + (cost_A - mean) - np.where(easy_A, (cost_A - easiest["excess"]) / share, 0.0)
    gap = interval(influence_A, prompt_A, proportion=False)
    hardest = max(rows, key=lambda row: float(row["excess"]))
    return Finding(
        name="capacity_gap",
        task=answers.task,
        value=value,
        interval=(gap.low, gap.high),
        unit="nats an answer that the teacher's ways of writing cost the student more than the easiest of them",
        n=gap.n,
        severity=graded(gap, 0.5, 1.0, 2.0),
        cause=(
            f"the teacher is right in {len(rows)} ways; {hardest['style']!r}, {hardest['teacher_share']:.0%} of its "
            f"right answers, costs the student {hardest['excess']:.1f} nats more than the teacher, "
            f"{easiest['style']!r} {easiest['excess']:.1f}"
        ),
        remedy="calibrate the teacher (eta=-0.25), or train on the traces that the student finds likeliest "
        "(method=sft_best_of_n)",
        plot=_cost_plot(answers, [str(row["style"]) for row in rows]),
    )


def _cost_plot(answers: StyledAnswers, styles: list[str]) -> Plot:
    """What each right answer costs the student beyond the teacher, in ascending order, a line a way of writing."""
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


def prefix_rows(continuations: Continuations) -> list[dict[str, Any]]:
    """The teacher's mean score for each share of a student's answer that it goes on from, with its interval."""
    rows = []
    for kept in continuations.kept_A.unique().tolist():
        here = continuations.kept_A == kept
        score = interval(continuations.score_A[here].numpy(), continuations.prompt_A[here].numpy())
        rows.append(
            {
                "task": continuations.task,
                "kept": kept,
                "score": score.mean,
                "interval": score.as_list(),
                "n": score.n,
            }
        )
    return rows


def score_by_prompt(continuations: Continuations, kept: float) -> tuple[list[int], list[float]]:
    """The problems, and the teacher's mean score on each, going on from this share of the student's answer."""
    here = continuations.kept_A == kept
    prompt_A, score_A = continuations.prompt_A[here], continuations.score_A[here].double()
    prompts = prompt_A.unique()
    return prompts.tolist(), [float(score_A[prompt_A == prompt].mean()) for prompt in prompts]


def accuracy_on_student_prefixes(continuations: Continuations) -> Finding:
    """The score that the teacher loses when it goes on from half of a student's answer, paired by problem. Low from 5
    points, medium from 15, high from 30."""
    name = "accuracy_on_student_prefixes"
    alone = dict(zip(*score_by_prompt(continuations, 0.0), strict=True))
    led = dict(zip(*score_by_prompt(continuations, HALF), strict=True))
    shared = [prompt for prompt in alone if prompt in led]
    if not shared:
        return not_applicable(name, continuations.task, "no answer of the student is long enough to be cut in half")
    lost: Interval = paired_difference([led[p] for p in shared], [alone[p] for p in shared])
    return Finding(
        name=name,
        task=continuations.task,
        value=lost.mean,
        interval=(lost.low, lost.high),
        unit="score (0 to 1) that the teacher loses when it goes on from half of a student's answer",
        n=lost.n,
        severity=graded(lost, 0.05, 0.15, 0.30),
        cause="the student has gone wrong by then, and the teacher doesn't find its way back from there",
        remedy="let fewer of the traces be the student's own (lmbda=0 to begin with, in gkd)",
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
