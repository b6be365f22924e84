"""What may be said of a teacher: whether its knob turned, what it is called, and what its students show of it.

Rules on figures that were measured elsewhere, so that terminal, page, cards and tables all say the same of one run.

- **The knob** is told by the log-ratio log π − log π_C of the original teacher and of the calibrated one, each on its
  own samples of the same held-out problems, paired by problem (`turning`).
- **A teacher's name** is its η and that verdict (`teacher_label`), never the sign of η alone.
- **"Undistillable" and "distillable"** are said of a teacher whose students were measured (`student_claims`).

Left out on purpose: a threshold on the size of an effect. What is large enough is the reader's to say; the figures and
their intervals stand beside every verdict.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

from distillknob.results.schema import Verdict
from distillknob.results.stages import Turned, TurnedOn
from distillknob.stats import paired_difference

TURNED: Verdict = "turned"
UNCLEAR: Verdict = "can't tell"
WRONG: Verdict = "the wrong way"
NOT: Verdict = "not at all"

UNITS = {"sum": "nats an answer", "mean": "nats a token", "token": "nats a token"}  # by `log_ratio` of calibrate
# How much of its task score a calibrated teacher may lose and still count as whole: the lower end of the paired
# interval, as in the project's own claims ("not inferior").
NON_INFERIORITY_MARGIN = 0.015


@dataclass(frozen=True, kw_only=True)
class Turning:
    """Whether the knob turned. `before` and `after` are mean log-ratios in `unit` over the `problems` on which both
    teachers have samples that the calibration reward is given to (`over`); `difference` is after − before with its 95 %
    `interval`. What could not be measured is None; `same` says that the calibrated teacher is the original itself. Of
    several tasks, `tasks` holds the same by task: a knob that turned over all of them may have turned the wrong way on
    one."""

    verdict: Verdict
    reason: str
    before: float | None
    after: float | None
    difference: float | None
    interval: tuple[float, float] | None
    problems: int
    unit: str
    over: str
    same: bool = False
    tasks: Mapping[str, Turning] = field(default_factory=dict)

    def as_row(self) -> Turned:
        """The verdict and its figures as `result.json` holds them."""
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
            "same": self.same,
        }


def turning_of_tasks(
    before: Mapping[str, Sequence[float | None]], after: Mapping[str, Sequence[float | None]], **of_all: Any
) -> Turning:
    """`turning` over the problems of all tasks together, and by task where there are several."""
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
    log_ratio: str = "sum",
    gated: bool = True,
    same: str | None = None,
) -> Turning:
    """Judge whether a calibration at `eta` moved the log-ratio to its target, from each held-out problem's mean.

    `before[i]` and `after[i]` belong to problem i, in the unit of the calibration reward (`log_ratio`); None where no
    sample of that problem counts (with `gated`, only right, finished ones do). `same` says why the calibrated teacher
    is the original itself: then the difference is exactly 0, and there is no interval.
    """
    unit = UNITS[log_ratio]
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
            same=True,
        )
    pairs = [(a, b) for a, b in zip(before, after, strict=True) if a is not None and b is not None]
    if not pairs:
        verdict, reason = (NOT, "η is 0") if eta == 0 else (UNCLEAR, f"no held-out problem has {over} on both sides")
        return Turning(
            verdict=verdict,
            reason=reason,
            before=None,
            after=None,
            difference=None,
            interval=None,
            problems=0,
            unit=unit,
            over=over,
        )
    unmeasured = sum(not (math.isfinite(a) and math.isfinite(b)) for a, b in pairs)
    if unmeasured:
        reason = f"the log-ratio isn't finite on {unmeasured} of {len(pairs)} held-out problems"
        return Turning(
            verdict=NOT if eta == 0 else UNCLEAR,
            reason=reason,
            before=None,
            after=None,
            difference=None,
            interval=None,
            problems=len(pairs),
            unit=unit,
            over=over,
        )
    firsts, seconds = [a for a, _ in pairs], [b for _, b in pairs]
    change = paired_difference(firsts, seconds, proportion=False)
    interval = None if math.isnan(change.low) or math.isnan(change.high) else (change.low, change.high)
    verdict, reason = _judged(eta, interval, len(pairs))
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
    )


def _judged(eta: float, interval: tuple[float, float] | None, problems: int) -> tuple[Verdict, str]:
    if eta == 0:
        return NOT, "η is 0: the teacher was trained on its tasks alone"
    wanted = "fall" if eta < 0 else "rise"
    if interval is None:
        return UNCLEAR, f"{problems} held-out problem gives no interval: raise guard_problems"
    low, high = interval
    if low <= 0 <= high:
        return UNCLEAR, f"the log-ratio should {wanted}, and the interval of its change holds 0"
    if (high < 0) == (eta < 0):
        return TURNED, f"the log-ratio {'fell' if eta < 0 else 'rose'}, as it should"
    return WRONG, f"the log-ratio {'rose' if eta < 0 else 'fell'}, and should {wanted}"


def is_original(calibration: Mapping[str, Any] | None) -> bool:
    """Is a teacher with this calibration (a run's result, or the part that a cell holds) the original itself? None
    stands for a teacher that was never calibrated. A result from before the verdict was measured is told by its kept
    step."""
    if not calibration:
        return True
    return bool((calibration.get("turned") or {}).get("same")) or calibration.get("kept_step") == 0


def verdict_of(calibration: Mapping[str, Any] | None) -> str:
    """The verdict in the words of a label."""
    made = calibration or {}
    verdict = (made.get("turned") or {}).get("verdict")
    if is_original(calibration):
        return "not calibrated: it is the original"
    if verdict is None:
        return "whether it turned was not measured"
    return {TURNED: "turned", UNCLEAR: "can't tell whether it turned", WRONG: "turned the wrong way"}.get(
        verdict, "not turned"
    )


def signed(eta: float) -> str:
    """η with its sign, and a minus that is one."""
    return f"{eta:+g}".replace("-", "\N{MINUS SIGN}") if eta else "0"


def teacher_label(eta: float, calibration: Mapping[str, Any] | None = None) -> str:
    """What a teacher is called: `original`, `η = −0.5 (turned)`, `η = +0.25 (not calibrated: it is the original)`."""
    if eta == 0 and not calibration:
        return "original"
    return f"η = {signed(eta)} ({verdict_of(calibration)})"


def teacher_key(eta: float) -> str:
    """What a result's rows, folders and the page's colours know a teacher by: `original`, `eta-0.5`, `eta+0.25`."""
    return "original" if eta == 0 else f"eta{eta:+g}"


def label_of(row: Mapping[str, Any]) -> str:
    """What the teacher of a result's row is called. A row from before labels were kept is called by its η."""
    if row.get("label"):
        return str(row["label"])
    name, eta = str(row.get("teacher", row.get("b"))), row.get("eta")
    if name in ("none", "original") or not isinstance(eta, int | float) or isinstance(eta, bool):
        return name
    return teacher_label(eta, row.get("calibration") or {"kept_step": None})


def tasks_turned_wrong(turned: Mapping[str, Any]) -> list[str]:
    """The tasks on which the knob turned the wrong way, where the verdict over all tasks is another."""
    if turned.get("verdict") == WRONG:
        return []
    return [str(row["task"]) for row in turned.get("tasks") or [] if row["verdict"] == WRONG]


def unturned(teachers: Iterable[Mapping[str, Any]]) -> list[str]:
    """What a reader has to know before any figure: a line for each calibrated teacher that is the original, whose knob
    turned the wrong way, or of which nobody can tell. `teachers` are rows with `calibration`."""
    lines = []
    for row in teachers:
        made = row.get("calibration")
        wrong = tasks_turned_wrong((made or {}).get("turned") or {})
        if not made or ((made.get("turned") or {}).get("verdict") == TURNED and not wrong):
            continue
        where = ", ".join(f"{name} {row[name]}" for name in ("variant", "seed") if row.get(name) not in (None, ""))
        who = f"{label_of(row)}, {where}" if where else label_of(row)
        turned = made.get("turned")
        if is_original(made):
            lines.append(f"{who}: its calibration changed nothing, so its students show nothing of the knob.")
        elif turned:
            apart = f", but on {', '.join(wrong)} it turned the wrong way" if wrong else ""
            lines.append(f"{who}: {turned['reason']}{apart}.")
    return list(dict.fromkeys(lines))


def turned_text(turned: Mapping[str, Any]) -> str:
    """The verdict with its figures, in a sentence or two."""
    verdict, reason = turned["verdict"], turned["reason"]
    head = {
        TURNED: "The knob turned",
        UNCLEAR: "Whether the knob turned can't be told",
        WRONG: "The knob turned the wrong way",
    }.get(verdict, "The knob did not turn")
    told = f"{head}: {reason}."
    if turned.get("same") or turned["difference"] is None:
        return told
    by_task = [
        f"{row['task']} {row['verdict']} ({row['difference']:+.2f}{_interval_text(row['interval'])})"
        if row["difference"] is not None
        else f"{row['task']} {row['verdict']} ({row['reason']})"
        for row in turned.get("tasks") or []
    ]
    return (
        f"{told} Log-ratio to the target {turned['before']:.2f} before, {turned['after']:.2f} after "
        f"({turned['difference']:+.2f} {turned['unit']}{_interval_text(turned['interval'])}; {turned['over']} of "
        f"{turned['problems']} held-out problems)." + (f" By task: {', '.join(by_task)}." if by_task else "")
    )


def _interval_text(bounds: Sequence[float] | None) -> str:
    return "" if bounds is None else f", 95 % interval {bounds[0]:+.2f} to {bounds[1]:+.2f}"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What the students say of one teacher on one task. `word` is None where neither word may be used, and `why` says
    the reason; `method` made the teacher's best student, whose paired `difference` is to the original's student by the
    same method."""

    task: str
    word: Literal["undistillable", "distillable"] | None
    why: str
    methods: tuple[str, ...]
    method: str | None = None
    difference: float | None = None
    interval: tuple[float, float] | None = None

    def text(self, label: str) -> str:
        """The claim as a sentence about the teacher called `label`."""
        said = self.word or "neither distillable nor undistillable is shown"
        against = f" by {', '.join(self.methods)}" if self.methods else ""
        return f"{self.task}, {label}: {said}{against}: {self.why}"


def student_claim(
    task: str,
    teacher: Mapping[str, Any],
    students: Iterable[Mapping[str, Any]],
    differences: Iterable[Mapping[str, Any]],
    before: float | None = None,
) -> Claim:
    """May the teacher be called undistillable, or distillable, on `task`?

    Only if its best student (of all methods that were run, since whoever copies it takes the best) differs from the
    original's student by the same method with an interval off zero, below or above, no method's student clearly differs
    the other way, and the teacher kept its own score: the paired interval's lower end lies above
    −NON_INFERIORITY_MARGIN. `teacher` is that teacher's row on the task; `students` and `differences` are the rows of
    its own students there, and `before` is what the student before distillation scores, to be told beside them.
    """
    scores = {str(row.get("method")): score_of(row) for row in students}
    gaps = {
        str(row.get("method")): row
        for row in differences
        if _has_interval(row, "interval") and row.get("difference") is not None
    }
    measured = {name: score for name, score in scores.items() if name != "none" and name in gaps and score is not None}
    methods = tuple(measured)
    if is_original(teacher.get("calibration") or {"kept_step": None}):
        return Claim(task=task, word=None, why="it is the original teacher itself", methods=methods)
    if not measured:
        return Claim(task=task, word=None, why="no student stands beside the original's", methods=methods)
    best = max(measured, key=lambda name: measured[name])
    low, high = (float(bound) for bound in gaps[best]["interval"])
    size = float(gaps[best]["difference"])
    figures = f"{100 * size:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}] to the original's student"
    start = "" if before is None else f", before distillation {100 * before:.1f} %"
    shown = f"its best student, by {best}, scores {100 * measured[best]:.1f} % ({figures}{start})"

    def claim(why: str, word: Literal["undistillable", "distillable"] | None = None) -> Claim:
        return Claim(task=task, word=word, why=why, methods=methods, method=best, difference=size, interval=(low, high))

    if low <= 0 <= high:
        return claim(f"{shown}: the interval holds 0")
    against = [name for name in measured if _off_zero(gaps[name]["interval"]) == -_off_zero((low, high))]
    if against:
        return claim(f"{shown}, but that by {', '.join(against)} differs the other way")
    kept = teacher.get("difference_interval") or [None]
    if not _has_interval(teacher, "difference_interval"):
        return claim(f"{shown}, but the teacher was not compared with the original")
    if kept[0] <= -NON_INFERIORITY_MARGIN:
        lost = f"the teacher itself may have lost more than {100 * NON_INFERIORITY_MARGIN:g} points"
        return claim(f"{shown}, but {lost} ([{100 * kept[0]:+.1f}, {100 * kept[1]:+.1f}])")
    return claim(shown, "undistillable" if high < 0 else "distillable")


def score_of(row: Mapping[str, Any]) -> float | None:
    """How good a student is: its pass@1 where there is one, else its mean score."""
    value = row.get("pass@1") if row.get("pass@1") is not None else row.get("score")
    return float(value) if isinstance(value, int | float) else None


def _off_zero(interval: Sequence[float]) -> int:
    """1 for an interval above zero, −1 for one below, 0 for one that holds it."""
    return int(interval[0] > 0) - int(interval[1] < 0)


def _has_interval(row: Mapping[str, Any], name: str) -> bool:
    """Does the row hold both bounds of an interval?"""
    bounds = row.get(name)
    values = bounds if isinstance(bounds, list | tuple) and len(bounds) == 2 else [None]
    return all(isinstance(value, int | float) and math.isfinite(value) for value in values)


TeacherT = TypeVar("TeacherT", bound=Mapping[str, Any])


def student_claims(
    teachers: Sequence[TeacherT], students: Sequence[Mapping[str, Any]], differences: Sequence[Mapping[str, Any]]
) -> list[tuple[TeacherT, Claim]]:
    """The claim of every calibrated teacher on every task, with the teacher's row: from the rows of a `demo` or `sweep`
    (`experiments.tables`)."""

    def own(found: Sequence[Mapping[str, Any]], row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        keys = ("task", "eta", "seed", "variant")
        return [other for other in found if all(other.get(key) == row.get(key) for key in keys)]

    starts = {
        (row.get("task"), row.get("seed"), row.get("variant")): score_of(row)
        for row in students
        if row.get("method") == "none"
    }
    return [
        (
            row,
            student_claim(
                str(row.get("task")),
                row,
                own(students, row),
                own(differences, row),
                starts.get((row.get("task"), row.get("seed"), "" if row.get("variant") else row.get("variant"))),
            ),
        )
        for row in teachers
        if row.get("calibration")
    ]
