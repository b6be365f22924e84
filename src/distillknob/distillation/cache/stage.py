"""The stage `cache`: a teacher's traces with its top-k log-probabilities, from which students are distilled without it.

Files are written one by one (`files`): a resumed run goes on at the next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillknob.distillation.cache.config import CacheConfig
from distillknob.distillation.cache.files import (
    compared_tokens,
    files_of,
    summary_of,
    vocabulary_digest,
    write_file,
)
from distillknob.distillation.traces import RIGHT_ONES, TraceOptions, make_traces
from distillknob.errors import BadInputError
from distillknob.inputs.identity import changed_meanwhile
from distillknob.inputs.opening import Opening, checked
from distillknob.inputs.preflight import Preflight
from distillknob.models.base import LanguageModel
from distillknob.models.chat import eos_ids, set_in_templates
from distillknob.models.load import load_model
from distillknob.results.stages import CacheResult
from distillknob.runs.journal import Journal
from distillknob.runs.model_record import read_record, warn_of_teacher
from distillknob.runs.run import Run
from distillknob.runtime.processes import process_count, process_index, wait
from distillknob.runtime.progress import progress
from distillknob.runtime.template_date import fix_dates
from distillknob.tasks import get_tasks, graded_tasks

if TYPE_CHECKING:
    from transformers import LogitsProcessor


def check(config: CacheConfig, preflight: Preflight) -> None:
    """Raise BadInputError for what `cache` couldn't use, before any weight is loaded."""
    preflight.engine(config)
    (teacher,) = preflight.sides([config.teacher], config.chat_template_kwargs, weights=[config.teacher])
    if teacher.tokenizer is not None and teacher.vocabulary is not None:
        vocabulary = min(teacher.vocabulary, 1 + max(teacher.tokenizer.get_vocab().values()))
        if config.top_k > vocabulary:
            raise BadInputError(f"top_k={config.top_k}: the teacher has {vocabulary} tokens")
    answer = preflight.longest_answer(config.tasks, config.max_completion_length)
    for name in config.tasks:
        task = preflight.task(name, graded=config.traces in RIGHT_ONES)
        if task is None:
            continue
        examples = task.examples("train", config.problems, seed=config.seed)
        if config.traces == "gold":
            preflight.check_gold(teacher, task, examples)
        else:
            preflight.check_fit(teacher, task, examples, answer, "max_completion_length")


def cache_teacher(
    config: CacheConfig,
    output: str | Path,
    *,
    resume: bool = False,
    teacher: LanguageModel | None = None,
    edit: LogitsProcessor | None = None,
    traces: Sequence[Mapping[str, Any]] | None = None,
) -> Run:
    """Write the teacher's traces and top-k log-probabilities and return the run.

    `teacher` is `config.teacher` where it is loaded already. `traces` were drawn before, as rows of `make_traces`; with
    `edit` the log-probabilities are those of its next-token logits, by which these traces were drawn: what identifies
    the run doesn't hold the edit, so that each needs a folder of its own. Raises BadInputError before any work for
    input that can't be used, and for an edit without traces.
    """
    if edit is not None and traces is None:
        raise BadInputError("an edit of the next tokens changes what the teacher writes: give the traces drawn by it")
    tasks = (graded_tasks if config.traces in RIGHT_ONES else get_tasks)(config.tasks)
    opening = Opening("cache", config, output, asdict(config), resume)
    if (done := opening.finished()) is not None:
        return done
    checked(check, config)
    teacher = load_model(config.teacher) if teacher is None else teacher
    set_in_templates({config.teacher: teacher.tokenizer}, config.chat_template_kwargs)
    vocabulary = compared_tokens(teacher)
    run = opening.run()
    if run.complete:
        return run
    fix_dates({config.teacher: teacher.tokenizer}, run.template_date)
    warning = warn_of_teacher(config.teacher)
    if traces is not None and not run.samples():
        run.write_samples(traces)
    rows = run.samples()
    if not rows:
        options = TraceOptions(config.candidates, config.max_completion_length, config.seed)
        journal = Journal(run.unfinished).part("traces")
        with opening.engines() as engines:
            author = engines.of(config.teacher, teacher)
            rows = make_traces(config.traces, tasks, config.problems, teacher, author, None, options, journal=journal)
        run.write_samples(rows)
    files = files_of(rows, run.path)
    with progress("cache", len(files), unit="file") as bar:
        for number, (path, part) in enumerate(files.items()):
            if number % process_count() == process_index() and not path.exists():
                write_file(path, teacher, part, config.top_k, vocabulary, edit=edit)
            bar.update(1)
    wait()
    summaries = [summary_of(path) for path in files]
    tokens = sum(len(row["completion_ids"]) for row in rows)
    result: CacheResult = {
        "stage": "cache",
        "teacher": config.teacher,
        "teacher_record": read_record(config.teacher),
        "warning": warning,
        "notes": changed_meanwhile(run, config),
        "top_k": config.top_k,
        "vocabulary": vocabulary_digest(teacher.tokenizer),
        "width": vocabulary,
        "ends": eos_ids(teacher),
        "traces": len(rows),
        "tokens": tokens,
        "bytes_per_token": sum(path.stat().st_size for path in files) / max(1, tokens),
        "max_logprob_error": max(row["max_logprob_error"] for row in summaries),
        "mean_tail_mass": sum(row["tail_mass"] for row in summaries) / max(1, tokens),
    }
    run.finish(result)
    return run
