"""The traces that a student is trained on when it doesn't write its own: where they come from, and which are kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from distillknob.distillation.selection import best_of_n
from distillknob.errors import BadInputError
from distillknob.evaluation.measure import Measured, sample_and_grade
from distillknob.models.base import LanguageModel
from distillknob.models.same_text import one_vocabulary
from distillknob.models.sampling import Sample, Sampler
from distillknob.models.scoring import Scorer, answer_ids
from distillknob.runs.journal import Journal
from distillknob.tasks import Task
from distillknob.tasks.base import Example

SOURCES = ("teacher", "teacher_verified", "teacher_best_of_n", "teacher_pairs", "gold", "file", "none")
RIGHT_ONES = ("teacher_verified", "teacher_best_of_n", "teacher_pairs")  # they need a grader
PAIRS = "teacher_pairs"  # a right trace and a wrong one

Item = TypeVar("Item")


@dataclass(frozen=True)
class TraceOptions:
    """`candidates`: samples of the teacher a problem, of which a verified source keeps one. `ways`: by task the way of
    writing (`Task.style`) outside of which a right sample doesn't count. `selection`: how the best of n is chosen among
    the right ones. `problem_seed` takes the problems (None: `seed` does), `seed` draws their answers. `part` of each
    task's problems are used, from one share of them to another."""

    candidates: int = 8
    max_new_tokens: int | None = None
    seed: int = 0
    ways: Mapping[str, str] = field(default_factory=dict)
    selection: str = "likelihood"
    problem_seed: int | None = None
    part: Sequence[float] = (0.0, 1.0)

    @property
    def seed_of_problems(self) -> int:
        return self.seed if self.problem_seed is None else self.problem_seed


def make_traces(
    source: str,
    tasks: Sequence[Task],
    problems: int,
    student: LanguageModel,
    teacher: Sampler | None,
    target: Scorer | None,
    options: TraceOptions,
    more: Callable[[Task, Example], Mapping[str, Any]] | None = None,
    journal: Journal | None = None,
) -> list[dict[str, Any]]:
    """One row a problem of the train split: `prompt` (messages), `task`, `completion` (text) and `completion_ids` (of
    the student's tokenizer, the eos included where the trace ended), and the columns of `more`; of pairs also
    `wrong_completion` and `wrong_completion_ids`.

    Sources: the teacher's first sample, right or wrong; its first right one of `candidates`; the right one of
    `candidates` that is best by `target` and the options' `selection` (selection as opposed to calibration); its first
    right and its first wrong one of `candidates`; the data set's own solution; or none, where the student writes every
    trace itself. Problems for which the teacher has no right sample, or no wrong one of a pair, are left out.
    Every process makes this same call, and does its part of the sampling; what `journal` holds is not done again.
    Raises BadInputError where none remains.
    """
    rows = []
    journal = journal or Journal()
    for place, task in enumerate(tasks):
        examples = part_of(task.examples("train", problems, seed=options.seed_of_problems), options.part)
        wrong: list[Sample] = []
        if source == "none":
            chosen = [(e, Sample("", [], finished=False)) for e in examples]
        elif source == "gold":
            chosen = [(e, Sample(e.gold_solution, [], finished=True)) for e in examples]
        else:
            if teacher is None:
                raise BadInputError(f"traces from {source!r} need a teacher")
            part = journal.part(f"task-{place}")
            if source == PAIRS:
                pairs = _pairs(task, examples, teacher, options, part)
                chosen, wrong = [(e, right) for e, right, _ in pairs], [one for _, _, one in pairs]
            else:
                chosen = _from_teacher(source, task, examples, teacher, target, options, part)
        if not chosen:
            raise BadInputError(_none_left(source, task, len(examples), options))
        author = teacher if source not in ("gold", "none") else None
        ids = _ids_of([sample for _, sample in chosen], student, author)
        wrong_ids = _ids_of(wrong, student, author)
        for n, (example, sample) in enumerate(chosen):
            row = {
                "prompt": task.messages(example),
                "task": task.name,
                "completion": sample.text,
                "completion_ids": ids[n],
                **({} if more is None else more(task, example)),
            }
            pair = {"wrong_completion": wrong[n].text, "wrong_completion_ids": wrong_ids[n]} if wrong else {}
            rows.append({**row, **pair})
    return rows


def part_of(rows: Sequence[Item], part: Sequence[float]) -> Sequence[Item]:
    """Return the rows from one share of them to another: those of parts that meet are disjoint, and leave none out."""
    start, end = (round(share * len(rows)) for share in part)
    return rows[start:end]


def _none_left(source: str, task: Task, problems: int, options: TraceOptions) -> str:
    way = options.ways.get(task.name)
    what = "no right sample" if source != PAIRS else "no right sample beside a wrong one"
    return (
        f"the teacher has {what}{f' in the way {way!r}' if way else ''} on any of {problems} problems of "
        f"{task.name!r}: raise candidates (now {options.candidates}), or "
        + ("name another way" if way else "use method sft, which needs none")
    )


def _ids_of(samples: Sequence[Sample], student: LanguageModel, author: Sampler | None) -> list[list[int]]:
    """The samples as the student reads them, the end of a finished one included."""
    if author is not None and author.tokenizer is not None and one_vocabulary(author.tokenizer, student.tokenizer):
        # The very tokens that the teacher drew, its end included: the text may have other, rarer spellings.
        return [sample.token_ids for sample in samples]
    return answer_ids(student, [sample.text for sample in samples], [sample.finished for sample in samples])


def _from_teacher(
    source: str,
    task: Task,
    examples: Sequence[Example],
    teacher: Sampler,
    target: Scorer | None,
    options: TraceOptions,
    journal: Journal,
) -> list[tuple[Example, Sample]]:
    drawn = _drawing(task, examples, teacher, options, journal)
    everyone, way = range(len(examples)), options.ways.get(task.name)
    if source == "teacher":
        return [(example, row[0]) for example, row in zip(examples, drawn(everyone, 1).samples, strict=True)]
    if source == "teacher_verified":
        # A sample at a time, and only for problems that have no right one yet.
        verified: dict[int, Sample] = {}
        for attempt in range(options.candidates):
            missing = [i for i in everyone if i not in verified]
            if missing:
                rows = _right_ones(drawn(missing, 1, attempt), way)
                verified |= {i: row[0] for i, row in zip(missing, rows, strict=True) if row}
        return [(examples[i], verified[i]) for i in sorted(verified)]
    right = _right_ones(drawn(everyone, options.candidates), way)
    if target is None:
        raise BadInputError("traces from 'teacher_best_of_n' need a target: by it the best is chosen")
    prompts = [task.messages(example) for example in examples]
    best = best_of_n(options.selection, teacher, target, prompts, right, journal.part("selection"))
    return [(example, sample) for example, sample in zip(examples, best, strict=True) if sample is not None]


def _pairs(
    task: Task, examples: Sequence[Example], teacher: Sampler, options: TraceOptions, journal: Journal
) -> list[tuple[Example, Sample, Sample]]:
    """Of each problem that has both among `candidates` samples, the first right one and the first wrong one."""
    drawn, way = _drawing(task, examples, teacher, options, journal), options.ways.get(task.name)
    right: dict[int, Sample] = {}
    wrong: dict[int, Sample] = {}
    for attempt in range(options.candidates):  # a sample at a time, and only for problems that lack one of the two
        missing = [i for i in range(len(examples)) if i not in right or i not in wrong]
        if not missing:
            break
        measured = drawn(missing, 1, attempt)
        for i, row, (sample,), (is_right,) in zip(
            missing, _right_ones(measured, way), measured.samples, measured.right, strict=True
        ):
            if row:
                right.setdefault(i, row[0])
            elif not is_right:
                wrong.setdefault(i, sample)
    return [(examples[i], right[i], wrong[i]) for i in sorted(right.keys() & wrong.keys())]


def _drawing(
    task: Task, examples: Sequence[Example], teacher: Sampler, options: TraceOptions, journal: Journal
) -> Callable[..., Measured]:
    """What draws and grades samples of the problems with these numbers: (numbers, samples a problem, attempt)."""

    def drawn(chosen: Sequence[int], n: int, attempt: int = 0) -> Measured:
        return sample_and_grade(
            teacher,
            task,
            [examples[i] for i in chosen],
            n,
            max_new_tokens=options.max_new_tokens,
            seed=options.seed + attempt,
            journal=journal.part(f"attempt-{attempt}"),
            shared=True,
            description=f"traces: {task.name}",
        )

    return drawn


def _right_ones(drawn: Measured, way: str | None = None) -> list[list[Sample]]:
    """The right samples of each problem, of those written in `way` where one is named."""
    style = drawn.task.style
    return [
        [sample for sample, right in zip(samples, row, strict=True) if right and way in (None, style(sample.text))]
        for samples, row in zip(drawn.samples, drawn.right, strict=True)
    ]
