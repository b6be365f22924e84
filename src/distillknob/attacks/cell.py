"""One cell of an attack: one arm of a suite on one target by one attacker with one seed, trained and measured.

A cell is a run directory. What failed is recorded there, in words, and is tried again when the run is resumed.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from distillknob.attacks.base import NotApplicableError, NothingToTrainOnError
from distillknob.attacks.models import Models
from distillknob.attacks.scene import TRACES, AttackScene
from distillknob.attacks.suite import Sizes
from distillknob.attacks.work import Cell, Reads, Work
from distillknob.errors import BadInputError
from distillknob.evaluation.measure import Measured, sample_and_grade
from distillknob.inputs.identity import read_by
from distillknob.models.sampling import Sampler
from distillknob.runs.failures import forget_failure
from distillknob.runs.journal import Journal
from distillknob.runs.run import Run, load_run
from distillknob.tasks import get_task


def cell_config(cell: Cell, work: Work) -> dict[str, Any]:
    """What a cell's run directory is known by."""
    return {
        "suite": work.suite.name,
        "suite_sha256": work.suite.sha256,
        "target": cell.target.spec,
        "model": cell.target.model,
        "attack": cell.arm.name,
        "settings": {"kind": cell.arm.kind, **asdict(cell.arm.attack)},
        "attacker": cell.attacker,
        "original": cell.original,
        "base": cell.base,
        "seed": cell.seed,
        "tasks": list(work.tasks),
        **work.models.recorded,
        **{stage: dict(work.recipe.get(stage) or {}) for stage in cell.arm.attack.trained_by},
        "learning_rates": dict(work.learning_rates),
    }


def cell_reads(cell: Cell, work: Work) -> dict[str, dict[str, str]]:
    """The digests of what a cell reads."""
    key_file = None if cell.arm.teacher_free else cell.target.key_file
    return read_by(Reads(cell.models_read, work.tasks, key_file))


def run_cell(cell: Cell, work: Work) -> Run:
    """Run one cell in its folder and return its run; one that is finished is returned as it is. What the attack lacks
    is its result; raises RunFailedError for a training that broke."""
    folder = work.place(cell)
    run = Run.open(folder, "attack-cell", cell_config(cell, work), read=cell_reads(cell, work), resume=True)
    if run.complete:
        return run
    asks = cell.arm.attack.pool and not cell.arm.teacher_free and cell.out_of_reach is None
    pool = load_run(work.pool(cell.target, cell.seed)) if asks else None
    scene = AttackScene(
        cell.target,
        work.problems,
        work.tasks,
        work.suite.problems,
        work.suite.seed,
        cell.attacker,
        cell.original,
        cell.base,
        work.recipe,
        work.learning_rates,
        cell.seed,
        folder / "made",
        Journal(run.unfinished / "attack"),
        work.models,
        pool,
    )
    scene.folder.mkdir(exist_ok=True)
    reason = None
    state, student = "done", None
    try:
        if cell.out_of_reach is not None:
            raise NotApplicableError(cell.out_of_reach)
        student = cell.arm.attack.student(scene)
    except NothingToTrainOnError as error:
        state, reason = "nothing to train on", str(error)
    except (NotApplicableError, BadInputError) as error:  # such as two tokenizers, or a task without a grader
        state, reason = "not applicable", str(error)
    finally:
        scene.models.close()
    measured = {} if student is None else measure(str(student), work, Journal(run.unfinished / "measured"))
    traces = _count_lines(scene.folder / TRACES)
    forget_failure(folder)
    shutil.rmtree(scene.folder)  # weights and checkpoints, many times the size of what was measured
    run.finish(
        {
            "stage": "attack-cell",
            "target": cell.target.label,
            "attack": cell.arm.name,
            "attacker": cell.attacker,
            "seed": cell.seed,
            "state": state,
            "reason": reason,
            "traces": traces,
            "cost": asdict(scene.taken),
            "measured": measured,
        }
    )
    return run


def measure(student: str, work: Work, journal: Journal) -> dict[str, dict[str, Any]]:
    """What a student scores on validation and test problems, by task: `scores` [P], each problem's mean, `finished`
    [P], the share of its answers that ended, and `right_of_finished`. Validation problems are of the train split,
    behind those that are asked about."""
    suite, measured = work.suite, dict[str, dict[str, Any]]()
    with Models(work.models) as models:
        model = models.sampler(student)
        for split, skip, sizes in (("train", suite.problems, suite.validation), ("test", 0, suite.test)):
            what = "validation" if split == "train" else split
            measured[what] = {
                name: _scores(model, name, split, skip, sizes, work, journal.part(f"{what}-{place}"))
                for place, name in enumerate(work.tasks)
            }
    return measured


def _scores(
    model: Sampler, name: str, split: str, skip: int, sizes: Sizes, work: Work, journal: Journal
) -> dict[str, Any]:
    task, seed = get_task(name), work.suite.seed
    drawn: Measured = sample_and_grade(
        model,
        task,
        task.examples(split, skip + sizes.problems, seed=seed)[skip:],
        sizes.samples,
        max_new_tokens=work.models.longest,
        seed=seed,
        journal=journal,
        description=f"{split}: {name}",
    )
    finished = [sample.finished for samples in drawn.samples for sample in samples]
    scores = [score for row in drawn.scores for score in row]
    ended = [score for score, done in zip(scores, finished, strict=True) if done]
    return {
        **({"example": example_of(drawn)} if split == "test" else {}),
        "scores": [round(float(np.mean(row)), 6) for row in drawn.scores],
        "finished": [round(float(np.mean([s.finished for s in row])), 6) for row in drawn.samples],
        "score_given_finished": float(np.mean(ended)) if ended else None,
    }


def example_of(drawn: Measured) -> dict[str, Any]:
    """The first problem with the first answer to it: what a score is about, in a model's own words."""
    example, sample = drawn.examples[0], drawn.samples[0][0]
    return {
        "prompt": example.prompt,
        "reference": example.reference,
        "text": sample.text,
        "score": float(drawn.scores[0][0]),
        "finished": sample.finished,
        "style": drawn.task.style(sample.text),
    }


def _count_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0
