"""Every command that a document shows is one that the program takes. Nothing is run.

Commands stand in blocks of sh, bash or console. A block is left out where the line above it says why:
`<!-- not parsed: … -->`. Pages of `documents.RECORDS` are left out whole: they record what was run on a day.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from distillknob.cli.flags import given_flags
from distillknob.cli.main import _Parser, whole_parser
from distillknob.config.fields import checked, fields_of
from distillknob.config.recipe import read_recipe, stage_values
from distillknob.config.shipped import find_accelerate, find_policy, find_recipe, recipe_path
from distillknob.errors import BadInputError
from distillknob.methods import METHODS
from distillknob.stages import STAGES
from documents import LIVE, ROOT, SHELLS, Block, blocks, commands_of, name_of, program_words

BLOCKS = [block for page in LIVE for block in blocks(page) if block.language in SHELLS]


@cache
def parser() -> _Parser:
    made = whole_parser()
    assert isinstance(made, _Parser)
    return made


@cache
def targets() -> set[str]:
    """The targets of the Makefile, those in variables too."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    values = dict(re.findall(r"^(\w+) \??:?= (.*)$", text, re.MULTILINE))
    names = re.findall(r"^([^\s:#=]+):(?!=)", text, re.MULTILINE)
    return {re.sub(r"\$\((\w+)\)", lambda match: values[match[1]], name) for name in names}


def check(command: list[str]) -> None:
    """Raise BadInputError for a command that its program wouldn't take."""
    words = program_words(command)
    if words is not None:
        check_distillknob(words)
    elif command[0] == "make":
        for target in command[1:]:
            if "=" not in target and target not in targets():
                raise BadInputError(f"the Makefile has no target {target}")
    elif command[0].startswith("python") and command[1:2] and command[1].startswith("benchmarks/"):
        check_script(ROOT / command[1], command[2:])


def check_script(script: Path, words: list[str]) -> None:
    """A benchmark's flags stand in its text; it isn't loaded, which takes seconds for each."""
    if not script.is_file():
        raise BadInputError(f"there is no {script.relative_to(ROOT)}")
    text = script.read_text(encoding="utf-8")
    for flag in (word.partition("=")[0] for word in words if word.startswith("--")):
        if f'"{flag}"' not in text:
            raise BadInputError(f"{script.relative_to(ROOT)} has no flag {flag}")


def check_distillknob(words: list[str]) -> None:
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            arguments = parser().parse(words)
    except SystemExit as left:
        if left.code:
            raise BadInputError("it ends with an error") from left
        return  # --help
    if arguments.command in STAGES:
        check_stage(arguments)
    elif arguments.command == "gate" and is_shipped(arguments.policy):
        find_policy(arguments.policy)
    elif arguments.command == "recipe" and arguments.name is not None:
        recipe_path(arguments.name)
    elif arguments.command == "methods" and arguments.name not in (None, *METHODS):
        raise BadInputError(f"there is no method {arguments.name}")


def check_stage(arguments: argparse.Namespace) -> None:
    """The values of a stage's flags, and with a recipe that is here all that it sets, too."""
    cls: Any = STAGES[arguments.command].config_class
    given = {name: value for name, value in given_flags(arguments, cls).items() if "$" not in str(value)}
    recipe = arguments.recipe or arguments.config
    if recipe is not None and (is_shipped(recipe) or Path(recipe).exists()):
        stage_values(cls, arguments.command, read_recipe(find_recipe(recipe)), given)
    for name, value in given.items():
        checked(fields_of(cls)[name], value)
    if arguments.accelerate is not None and is_shipped(arguments.accelerate):
        find_accelerate(arguments.accelerate)
    if (arguments.gpu or arguments.accelerate) and not arguments.dry_run:
        raise BadInputError("--gpu and --accelerate go with --dry-run")


def is_shipped(name: str) -> bool:
    """A name without folder and ending can only be that of a file which comes with distillknob."""
    return Path(name).name == name and not Path(name).suffix


def faults(block: Block) -> list[str]:
    messages = []
    for command in block.commands():
        try:
            check(command)
        except BadInputError as error:
            messages.append(f"{block.place}: {' '.join(command)}\n  {error}")
    return messages


def test_every_command_in_a_block_is_taken() -> None:
    messages = [message for block in BLOCKS if block.excuse is None for message in faults(block)]
    assert not messages, "\n" + "\n".join(messages)


def test_an_excuse_gives_a_reason_and_is_still_needed() -> None:
    for block in BLOCKS:
        if block.excuse is not None:
            assert len(block.excuse.split()) > 2, f"{block.place}: say why"
            assert faults(block), f"{block.place} parses: leave its excuse out"


def test_flags_in_running_text_are_those_of_their_command() -> None:
    """Such as `distillknob diagnose --compare`; values stand there as placeholders, and aren't looked at."""
    (chosen,) = (action for action in parser()._actions if isinstance(action, argparse._SubParsersAction))
    messages = []
    for page in LIVE:
        text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        for code in re.findall(r"`distillknob ([a-z][^`]*)`", text):
            name, *words = code.split()
            if name not in chosen.choices:
                messages.append(f"{name_of(page)}: there is no command {name}")
                continue
            known = {flag for action in chosen.choices[name]._actions for flag in action.option_strings}
            flags = [word.partition("=")[0] for word in words if word.startswith("--")]
            messages += [f"{name_of(page)}: {name} has no flag {flag}" for flag in flags if flag not in known]
    assert not messages, "\n" + "\n".join(messages)


@pytest.mark.parametrize(
    "line, message",
    [
        ("distillknob distil --method gkd", "invalid choice: 'distil'"),
        ("distillknob distill --metod gkd", "no flag --metod, did you mean"),
        ("distillknob distill --method gdk", "did you mean 'gkd'"),
        ("distillknob calibrate --eta much", "must be a number"),
        ("distillknob calibrate quik --eta 0.5", "did you mean 'quick'"),
        ("distillknob calibrate my.yaml --gpu h100", "go with --dry-run"),
        ("distillknob evaluate my.yaml …", "can't use …"),
        ("distillknob gate runs/attack", "--policy"),
        ("distillknob gate runs/attack --policy first-glance", "first-look"),
        ("cd x && FOO=1 accelerate launch --num_processes 2 -m distillknob calibrate --etta 1", "no flag --etta"),
        ("for eta in 0 1; do distillknob calibrate --eta $eta --sed 1; done", "no flag --sed"),
        ("make nothing QUICK=1", "no target nothing"),
        ("python benchmarks/gpu.py --nothing", "no flag --nothing"),
        ("python benchmarks/nothing.py", "there is no benchmarks/nothing.py"),
    ],
)
def test_a_planted_fault_is_seen(line: str, message: str) -> None:
    with pytest.raises(BadInputError) as refused:
        for command in commands_of(line):
            check(command)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    "line",
    [
        "distillknob calibrate --config my.yaml --eta -0.25 --output runs/x   # a comment; with signs",
        "distillknob evaluate --models http://localhost:8000/v1#name ./student > scores.txt 2>&1",
        "distillknob distill --options '{\"NAME\": 1}' --tokens-per-step null | tee log",
        "distillknob calibrate --help",
        "make .venv/.installed && make demo QUICK=1",
        "python benchmarks/gpu.py --shapes qwen3",
        "pip install 'distillknob[gguf]'",
    ],
)
def test_what_is_right_passes(line: str) -> None:
    for command in commands_of(line):
        check(command)
