"""Running a stage from the command line, or with `--dry-run` its checks and estimate."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from distillknob.cli.extras import extras_of
from distillknob.errors import BadInputError
from distillknob.runtime.processes import disconnect, notice, process_count, process_index
from distillknob.stages import CHAINED, STAGES, Stage


class KnownFields(Collection[str]):
    """The settings of every stage: a recipe's shared key must be one of them. A stage's module takes seconds to load,
    so they are loaded one by one, until one has the field that is asked for."""

    def __iter__(self) -> Iterator[str]:
        import dataclasses

        from distillknob.config.fields import is_setting

        for stage in STAGES.values():
            yield from (field.name for field in dataclasses.fields(stage.config_class) if is_setting(field))

    def __contains__(self, name: object) -> bool:
        return any(name == field for field in self)

    def __len__(self) -> int:
        return len(set(self))


def run_stage(arguments: argparse.Namespace) -> int:
    """Run the stage that the command line names, or plan it, and return the exit status."""
    from distillknob.runtime.machine import keep_freed_memory, quiet_libraries

    stage, extras = STAGES[arguments.command], extras_of(arguments.command)
    status = extras.answer(arguments)
    if status is not None:
        return status
    quiet_libraries()
    keep_freed_memory()
    values, config = _config(arguments, stage)
    output = Path(arguments.output or f"runs/{stage.name}")
    extras.check(arguments, config)
    if arguments.dry_run:
        return _plan(arguments, stage, values, config, output)
    if arguments.gpu or arguments.accelerate:
        raise BadInputError("--gpu and --accelerate say what a dry run estimates for: add --dry-run, or leave them out")
    if process_index() == 0:
        _foretell(stage, config, output)
    with _started(arguments):
        run = _run(stage, config, output, resume=arguments.resume)
    ending = extras.end(arguments, run)
    if process_index() > 0:  # the first process tells
        return ending.status
    if run.complete:
        from distillknob.cli.next_text import next_text
        from distillknob.cli.text import result_text

        parts = [json.dumps(run.result, indent=2)] if arguments.json else [result_text(run), next_text(run)]
        print("\n\n".join(filter(None, parts)))
    if ending.note:
        print(ending.note, file=sys.stderr)
    return ending.status


def _foretell(stage: Stage, config: Any, output: Path) -> None:
    """Count beforehand how long an experiment's stages take, for its counter, and say it where a training, or cells at
    once, take more memory than there is; nothing of a run that is finished. Only of a config that has been checked can
    anything be counted, so the stage's check comes first, without what it would fetch."""
    from distillknob.runs.run import MANIFEST

    counted, trains = hasattr(config, "expected"), stage.trains and process_count() == 1
    side_by_side = getattr(config, "processes", 1) > 1
    if (output / MANIFEST).exists() or not (counted or trains or side_by_side):
        return
    from distillknob.inputs.preflight import Preflight
    from distillknob.planning.expected import expected_seconds, memory_warning

    stage.check(config, Preflight(process_count(), fetch=False))
    if counted:
        config.expected = expected_seconds(stage.name, config, process_count())
    if (trains or side_by_side) and (warning := memory_warning(stage.name, config)) is not None:
        notice(warning)


def _config(arguments: argparse.Namespace, stage: Stage) -> tuple[dict[str, Any], Any]:
    """What the recipe and the flags set, and the config that is built of it. Raises BadInputError."""
    from distillknob.cli.flags import given_flags
    from distillknob.config.recipe import build, stage_values
    from distillknob.training.config import for_another_machine

    cls, extras, section = stage.config_class, extras_of(stage.name), _recipe(arguments)
    passed = extras.passed(arguments)
    recipe = section
    if stage.kind == "experiment":
        section, recipe = _recorded(stage, recipe)
        passed["recipe"] = recipe
    flags = {**extras.settings(recipe), **given_flags(arguments, cls)}
    values = stage_values(cls, stage.name, section, flags, KnownFields())
    if stage.kind == "experiment":
        for chained in CHAINED:  # here a typo's line in the file is still known
            stage_values(STAGES[chained].config_class, chained, recipe, {})
    with for_another_machine(arguments.dry_run and arguments.gpu is not None):
        return values, build(cls, {**values, **passed})


def _recipe(arguments: argparse.Namespace) -> Mapping[str, Any]:
    """The recipe that the command line names; an empty one where it names none."""
    from distillknob.config.recipe import read_recipe
    from distillknob.config.shipped import find_recipe

    if arguments.recipe and arguments.config:
        raise BadInputError(f"two recipes, {arguments.recipe} and --config {arguments.config}: give one of them")
    chosen = arguments.recipe or arguments.config
    if not chosen:
        _check_swallowed(arguments)
    return read_recipe(find_recipe(chosen)) if chosen else {}


def _check_swallowed(arguments: argparse.Namespace) -> None:
    """Raise BadInputError where a flag that takes several values has taken the recipe that was written behind it."""
    for name, values in vars(arguments).items():
        last = values[-1] if isinstance(values, list) and values else None
        if isinstance(last, str) and ":" not in last and last.endswith((".yaml", ".yml")):
            flag = f"--{name.replace('_', '-')}"
            raise BadInputError(
                f"{flag} takes all words behind it, and so {last} too: write the recipe first, `distillknob "
                f"{arguments.command} {last} …`, or --config {last}"
            )


def _started(arguments: argparse.Namespace) -> AbstractContextManager[None]:
    """Lets the run keep its recipe, so that the commands that its page offers name it too."""
    from distillknob.runs.commands import started_with

    return started_with(arguments.recipe or arguments.config, _recipe(arguments))


def _recorded(stage: Stage, recipe: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """What sets an experiment's own fields, and the recipe of its stages: both the recipe, but for the `config.yaml` of
    a run, in which the stages' recipe stands under the experiment's section."""
    own = recipe.get(stage.name)
    if not isinstance(own, Mapping) or not isinstance(own.get("recipe"), Mapping):
        return recipe, recipe
    return {stage.name: {name: value for name, value in own.items() if name != "recipe"}}, own["recipe"]


def _run(stage: Stage, config: Any, output: Path, *, resume: bool) -> Any:
    """The stage's run. Where its input turns out to be bad, a directory that was made for it is removed again."""
    from distillknob.runs.run import discard_unstarted

    call = stage.run
    if not sys.stderr.isatty() and process_index() == 0:  # a log file: a line before anything is loaded
        print(f"{stage.name}: {_reads(config)}, into {output}", file=sys.stderr, flush=True)
    fresh = not output.exists()
    try:
        run = call(config, output, resume=resume)
    except BadInputError:
        if fresh and process_index() == 0:
            discard_unstarted(output)
        raise
    disconnect()
    return run


def _reads(config: Any) -> str:
    """What a stage is about to work on, in a few words."""
    models = getattr(config, "models", None) or [
        getattr(config, name, None) for name in ("model", "teacher", "student")
    ]
    tasks = getattr(config, "tasks", None) or []
    if getattr(config, "cache", None) is not None:  # which has a teacher and tasks of its own
        models, tasks = [f"the cache {config.cache}", config.student], []
    steps = getattr(config, "max_steps", 0)
    named = [*(str(model) for model in models if model), *([f"on {', '.join(tasks)}"] if tasks else [])]
    return " ".join([*named, *([f"for {steps} steps"] if steps and steps > 0 else [])]) or "the recipe's cells"


def _plan(arguments: argparse.Namespace, stage: Stage, values: Mapping[str, Any], config: Any, output: Path) -> int:
    """A stage's dry run: its check, and the estimate. The exit status says whether it fits."""
    from distillknob.config.recipe import resolved
    from distillknob.config.shipped import find_accelerate
    from distillknob.inputs.preflight import Preflight
    from distillknob.planning.hardware import engine
    from distillknob.planning.plan import plan
    from distillknob.training.config import for_another_machine

    where = engine(arguments.gpu, find_accelerate(arguments.accelerate) if arguments.accelerate else None)
    preflight = Preflight(where.devices, fetch=False)
    with for_another_machine(arguments.gpu is not None):
        stage.check(config, preflight)
        shown = resolved(type(config), values)
        text, fits = plan(stage.name, config, shown, output, resume=arguments.resume, engine=where, seen=preflight)
    print(text)
    return 0 if fits else 2
