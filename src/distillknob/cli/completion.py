"""`distillknob completion SHELL`: the script by which a shell completes commands and settings.

shtab writes it from the parsers. It was weighed against argcomplete, which knows the same shells but starts Python at
each press of TAB: a stage's settings are its config's fields, whose modules take seconds to load. shtab's script holds
them, so that a shell answers at once and `distillknob` itself starts no slower. It is small, without dependencies, and
loaded here alone. Left out on purpose: values that aren't listed anywhere, such as models.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from distillknob.config.fields import choices_of, fields_of
from distillknob.stages import STAGES

SHELLS = ("bash", "zsh", "fish")
FILES = {"--config", "--output", "--data", "--policy", "--card", "--accelerate", "RECIPE", "run"}
USE = """to use it, write the script once (again after an update):
  bash  distillknob completion bash > ~/.local/share/bash-completion/completions/distillknob
  zsh   distillknob completion zsh > "${fpath[1]}/_distillknob"
  fish  distillknob completion fish > ~/.config/fish/completions/distillknob.fish"""


def add_completion(commands: Any) -> None:
    """Add the command's parser."""
    completion = commands.add_parser(
        "completion",
        help="print the script with which your shell completes commands and settings",
        description="Print the script with which your shell completes commands and settings.",
        epilog=USE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    completion.add_argument("shell", choices=SHELLS)


def completion_script(shell: str, parser: argparse.ArgumentParser) -> str:
    """Return the script for a shell, of a parser that has every command with its settings."""
    import shtab

    (chosen,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    chosen.help = "command"  # shtab leaves out what has no help
    for name, command in chosen.choices.items():
        config: Any = STAGES[name].config_class if name in STAGES else None
        _offer(command, {} if config is None else fields_of(config))
    script: str = shtab.complete(parser, shell)
    return script


def _offer(parser: argparse.ArgumentParser, fields: Mapping[str, Any]) -> None:
    """Offer each setting in the spelling of the documents, `--max-steps`, the values that a setting can have, and files
    where one is meant."""
    import shtab

    hidden = [action for action in parser._actions if action.help == argparse.SUPPRESS]
    shown = {action.dest: action for action in parser._actions if action not in hidden}
    for action in hidden:
        if action.dest in shown:
            action.help = shown[action.dest].help
    for dest in shown.keys() & {action.dest for action in hidden}:
        shown[dest].help = argparse.SUPPRESS
    for action in parser._actions:
        field, hint = fields.get(action.dest, (None, None))
        if field is not None and action.nargs != 0 and choices_of(hint, field):
            action.choices = [str(value) for value in choices_of(hint, field)]
        elif {*action.option_strings, str(action.metavar), action.dest} & FILES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]  # where shtab looks for it
