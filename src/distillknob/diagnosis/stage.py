"""The stage `diagnose`: gather the samples and scores of a pair, ask every trap."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

from distillknob.diagnosis.compare import BY_PROMPT, values_by_prompt
from distillknob.diagnosis.config import DiagnoseConfig
from distillknob.diagnosis.finding import Finding, not_applicable
from distillknob.diagnosis.forecast import forecast_rows
from distillknob.diagnosis.gather import PREFIXES, Gathered, Gathering, gather
from distillknob.diagnosis.pilot import pilot_rows
from distillknob.diagnosis.samples import ScoredTokens
from distillknob.diagnosis.traps.capacity_gap import capacity_gap, style_rows
from distillknob.diagnosis.traps.off_policy import off_policy_instability, off_policy_rows
from distillknob.diagnosis.traps.sequence_myopia import myopia_rows, sequence_myopia
from distillknob.diagnosis.traps.signal_sparsity import position_rows, quadrant_rows, signal_sparsity
from distillknob.diagnosis.traps.student_prefixes import accuracy_on_student_prefixes, prefix_rows
from distillknob.diagnosis.traps.tail_noise import scatter_rows, tail_noise, tail_rows
from distillknob.diagnosis.traps.wrong_trace_preference import preference_rows, wrong_trace_preference
from distillknob.errors import BadInputError
from distillknob.inputs.identity import changed_meanwhile, read_by
from distillknob.inputs.preflight import Preflight, same_weights
from distillknob.models.chat import set_in_templates
from distillknob.models.load import load_model
from distillknob.models.names import check_meant
from distillknob.results.diagnosis import DiagnoseHead
from distillknob.results.stages import FindingRow
from distillknob.runs.journal import Journal
from distillknob.runs.model_record import warn_of_teacher
from distillknob.runs.run import Run, runs_behind
from distillknob.runtime.processes import process_count
from distillknob.runtime.template_date import by_name, fix_dates
from distillknob.tasks import graded_tasks

TABLES = tuple("pilot scatter tail off_policy myopia position quadrant preference style prefix forecast".split())
TWO_TOKENIZERS = "teacher and student have different tokenizers, and a token's divergence needs one vocabulary"


def check(config: DiagnoseConfig, preflight: Preflight) -> None:
    """Raise BadInputError for what `diagnose` couldn't use, before any weight is loaded."""
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


def diagnose(config: DiagnoseConfig, output: str | Path, *, resume: bool = False) -> Run:
    """Measure the traps of a pair and return the run. Raises BadInputError before any work.

    With two tokenizers the answers are compared as texts, and span by span between the places where a token ends in
    both; what needs one vocabulary is told as not applicable. A run that stopped goes on at the batch where it did.
    """
    tasks = graded_tasks(config.tasks)
    opened: dict[str, Any] = {"inputs": runs_behind(config.models_read), "read": read_by(config), "resume": resume}
    if (done := Run.finished(output, "diagnose", asdict(config), **opened)) is not None:
        return done
    preflight = Preflight(process_count())
    check(config, preflight)
    preflight.tell()
    teacher, student = (load_model(name) for name in config.models_read)
    sides = by_name((config.teacher, teacher.tokenizer), (config.student, student.tokenizer))
    set_in_templates(sides, config.chat_template_kwargs)
    run = Run.open(output, "diagnose", asdict(config), **opened)
    if run.complete:
        return run
    fix_dates(sides, run.template_date)
    warning = warn_of_teacher(config.teacher)
    settings = Gathering(
        problems=config.problems,
        samples=config.samples,
        candidates=config.candidates,
        gradient_problems=config.gradient_problems,
        ks=tuple(config.ks),
        max_new_tokens=config.max_new_tokens,
        seed=config.seed,
    )
    tables: dict[str, list[Any]] = {name: [] for name in TABLES}
    findings: list[FindingRow] = []
    by_prompt: list[dict[str, Any]] = []
    run.drop_metrics_after(0)
    for number, task in enumerate(tasks, start=1):
        found = gather(task, teacher, student, settings, Journal(run.unfinished).part(quote(task.name, safe="")))
        for name, rows in _tables(found).items():
            tables[name] += rows
        findings += [finding.as_row() for finding in _findings(found, config)]
        by_prompt += values_by_prompt(
            found.on_policy, found.off_policy, found.candidates, found.styled, found.continuations
        )
        run.log(step=number, task=task.name, findings=len(findings))
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


def _tables(found: Gathered) -> dict[str, list[dict[str, Any]]]:
    """The rows of each table that one task adds."""
    off = found.off_policy
    tables = {
        "pilot": pilot_rows([found.on_policy, off]),
        "off_policy": off_policy_rows(off, found.on_policy),
        "preference": preference_rows(found.candidates),
        "style": style_rows(found.styled),
        "prefix": prefix_rows(found.continuations),
        "forecast": forecast_rows(found.own, found.styled),
    }
    if isinstance(off, ScoredTokens):
        tables |= {
            "scatter": scatter_rows(off),
            "tail": tail_rows(off),
            "position": position_rows(off),
            "quadrant": quadrant_rows(off),
        }
    if found.gradients is not None:
        tables["myopia"] = myopia_rows(found.gradients)
    return tables


def _findings(found: Gathered, config: DiagnoseConfig) -> list[Finding]:
    """What each trap says of one task."""
    off, task = found.off_policy, found.candidates.task
    one_vocabulary = (
        [tail_noise(off), signal_sparsity(off)]
        if isinstance(off, ScoredTokens)
        else [not_applicable(name, task, TWO_TOKENIZERS) for name in ("tail_noise", "signal_sparsity")]
    )
    if found.gradients is None:
        myopia = not_applicable("sequence_myopia", task, TWO_TOKENIZERS)
    elif config.gradient_problems == 0:
        myopia = not_applicable("sequence_myopia", task, "left out, as gradient_problems is 0")
    else:
        myopia = sequence_myopia(found.gradients)
    return [
        *one_vocabulary,
        off_policy_instability(off),
        myopia,
        wrong_trace_preference(found.candidates, "sum"),
        wrong_trace_preference(found.candidates, "mean"),
        capacity_gap(found.styled),
        accuracy_on_student_prefixes(found.continuations),
    ]
