"""What a defence costs its teacher: the target's own score on test problems."""

from __future__ import annotations

from typing import Any

from distillknob.attacks.cell import example_of
from distillknob.attacks.models import Models
from distillknob.attacks.target import Target
from distillknob.attacks.work import Reads, Work
from distillknob.evaluation.measure import sample_and_grade
from distillknob.inputs.identity import read_by
from distillknob.runs.journal import Journal
from distillknob.runs.run import Run
from distillknob.stats import interval
from distillknob.tasks import get_task


def teacher_record(target: Target) -> str:
    """Return the name under which a target's own score is kept among the cells."""
    return f"teachers/{target.label}"


def utility_config(target: Target, work: Work) -> dict[str, Any]:
    """Return what the run of a target's own score is known by."""
    sizes = work.suite.utility
    of_target = {"target": target.spec, "model": target.model, "tasks": list(work.tasks), "seed": work.suite.seed}
    return {**of_target, "problems": sizes.problems, "samples": sizes.samples, **work.models.recorded}


def utility_reads(target: Target, work: Work) -> dict[str, dict[str, str]]:
    """Return the digests of what it reads."""
    return read_by(Reads(target.models_read, work.tasks, target.key_file))


def measure_utility(target: Target, work: Work) -> Run:
    """Score the target on the suite's test problems, as it answers with its defence at work, and return the run: its
    `scores` are each problem's mean, those of all tasks behind each other. A finished run is returned as it is."""
    sizes, seed = work.suite.utility, work.suite.seed
    config, read = utility_config(target, work), utility_reads(target, work)
    run = Run.open(work.teacher(target), "teacher", config, read=read, resume=True)
    if run.complete:
        return run
    scores: list[float] = []
    examples: dict[str, dict[str, Any]] = {}
    with Models(work.models) as models:
        for place, name in enumerate(work.tasks):
            task = get_task(name)
            drawn = sample_and_grade(
                models.target(target, task),
                task,
                task.examples("test", sizes.problems, seed=seed),
                sizes.samples,
                max_new_tokens=work.models.longest,
                seed=seed,
                journal=Journal(run.unfinished / f"task-{place}"),
                description=f"{target.label} itself: {name}",
            )
            examples[name] = example_of(drawn)
            scores += [round(score, 6) for score in drawn.per_problem]
    measured = interval(scores)
    run.finish(
        {
            "stage": "teacher",
            "target": target.label,
            "scores": scores,
            "score": measured.mean,
            "interval": measured.as_list(),
            "examples": examples,
        }
    )
    return run
