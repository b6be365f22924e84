"""The stage `memorization`: which texts three models have memorised, and which the student has from its teacher.

A text is memorised where the greedy continuation of its first tokens (50) is its next ones (50) exactly: one token off
is not memorised, and a text with fewer tokens is left out, not counted as missed (Memorization Dynamics in Knowledge
Distillation, arXiv 2601.15394). The baseline has the student's size and was trained on the same texts without the
teacher.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import asdict
from pathlib import Path

from distillknob.errors import BadInputError
from distillknob.evaluation.memorization.config import MemorizationConfig
from distillknob.evaluation.memorization.continuation import continuations
from distillknob.evaluation.memorization.sets import Sets
from distillknob.evaluation.memorization.texts import asked_of, read_texts
from distillknob.inputs.identity import changed_meanwhile
from distillknob.inputs.opening import Opening, checked
from distillknob.inputs.preflight import Preflight
from distillknob.models.load import load_model, load_tokenizer
from distillknob.results.memorization import MemorizationResult, MemorizedRow
from distillknob.runs.journal import Journal
from distillknob.runs.run import Run
from distillknob.stats import interval


def check(config: MemorizationConfig, preflight: Preflight) -> None:
    """Raise BadInputError for what `memorization` couldn't use, before any weight is loaded."""
    if config.baseline is None:
        raise BadInputError(
            "baseline is not set: without a model of the student's size that was trained on the same texts without the "
            "teacher, what is inherited can't be told from what any such model memorises"
        )
    preflight.engine(config)
    sides = preflight.sides(config.models_read, weights=config.models_read)
    teacher = sides[0]
    for part, side in zip(config.models, sides, strict=True):
        if side.same_tokens(teacher) is False:
            raise BadInputError(
                f"the {part} {side.name!r} has another tokenizer than the teacher {config.teacher!r}: the first "
                f"{config.prefix_tokens} tokens would be two beginnings of a text, and the next ones two ends, so that "
                "the models were asked about different things: name models with one tokenizer"
            )
        if side.context is not None and config.prefix_tokens + config.suffix > side.context:
            raise BadInputError(
                f"prefix_tokens={config.prefix_tokens} and {config.suffix} more don't fit the context of "
                f"{side.name!r}, {side.context}: set prefix_tokens or suffix_tokens lower"
            )
    texts = None if config.texts_file is None and not preflight.fetch else read_texts(config)
    if texts is not None and teacher.tokenizer is not None:
        asked_of(texts, teacher.tokenizer, config.prefix_tokens + config.suffix)


def memorization(config: MemorizationConfig, output: str | Path, *, resume: bool = False) -> Run:
    """Ask which texts teacher, student and baseline have memorised and return the run: counts, shares and sets in
    `result.json`, what each model wrote in `samples.jsonl`. Raises BadInputError before any work for input that can't
    be used."""
    opening = Opening("memorization", config, output, asdict(config), resume)
    if (done := opening.finished()) is not None:
        return done
    checked(check, config)
    run = opening.run()
    if run.complete:
        return run
    texts, reader = read_texts(config), load_tokenizer(config.teacher)
    asked = asked_of(texts, reader, config.prefix_tokens + config.suffix)
    memorised: dict[str, Set[int]] = {}
    samples = []
    for part, name in config.models.items():
        written = continuations(
            load_model(name),
            asked.rows,
            config.prefix_tokens,
            batch_size=config.batch_size,
            journal=Journal(run.unfinished).part(part),
            description=f"{part}: go on",
        )
        ends = [row[config.prefix_tokens :] for row in asked.rows]
        memorised[part] = {i for i, (own, end) in enumerate(zip(written, ends, strict=True)) if own == end}
        samples += [
            {
                "part": part,
                "text": i,
                "prefix": reader.decode(asked.rows[i][: config.prefix_tokens]),
                "completion": reader.decode(own),
                "memorised": i in memorised[part],
            }
            for i, own in enumerate(written)
        ]
    run.write_samples(samples)
    sets, everything = Sets(**memorised), set(range(len(asked.rows)))
    result: MemorizationResult = {
        "stage": "memorization",
        "notes": changed_meanwhile(run, config),
        "teacher": config.teacher,
        "student": config.student,
        "baseline": config.models["baseline"],
        "prefix_tokens": config.prefix_tokens,
        "suffix_tokens": config.suffix,
        "texts": len(asked.rows),
        "short": asked.short,
        "repeated": asked.repeated,
        "memorised": [_row(part, memorised[part], everything) for part in config.models],
        "inherited": _row("inherited", sets.inherited, everything),
        "shared": _row("shared", sets.shared, everything),
        "novel": _row("novel", sets.novel, everything),
        "inherited_of_teacher": _row("inherited", sets.inherited, sets.teachers_own),
    }
    run.finish(result)
    return run


def _row(name: str, some: Set[int], of: Set[int]) -> MemorizedRow:
    """How many of these texts, and their share with its interval; null where there is none to take a share of."""
    if not of:
        return {"name": name, "count": 0, "of": 0, "share": None, "interval": None}
    share = interval([float(i in some) for i in sorted(of)], proportion=True)
    return {"name": name, "count": len(some), "of": len(of), "share": share.mean, "interval": share.as_list()}
