"""What every other trap takes for granted: that the teacher is right, and that it is better than the student.

Two findings. `teacher_accuracy` is the share of the teacher's answers that are right. `teacher_lead` is by how much it
is right more often than the student, problem by problem. Where either fails, no remedy of another trap helps, so that
they stand before all others (`verdicts/findings.py`).

The thresholds of the accuracy are shares of the lesson that are wrong. A training on plain traces learns wrong answers
along with the right ones, and a divergence pulls the student towards what the teacher would say, right or not. From a
quarter of wrong answers on that is low, from a half medium ("mostly wrong"), from three quarters high. What a guess
gets is taken off first: a teacher that chooses one of four by chance is right in a quarter, and teaches nothing.

Those of the lead are what there is to gain by score: surely less than 5 points is low (the least loss that
`accuracy_on_student_prefixes` counts), surely less than 2 medium (the usual tolerance of a calibration), surely none
high. A student may still learn another way of writing, or a longer memory, from such a teacher.

Left out on purpose: a judgement from few problems. Where the interval reaches across a threshold, the milder word
stands.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, get_args

from distillknob.diagnosis.finding import Finding, finding_of, graded_below, not_applicable
from distillknob.diagnosis.samples import Marks, means_by_prompt
from distillknob.diagnosis.traps.base import Trap
from distillknob.results.stages import Why
from distillknob.stats import Interval, interval, paired_difference

ACCURACY, LEAD = "teacher_accuracy", "teacher_lead"
NOT_GRADED = "not asked: the task has no one right answer, and scores don't say what is right"
MOSTLY = 0.5  # of the references
TOLD = 0.1  # of the wrong answers: a reason that fewer have is left out
WHYS: dict[Why, str] = {
    "cut off": "were cut off before they ended",
    "no end": "repeat themselves and don't end",
    "nothing said": "end without saying anything",
    "no final answer": "have no final answer that the grader can read",
    "another form": "say the right answer in a form that the grader doesn't take",
    "wrong": "give a wrong final answer",
}


def _by_problem(marks: Marks) -> tuple[list[float], list[float]]:
    """The mean marks of the teacher and of the student on the problems that both answered."""
    teacher, student = (
        dict(zip(*means_by_prompt(prompt_A, mark_A), strict=True))
        for prompt_A, mark_A in (
            (marks.teacher_prompt_A, marks.teacher_mark_A),
            (marks.student_prompt_A, marks.student_mark_A),
        )
    )
    shared = [problem for problem in teacher if problem in student]
    return [teacher[problem] for problem in shared], [student[problem] for problem in shared]


def _accuracies(marks: Marks) -> tuple[Interval, Interval, Interval]:
    """The teacher's, the student's, and how far the teacher's lies above, paired by problem."""
    teacher, student = _by_problem(marks)
    return (
        interval(marks.teacher_mark_A.numpy(), marks.teacher_prompt_A.numpy()),
        interval(marks.student_mark_A.numpy(), marks.student_prompt_A.numpy()),
        paired_difference(student, teacher),
    )


def _shares(marks: Marks) -> dict[Why, float]:
    """The share of the teacher's answers that is wrong for each reason."""
    counts = Counter(why for why in marks.why_A if why is not None)
    return {why: counts[why] / len(marks.why_A) for why in get_args(Why) if counts[why]}


def accuracy_rows(marks: Marks) -> list[dict[str, Any]]:
    """One row: how often each model is right, and by how much more often the teacher is."""
    teacher, student, lead = _accuracies(marks)
    return [
        {
            "task": marks.task,
            "graded": marks.graded,
            "teacher": teacher.mean,
            "teacher_interval": teacher.as_list(),
            "student": student.mean,
            "student_interval": student.as_list(),
            "difference": lead.mean,
            "interval": lead.as_list(),
            "chance": marks.chance,
            "n": teacher.n,
            "wrong": _shares(marks) if marks.graded else {},
        }
    ]


def teacher_accuracy(marks: Marks) -> Finding:
    """The share of the teacher's answers that are right. Above what a guess gets: low below 75 %, medium below 50 %,
    high below 25 %, each for the interval's upper end."""
    if not marks.graded:
        return not_applicable(ACCURACY, marks.task, NOT_GRADED)
    teacher, student, lead = _accuracies(marks)
    guess = min(marks.chance, 0.99)  # a task that every guess solves is left as it is
    mean, low, high = ((end - guess) / (1 - guess) for end in (teacher.mean, teacher.low, teacher.high))
    above = Interval(mean=mean, low=low, high=high, n=teacher.n)
    return finding_of(
        ACCURACY,
        marks.task,
        teacher,
        unit="share of the teacher's answers that are right" + (f" (a guess: {guess:.0%})" if marks.chance else ""),
        severity=graded_below(above, 0.75, 0.5, 0.25),
        cause=_cause(marks, teacher, student),
        remedy=_remedy(marks, lead) if _shares(marks) else "none is needed: it made no mistake here (problems)",
        examples=marks.shown,
    )


def _cause(marks: Marks, teacher: Interval, student: Interval) -> str:
    shares = _shares(marks)
    wrong = sum(shares.values())
    if not wrong:
        return f"all {len(marks.why_A)} answers of the teacher are right"
    told = sorted((why for why in shares if shares[why] >= TOLD * wrong), key=lambda why: -shares[why])
    reasons = ", ".join(f"{shares[why] / wrong:.0%} {WHYS[why]}" for why in told)
    whole = (
        f". {marks.holding_more:.0%} of the references are more than a final answer, so that no answer equals them"
        if marks.holding_more >= MOSTLY
        else ""
    )
    return (
        f"the teacher is right in {teacher.mean:.0%} of its answers, the student in {student.mean:.0%}. Of the "
        f"teacher's wrong answers {reasons}{whole}"
    )


def _remedy(marks: Marks, lead: Interval) -> str:
    """What helps against the most frequent reason; against references that no answer equals, before any other."""
    shares = _shares(marks)
    why: Why = "another form" if marks.holding_more >= MOSTLY else max(shares, key=lambda why: shares[why])
    return {
        "cut off": _longer(marks),
        "no end": "see that its end token is set and its chat template is the one that it was trained with; else take "
        "another teacher (teacher)",
        "nothing said": "see that its chat template is the one that it was trained with; else take another teacher "
        "(teacher)",
        "no final answer": "ask in the prompts (tasks) for an answer that ends with `Answer: …`, or name a grader that "
        "reads what it writes (docs/reference/tasks.md)",
        "another form": "give as `reference` the final answer alone, as the models write it, or name another grader "
        "(docs/reference/tasks.md), and diagnose again (tasks)",
        "wrong": _not_this_teacher(marks, lead),
    }[why]


def _longer(marks: Marks) -> str:
    longer = 2 * marks.longest if marks.room is None else min(2 * marks.longest, marks.room)
    if longer <= marks.longest:
        return (
            f"the contexts leave room for {marks.room} tokens, and an answer had {marks.longest}: take models with a "
            "longer context (teacher, student), or shorter problems (tasks)"
        )
    return (
        f"let answers be longer than {marks.longest} tokens, in trainings too (max_completion_length), and diagnose "
        f"again (max_new_tokens={longer})"
    )


def _not_this_teacher(marks: Marks, lead: Interval) -> str:
    if lead.low > 0:
        return (
            "take a better teacher (teacher), or train this one on the task first. Until then train on its right "
            "answers alone (method=sft_verified), which takes as many more samples as it is seldom right"
        )
    return (
        "there is nothing to distil: take another teacher (teacher), or train this one on the task first. Without one "
        f"train on verified answers: {_verified(marks)}"
    )


def _verified(marks: Marks) -> str:
    """Where right answers are to be had without this teacher."""
    if marks.solutions:
        return "the worked solutions of the data (method=sft_gold)"
    return "those of people or of a better model, as `solution` in the data (tasks)"


def teacher_lead(marks: Marks) -> Finding:
    """By how much the teacher is better than the student, paired by problem. Low below 5 points, medium below 2, high
    below 0, each for the interval's upper end."""
    teacher, student, lead = _accuracies(marks)
    severity = graded_below(lead, 0.05, 0.02, 0.0)
    scored = "is right in" if marks.graded else "scores"
    cause = f"the teacher {scored} {teacher.mean:.0%}, the student {student.mean:.0%}"
    if severity != "none":
        cause += ": there is next to nothing to gain by score" if severity != "high" else ": it is the better one"
    elif not lead.low > 0:
        cause += ": which of them is better can't be told from so few problems"
    return finding_of(
        LEAD,
        marks.task,
        lead,
        unit=f"{'share of right answers' if marks.graded else 'score'} by which the teacher is above the student",
        severity=severity,
        cause=cause,
        remedy=_where_it_leads(marks, teacher, severity),
    )


def _where_it_leads(marks: Marks, teacher: Interval, severity: str) -> str:
    if severity == "none":
        return "none is needed; more problems (problems) narrow the interval"
    if marks.graded and teacher.low >= 0.75:  # a NaN is no such bound
        return "both can do these problems: take harder ones (tasks), on which the teacher is ahead"
    return f"take a better teacher (teacher), or verified answers in its place: {_verified(marks)}"


TEACHER_ACCURACY = Trap(
    name=ACCURACY,
    needs=lambda gathered: gathered.marks,
    finding=teacher_accuracy,
    tables={"accuracy": accuracy_rows},
)
TEACHER_LEAD = Trap(name=LEAD, needs=lambda gathered: gathered.marks, finding=teacher_lead)
