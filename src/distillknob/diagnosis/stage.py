"""The stage `diagnose`: gather the samples and scores of a pair, ask every trap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

from distillknob.diagnosis.compare import BY_PROMPT
from distillknob.diagnosis.config import DiagnoseConfig
from distillknob.diagnosis.forecast import FORECAST
from distillknob.diagnosis.gather import PREFIXES, gather
from distillknob.diagnosis.knob_finding import KNOB
from distillknob.diagnosis.pilot import PILOT
from distillknob.diagnosis.traps import TRAPS
from distillknob.diagnosis.traps.base import Table, Trap
from distillknob.errors import BadInputError
from distillknob.inputs.identity import changed_meanwhile
from distillknob.inputs.opening import Opening, checked
from distillknob.inputs.preflight import Preflight, same_weights
from distillknob.models.chat import set_in_templates
from distillknob.models.load import load_model
from distillknob.models.names import check_meant
from distillknob.results.diagnosis import DiagnoseHead
from distillknob.results.stages import FindingRow
from distillknob.runs.journal import Journal
from distillknob.runs.model_record import warn_of_teacher
from distillknob.runs.run import Run
from distillknob.runtime.template_date import by_name, fix_dates
from distillknob.tasks import graded_tasks

TABLES: tuple[Table[Any], ...] = (PILOT, FORECAST)  # those that belong to no trap


def check(config: DiagnoseConfig, preflight: Preflight) -> None:
    """Raise BadInputError for what `diagnose` couldn't use, before any weight is loaded."""
    preflight.engine(config)
    teacher, student = preflight.sides(config.models_read, config.chat_template_kwargs, weights=config.models_read)
    for side in (teacher, student):
        if side.tokenizer is not None and not side.tokenizer.is_fast and teacher.same_tokens(student) is False:
            raise BadInputError(
                f"{config.teacher!r} and {config.student!r} have different tokenizers, and that of {side.name!r} is a "
                "slow one, which can't say where its tokens lie in a text: save it as a fast one (tokenizer.json)"
            )
    if teacher.tokenizer is not None and student.tokenizer is not None:
        check_meant("student", config.student, student.tokenizer, config.teacher, teacher.tokenizer)
    if same_weights(config.teacher, config.student):
        preflight.remark(f"teacher and student are the same model ({config.student}): no trap lies between them")
    for task in map(preflight.task, config.tasks):
        if task is None:
            continue
        examples = task.examples("train", config.problems, seed=config.seed)
        answer = config.max_new_tokens or task.max_new_tokens
        preflight.check_fit(student, task, examples, answer, "max_new_tokens")
        # The teacher also goes on from the beginnings of the student's answers.
        preflight.check_fit(teacher, task, examples, answer, "max_new_tokens", begun=max(PREFIXES))


def diagnose(
    config: DiagnoseConfig, output: str | Path, *, resume: bool = False, traps: Sequence[Trap[Any]] = TRAPS
) -> Run:
    """Measure the traps of a pair and return the run. Raises BadInputError before any work.

    With two tokenizers the answers are compared as texts, and span by span between the places where a token ends in
    both; a trap that needs one vocabulary says that it isn't applicable. A run that stopped goes on at the batch where
    it did. `traps` are no part of what is recorded of a run: a complete one is returned with those that it was asked.
    """
    tasks = graded_tasks(config.tasks)
    opening = Opening("diagnose", config, output, asdict(config), resume)
    if (done := opening.finished()) is not None:
        return done
    checked(check, config)
    teacher, student = (load_model(name) for name in config.models_read)
    sides = by_name((config.teacher, teacher.tokenizer), (config.student, student.tokenizer))
    set_in_templates(sides, config.chat_template_kwargs)
    run = opening.run()
    if run.complete:
        return run
    fix_dates(sides, run.template_date)
    warning = warn_of_teacher(config.teacher)
    parts: list[Table[Any] | Trap[Any]] = [*TABLES, *traps, KNOB]
    tables: dict[str, list[Any]] = {name: [] for part in parts for name in part.tables}
    findings: list[FindingRow] = []
    by_prompt: list[dict[str, Any]] = []
    run.drop_metrics_after(0)
    engines = opening.engines()
    for number, task in enumerate(tasks, start=1):
        journal = Journal(run.unfinished).part(quote(task.name, safe=""))
        gathered = gather(task, teacher, student, config, journal, engines)
        for reading in (part.read(gathered) for part in parts):
            for name, rows in reading.tables.items():
                tables[name] += rows
            findings += [finding.as_row() for finding in reading.findings]
            by_prompt += reading.by_prompt
        run.log(step=number, task=task.name, findings=len(findings))
    engines.close()
    run.write_json(BY_PROMPT, by_prompt)
    result: DiagnoseHead = {
        "stage": "diagnose",
        "teacher": config.teacher,
        "student": config.student,
        "warning": warning,
        "findings": findings,
        "notes": changed_meanwhile(run, config),
    }
    run.finish({**result, **tables})
    return run
