"""`distillknob init`: a recipe for two models and data of one's own, by flags or by asking in a terminal.

Each question's answer is looked at before the next, so that a typo costs one line. Left out on purpose: questions about
settings. Those follow from what was seen, and stand in the recipe with their reasons.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillknob.errors import BadInputError

if TYPE_CHECKING:
    from distillknob.inputs.preflight import Preflight
    from distillknob.planning.own_data import OwnData

OUTPUT = "my-recipe.yaml"
FINAL_ANSWERS = ("hashes", "boxed", "label", "sentence", "whole")  # those of `tasks`, which isn't read for a --help
COLUMNS = ("prompt", "reference", "solution")
EXAMPLE = "distillknob init --teacher ./teacher --student ./student --data problems.jsonl --output my-recipe.yaml"


def add_init(commands: Any) -> None:
    """Add the command's parser."""
    init = commands.add_parser(
        "init",
        help="write a recipe for your own two models and data",
        description="Look at two models and your data, choose the settings of every stage, and write them as a recipe\n"
        "with their reasons. In a terminal it asks for what no flag says.",
        epilog=f"for example:\n  {EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    init.add_argument("--teacher", metavar="MODEL", help="the model to learn from: a folder or hub id")
    init.add_argument("--student", metavar="MODEL", help="the model that learns: a folder or hub id")
    init.add_argument(
        "--data", metavar="FILE", help="your problems with their answers: a file of JSONL, CSV or parquet"
    )
    about = "in place of --data: tasks by name, such as math or gsm8k"
    init.add_argument("--tasks", nargs="+", metavar="TASK", help=about)
    init.add_argument("--output", metavar="FILE", help=f"recipe to write (default: {OUTPUT})")
    more = init.add_argument_group("what is chosen for you where you don't say it")
    more.add_argument(
        "--target",
        metavar="MODEL",
        help="model that calibrate turns the teacher towards or away from (default: the student)",
    )
    more.add_argument(
        "--max-new-tokens", type=int, metavar="N", help="longest answer, in tokens (default: by the data)"
    )
    more.add_argument(
        "--gpu", metavar="NAME", help="choose settings for this GPU, such as h100 (default: this machine)"
    )
    more.add_argument(
        "--accelerate",
        metavar="CONFIG.yaml",
        help="choose settings for the processes of this file of accelerate launch",
    )
    about = "train all weights, or with --no-full LoRA adapters (default: by the models' size)"
    more.add_argument("--full", action=argparse.BooleanOptionalAction, default=None, help=about)
    more.add_argument(
        "--final-answer",
        choices=FINAL_ANSWERS,
        metavar="FORM",
        help="how the final answer stands in references that are whole solutions: hashes (#### 12), boxed "
        "(\\boxed{12}), label (Answer: 12) or sentence (the answer is 12). whole: take references as they stand "
        "(default: the form that all of them have)",
    )
    for what in COLUMNS:
        about = f"the data's column with the {what} (default: by its name)"
        more.add_argument(f"--{what}-column", metavar="NAME", help=about)


def init(arguments: argparse.Namespace, ask: Callable[[str], str] | None = None) -> int:
    """Write the recipe and tell what was chosen, and what to type next. `ask` asks for what no flag says (by default in
    a terminal, and nobody where there is none)."""
    from distillknob.config.shipped import find_accelerate
    from distillknob.inputs.preflight import Preflight
    from distillknob.planning.hardware import engine
    from distillknob.runtime.machine import quiet_libraries
    from distillknob.training.config import for_another_machine

    ask = ask or (input if sys.stdin.isatty() and sys.stdout.isatty() else None)
    _check_flags(arguments, asked=ask is not None)
    quiet_libraries()
    where = engine(arguments.gpu, find_accelerate(arguments.accelerate) if arguments.accelerate else None)
    preflight = Preflight(where.devices, fetch=False)
    for side in ("teacher", "student"):
        _settle(arguments, side, f"{side.capitalize()} (a folder, hub id or zoo:NAME)", ask, _model(preflight))
    named = {what: column for what in COLUMNS if (column := getattr(arguments, f"{what}_column")) is not None}
    data = None
    if arguments.tasks is None:
        data = _settle(
            arguments, "data", "Your data (a file of JSONL, CSV or parquet)", ask, _data(named, arguments.final_answer)
        )
    output = _settle(arguments, "output", f"Recipe to write [{OUTPUT}]", ask, _new_files(data), default=OUTPUT)
    with for_another_machine(arguments.gpu is not None):
        choices = _write(arguments, output, data, where, preflight)
    for choice in choices:
        print(textwrap.fill(choice, 120, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False))
    print(f"\nWrote {' and '.join(map(str, _places(output, data)))}. Each setting has its reason behind it. Next:\n")
    print(f"    distillknob diagnose {output} --output runs/diagnosis")
    return 0


def _check_flags(arguments: argparse.Namespace, *, asked: bool) -> None:
    if arguments.data is not None and arguments.tasks is not None:
        raise BadInputError("--data and --tasks both say what to learn: give one of them")
    if arguments.data is None and arguments.tasks is not None:
        of_data = [f"{what}_column" for what in COLUMNS] + ["final_answer"]
        given = [f"--{name.replace('_', '-')}" for name in of_data if getattr(arguments, name) is not None]
        if given:
            raise BadInputError(f"{given[0]} says how --data is read, and --tasks was given: leave it out")
    missing = [f"--{side}" for side in ("teacher", "student") if getattr(arguments, side) is None]
    missing += ["--data"] if arguments.data is None and arguments.tasks is None else []
    if missing and not asked:
        raise BadInputError(
            f"init lacks {', '.join(missing)}, and there is no terminal to ask in: add them, as in `{EXAMPLE}`"
        )


def _settle(
    arguments: argparse.Namespace,
    name: str,
    question: str,
    ask: Callable[[str], str] | None,
    look: Callable[[str], Any],
    default: str | None = None,
) -> Any:
    """What `look` sees of a flag's value, or of the first answer that can be used; the value stands in `arguments`."""
    value = getattr(arguments, name)
    if value is None and ask is None:
        value = default
    if value is not None:
        setattr(arguments, name, value)
        return look(value)
    assert ask is not None  # `_check_flags` has refused the other case
    while True:
        try:
            value = ask(f"{question}: ").strip() or default
        except EOFError as error:
            raise BadInputError(f"init was left at the question for the {name}: give --{name}, or answer it") from error
        if not value:
            continue
        try:
            seen = look(value)
        except BadInputError as error:
            print(f"  {error}", file=sys.stderr)
            continue
        setattr(arguments, name, value)
        return seen


def _model(preflight: Preflight) -> Callable[[str], Any]:
    return lambda name: preflight.sides([name], weights=[name])


def _data(named: Mapping[str, str], final_answer: str | None) -> Callable[[str], OwnData]:
    def look(data: str) -> OwnData:
        from distillknob.planning.own_data import look_at

        return look_at(data, named, final_answer)

    return look


def _new_files(data: OwnData | None) -> Callable[[str], Path]:
    """Is there room for the recipe, and for the task file that some data need?"""

    def look(name: str) -> Path:
        from distillknob.planning.new_recipe import new_file

        for place in _places(Path(name), data):
            new_file(str(place))
        return Path(name)

    return look


def _places(output: Path, data: OwnData | None) -> list[Path]:
    return [output, *([output.with_name(f"{output.stem}-task.yaml")] if data is not None and data.needs_file else [])]


def _write(
    arguments: argparse.Namespace, output: Path, data: OwnData | None, where: Any, preflight: Preflight
) -> list[str]:
    """Write the recipe, and a task file where the data need one; nothing where no recipe can be had. Returns what was
    chosen, a line each."""
    from distillknob.planning.new_recipe import new_recipe
    from distillknob.planning.own_data import answer_length
    from distillknob.runs.files import atomic_write

    tasks, longest, why = arguments.tasks, arguments.max_new_tokens, ""
    choices: list[str] = []
    task_file = None
    if longest is not None:
        why = "as --max-new-tokens says"
    if data is not None:
        choices += data.choices
        if longest is None:
            longest, why = answer_length(data, preflight.sides([arguments.student])[0])
        if data.needs_file:
            (_, task_file) = _places(output, data)
            atomic_write(task_file, data.task_file(task_file.parent).encode())
        tasks = [f"own:{task_file}" if task_file is not None else f"{data.kind}:{arguments.data}"]
    try:
        recipe = new_recipe(
            teacher=arguments.teacher,
            student=arguments.student,
            target=arguments.target,
            tasks=tasks,
            engine=where,
            lora=None if arguments.full is None else not arguments.full,
            longest=longest,
            why_longest=why,
            preflight=preflight,
        )
    except BadInputError:
        if task_file is not None:
            task_file.unlink()
        raise
    atomic_write(output, recipe.text.encode())
    return [*choices, *recipe.choices]
