"""The command line: parse, build the config, call one stage.

Only the standard library is imported here; a stage's own modules are loaded once it is chosen, so that `--help`
answers at once. Progress goes to stderr, results to stdout. Exit status: 0 done, 2 bad input (one message, nothing
written), 1 a run that failed after a good start.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from distillknob.errors import BadInputError, RunFailedError, nearest
from distillknob.runtime.processes import disconnect, process_index

# stage -> (module, config class, function, what it does)
STAGES: dict[str, tuple[str, str, str, str]] = {
    "diagnose": (
        "distillknob.diagnosis.stage",
        "DiagnoseConfig",
        "diagnose",
        "show why a pair will fail, before training",
    ),
    "calibrate": ("distillknob.calibration.stage", "CalibrationConfig", "calibrate", "turn the knob on a teacher"),
    "cache": (
        "distillknob.distillation.teacher_cache",
        "CacheConfig",
        "cache",
        "store a teacher's traces and log-probabilities",
    ),
    "distill": ("distillknob.distillation.stage", "DistillConfig", "distill", "train a student on a teacher"),
    "evaluate": (
        "distillknob.evaluation.stage",
        "EvaluateConfig",
        "evaluate",
        "measure models on tasks, with intervals",
    ),
    "demo": ("distillknob.experiments.demo", "DemoConfig", "demo", "the whole main job on one pair"),
    "sweep": (
        "distillknob.experiments.sweep",
        "SweepConfig",
        "sweep",
        "a recipe × η values × seeds, into one knob curve",
    ),
}
EXPERIMENTS = ("demo", "sweep")  # they read the sections of the stages that they chain
CHAINED = ("diagnose", "calibrate", "distill", "evaluate")
OWN_FLAGS = ("output_dir", "resume_from_checkpoint", "disable_tqdm", "overwrite_output_dir", "do_train", "do_eval")


def _quiet_environment() -> None:
    """No telemetry, and no hub look-ups for its sake, unless the user wants them."""
    for name, value in {
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        "HF_UPDATE_DOWNLOAD_COUNTS": "0",
        "TOKENIZERS_PARALLELISM": "false",
        "TRL_EXPERIMENTAL_SILENCE": "1",
    }.items():
        os.environ.setdefault(name, value)


def _any_encoding() -> None:
    """Let a terminal or pipe without an η or × get a replaced character: a run that is done shouldn't end in a
    UnicodeEncodeError."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a notebook's, or none at all, isn't
            stream.reconfigure(errors="replace")


class _Parser(argparse.ArgumentParser):
    """A parser that raises BadInputError: argparse's own error prints the usage first, which for a stage is hundreds of
    flags, and of an unknown flag it doesn't tell the nearest."""

    def error(self, message: str) -> NoReturn:
        raise BadInputError(f"{message}: see {self.prog} --help")

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """`words` parsed. Raises BadInputError for what can't be."""
        arguments, unknown = self.parse_known_args(words)
        if not unknown:
            return arguments
        (chosen,) = (action for action in self._actions if isinstance(action, argparse._SubParsersAction))
        parser = self if arguments.command is None else chosen.choices[arguments.command]
        flag = next((word.partition("=")[0] for word in unknown if word.startswith("-")), None)
        if flag is None:
            raise BadInputError(f"{parser.prog} can't use {' '.join(unknown)}: see {parser.prog} --help")
        known = [name for action in parser._actions for name in action.option_strings]
        guess = nearest(flag.replace("-", "_"), known) or nearest(flag, known, otherwise=":")
        raise BadInputError(f"{parser.prog} has no flag {flag}{guess} see {parser.prog} --help")


def _parser(command: str | None, *, inherited: bool = False) -> _Parser:
    """The parser; only the chosen stage's own flags are filled in, since that loads its config class. `inherited` says
    whether its help lists those of transformers and TRL too."""
    parser = _Parser(
        prog="distillknob",
        description="Measures why distilling a language model fails, and turns a knob on the teacher so that "
        "students learn more from it, or get worse by it.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="store_true", help="print the version and leave")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for stage, (module, config, _, what) in STAGES.items():
        usage = f"distillknob {stage} [RECIPE] [--output DIR] [--dry-run] [--FIELD VALUE ...]"
        sub = commands.add_parser(stage, help=what, description=what, usage=usage, allow_abbrev=False)
        sub.add_argument("recipe", nargs="?", metavar="RECIPE", help="recipe: a YAML file or a shipped one's name")
        sub.add_argument("--config", metavar="RECIPE", help="the same")
        sub.add_argument("--output", metavar="DIR", help=f"run directory (default: runs/{stage})")
        sub.add_argument("--resume", action="store_true", help="go on with the unfinished run in --output")
        sub.add_argument("--dry-run", action="store_true", help="check everything, print the plan, start nothing")
        sub.add_argument("--gpu", metavar="NAME", help="dry run: estimate for this GPU, e.g. h100, not this machine")
        told = "dry run: estimate for the processes and sharding of this configuration of accelerate launch"
        sub.add_argument("--accelerate", metavar="CONFIG.yaml", help=told)
        sub.add_argument("--json", action="store_true", help="print the result as JSON on stdout")
        if stage == "diagnose":
            told = "set finished diagnoses of one student beside each other, the first being the one before"
            sub.add_argument("--compare", nargs="+", metavar="RUN", help=told)
        if stage == "calibrate":
            told = "exit with status 1 unless the knob turned (the run is kept)"
            sub.add_argument("--require-turned", action="store_true", help=told)
        if stage == "sweep":
            sub.add_argument("--cell", type=int, metavar="N", help="run only cell number N (from 0)")
        if stage == command:
            from distillknob.cli.flags import add_flags

            hidden = add_flags(sub, getattr(import_module(module), config), skip=OWN_FLAGS, inherited=inherited)
            sub.add_argument("--help-all", action="help", help="this help, with all inherited fields")
            if hidden:
                sub.epilog = f"{hidden} more fields are TRL's and transformers': --help-all lists them too."
    report = commands.add_parser("report", help="run directories to one HTML page", allow_abbrev=False)
    report.add_argument("run", nargs="+", help="run directory")
    report.add_argument("--output", metavar="FILE", help="page to write (default: report.html in the run directory)")
    recipe = commands.add_parser("recipe", help="the recipes that come with distillknob", allow_abbrev=False)
    recipe.add_argument("action", choices=("list", "show", "copy", "new"))
    recipe.add_argument("name", nargs="?", help="show, copy: the recipe, e.g. qwen3-math; new: the file to write")
    recipe.add_argument("destination", nargs="?", help="copy: file or folder (default: here, under its own name)")
    new = recipe.add_argument_group("new: a recipe for your own pair, every stage of which fits on a device")
    new.add_argument("--teacher", metavar="MODEL", help="folder or hub id")
    new.add_argument("--student", metavar="MODEL", help="folder or hub id")
    new.add_argument("--target", metavar="MODEL", help="calibration target (default: the student)")
    new.add_argument("--tasks", nargs="+", metavar="TASK", help="tasks, e.g. jsonl:problems.jsonl (default: math)")
    new.add_argument("--max-new-tokens", type=int, metavar="N", help="an answer's longest (default: the tasks' own)")
    new.add_argument("--gpu", metavar="NAME", help="for this GPU, e.g. h100 (default: this machine)")
    new.add_argument("--accelerate", metavar="CONFIG.yaml", help="for this configuration of accelerate launch")
    new.add_argument("--full", action="store_true", help="train all weights, not LoRA adapters")
    zoo = commands.add_parser("zoo", help="the embedded checkpoints", allow_abbrev=False)
    zoo.add_argument("action", choices=("list", "build", "verify"))
    zoo.add_argument("--output", metavar="DIR", help="build: where to put the checkpoints (default: runs/zoo)")
    zoo.add_argument("--only", nargs="+", metavar="NAME", help="build: only these checkpoints")
    zoo.add_argument("--seed", type=int, default=0, help="build: 0 is that of the checkpoints shipped (default: 0)")
    zoo.add_argument("--json", action="store_true", help="print the result as JSON on stdout")
    return parser


class _KnownFields(Collection[str]):
    """The fields of every stage: a recipe's shared key must be one of them. A stage's modules take seconds to load, so
    they are loaded one by one, until one has the field that is asked for."""

    def __iter__(self) -> Iterator[str]:
        import dataclasses

        for module, config, _, _ in STAGES.values():
            yield from (field.name for field in dataclasses.fields(getattr(import_module(module), config)))

    def __contains__(self, name: object) -> bool:
        return any(name == known for known in self)

    def __len__(self) -> int:
        return len(set(self))


def _pair_of(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The `models` to evaluate where a recipe names a pair and no `models`: that pair, not the embedded one."""
    pair = [recipe[side] for side in ("teacher", "student") if side in recipe]
    told = "models" in recipe or "models" in (recipe.get("evaluate") or {})
    return {"models": pair} if pair and not told else {}


def _run_stage(arguments: argparse.Namespace) -> int:
    from distillknob.cli.flags import given_flags
    from distillknob.cli.text import result_text
    from distillknob.config.recipe import build, read_recipe, stage_values
    from distillknob.config.shipped import find_recipe
    from distillknob.runs.run import discard_unstarted
    from distillknob.runtime.machine import keep_freed_memory, quiet_libraries
    from distillknob.training.config import for_another_machine

    quiet_libraries()
    keep_freed_memory()
    stage: str = arguments.command
    module, config_name, function, _ = STAGES[stage]
    cls = getattr(import_module(module), config_name)
    if arguments.recipe and arguments.config:
        raise BadInputError(f"two recipes, {arguments.recipe} and --config {arguments.config}: give one of them")
    chosen = arguments.recipe or arguments.config
    recipe: Mapping[str, Any] = read_recipe(find_recipe(chosen)) if chosen else {}
    flags = given_flags(arguments, cls)
    if stage == "evaluate":
        flags = {**_pair_of(recipe), **flags}
    values = stage_values(cls, stage, recipe, flags, _KnownFields())
    for chained in CHAINED if stage in EXPERIMENTS else ():  # here a typo's line in the file is still known
        stage_values(getattr(import_module(STAGES[chained][0]), STAGES[chained][1]), chained, recipe, {})
    with for_another_machine(arguments.dry_run and arguments.gpu is not None):
        config: Any = build(cls, values)
    output = Path(arguments.output or f"runs/{stage}")
    if stage == "calibrate" and arguments.require_turned and config.eta == 0:
        raise BadInputError(
            "--require-turned with eta=0, which turns nothing: set eta to other than 0, or leave it out"
        )
    if arguments.dry_run:
        return _plan(arguments, values, config, recipe, output)
    if arguments.gpu or arguments.accelerate:
        raise BadInputError("--gpu and --accelerate say what a dry run estimates for: add --dry-run, or leave them out")
    call = getattr(import_module(module), function)
    if not sys.stderr.isatty() and process_index() == 0:  # a log file: a line before anything is loaded
        print(f"{stage}: {_reads(config)}, into {output}", file=sys.stderr, flush=True)
    fresh = not output.exists()
    extra: dict[str, Any] = {"only": arguments.cell} if stage == "sweep" else {}
    try:
        if stage in EXPERIMENTS:
            run = call(config, recipe, output, resume=arguments.resume, **extra)
        else:
            run = call(config, output, resume=arguments.resume, **extra)
    except BadInputError:
        if fresh and process_index() == 0:
            discard_unstarted(output)
        raise
    disconnect()
    status = _turned_status(run.result) if stage == "calibrate" and arguments.require_turned else 0
    if process_index() > 0:  # the first process tells
        return status
    if not run.complete:
        print(f"cell {arguments.cell} is done; the report so far: {run.path / 'report.html'}", file=sys.stderr)
        return 0
    print(json.dumps(run.result, indent=2) if arguments.json else result_text(run))
    if status:
        print(f"--require-turned: the knob did not turn, or nobody can tell; {run.path} is kept", file=sys.stderr)
    return status


def _reads(config: Any) -> str:
    """What a stage is about to work on, in a few words."""
    models = getattr(config, "models", None) or [getattr(config, name, None) for name in ("teacher", "student")]
    tasks = getattr(config, "tasks", None) or []
    if getattr(config, "cache", None) is not None:  # which has a teacher and tasks of its own
        models, tasks = [f"the cache {config.cache}", config.student], []
    steps = getattr(config, "max_steps", 0)
    named = [*(str(model) for model in models if model), *([f"on {', '.join(tasks)}"] if tasks else [])]
    return " ".join([*named, *([f"for {steps} steps"] if steps and steps > 0 else [])]) or "the recipe's cells"


def _turned_status(result: Mapping[str, Any]) -> int:
    """0 where the calibration's verdict is that its knob turned, else 1."""
    from distillknob.verdicts import TURNED

    return 0 if (result.get("turned") or {}).get("verdict") == TURNED else 1


def _plan(
    arguments: argparse.Namespace, values: Mapping[str, Any], config: Any, recipe: Mapping[str, Any], output: Path
) -> int:
    """A stage's dry run: its checks, and the estimate."""
    from distillknob.config.recipe import resolved
    from distillknob.config.shipped import find_accelerate
    from distillknob.inputs.preflight import Preflight
    from distillknob.planning.estimate import plan
    from distillknob.planning.hardware import engine
    from distillknob.training.config import for_another_machine

    stage: str = arguments.command
    where = engine(arguments.gpu, find_accelerate(arguments.accelerate) if arguments.accelerate else None)
    preflight = Preflight(where.devices, fetch=False)
    with for_another_machine(arguments.gpu is not None):
        if stage == "sweep":
            config.check_cell(arguments.cell)
        check = import_module(STAGES[stage][0]).check
        check(*([config, recipe] if stage in EXPERIMENTS else [config]), preflight)
        how: dict[str, Any] = {"resume": arguments.resume, "engine": where, "seen": preflight}
        text, fits = plan(stage, resolved(type(config), values), config, recipe, output, **how)
    print(text)
    return 0 if fits else 2


def _compare(arguments: argparse.Namespace) -> int:
    from distillknob.cli.text import compare_text
    from distillknob.diagnosis.compare import compare
    from distillknob.runs.files import plain

    compared = compare(arguments.compare)
    print(json.dumps(plain(compared), indent=2) if arguments.json else compare_text(compared))
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from distillknob.report import build_report

    if len(arguments.run) > 1:
        raise BadInputError(
            f"a page is about one run, but {len(arguments.run)} are named: diagnoses are set side by side by "
            f"`distillknob diagnose --compare {' '.join(arguments.run)}`, models by `distillknob evaluate --models …` "
            "(whose page has their paired differences), and calibrations at several η by `distillknob sweep`, which "
            "has a page of its own"
        )
    page = build_report(Path(arguments.run[0]), Path(arguments.output) if arguments.output else None)
    print(page)
    return 0


def _recipe(arguments: argparse.Namespace) -> int:
    from distillknob.config.shipped import copy_recipe, recipe_path, recipe_table

    if arguments.action == "list":
        print(recipe_table())
        return 0
    if arguments.name is None:
        raise BadInputError(f"recipe {arguments.action} needs a name, or for new a file: see distillknob recipe --help")
    if arguments.action == "new":
        return _new_recipe(arguments)
    if arguments.action == "show":
        print(recipe_path(arguments.name).read_text(encoding="utf-8"), end="")
    else:
        print(copy_recipe(arguments.name, Path(arguments.destination or ".")))
    return 0


def _new_recipe(arguments: argparse.Namespace) -> int:
    from distillknob.config.shipped import find_accelerate
    from distillknob.planning.hardware import engine
    from distillknob.planning.new_recipe import write_recipe
    from distillknob.runtime.machine import quiet_libraries
    from distillknob.training.config import for_another_machine

    quiet_libraries()
    if arguments.teacher is None or arguments.student is None:
        raise BadInputError("recipe new needs --teacher and --student: folders or hub ids")
    where = engine(arguments.gpu, find_accelerate(arguments.accelerate) if arguments.accelerate else None)
    pair = (arguments.teacher, arguments.student, arguments.target, arguments.tasks or ["math"], where)
    with for_another_machine(arguments.gpu is not None):
        print(write_recipe(arguments.name, *pair, lora=not arguments.full, longest=arguments.max_new_tokens))
    return 0


def _zoo(arguments: argparse.Namespace) -> int:
    from distillknob.cli.text import zoo_text
    from distillknob.runtime.machine import keep_freed_memory, quiet_libraries
    from distillknob.zoo import build_zoo, list_zoo, verify_zoo

    quiet_libraries()
    keep_freed_memory()
    if arguments.action == "build":
        rows = build_zoo(Path(arguments.output or "runs/zoo"), arguments.only, arguments.seed)
    else:
        rows = list_zoo() if arguments.action == "list" else verify_zoo()
    print(json.dumps(rows, indent=2) if arguments.json else zoo_text(rows))
    return 0 if all(row.get("holds", True) for row in rows) else 1


def _answer(command: str | None, words: Sequence[str]) -> int:
    """Do what the command line asks for, and return the exit status."""
    arguments = _parser(command, inherited="--help-all" in words).parse(words)
    if arguments.version:
        from distillknob import __version__

        print(__version__)
        return 0
    if command is None:
        _parser(None).print_help()
        return 2
    if command == "report":
        return _report(arguments)
    if command == "recipe":
        return _recipe(arguments)
    if command == "diagnose" and arguments.compare:
        return _compare(arguments)
    return _zoo(arguments) if command == "zoo" else _run_stage(arguments)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    _quiet_environment()
    _any_encoding()
    words = list(sys.argv[1:] if argv is None else argv)
    command = next((word for word in words if not word.startswith("-")), None)
    commands = [*STAGES, "report", "recipe", "zoo"]
    if command is not None and command not in commands:
        print(
            f"error: no command {command!r}{nearest(command, commands, otherwise='.')} Known: {', '.join(commands)}",
            file=sys.stderr,
        )
        return 2
    try:
        status = _answer(command, words)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # whoever read the output has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except BadInputError as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":  # once a machine
            print(f"error: {error}", file=sys.stderr)
        return 2
    except RunFailedError as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: the same command with --resume goes on", file=sys.stderr)
        return 130
