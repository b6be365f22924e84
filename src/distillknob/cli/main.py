"""The command line: its parser, and what becomes of errors.

Only what is light is imported here; a stage's own modules are loaded once it is chosen, so that `--help` answers at
once. Progress goes to stderr, results to stdout. Exit status: 0 done, 2 bad input (one message, nothing
written), 1 a run that failed after a good start; the gate has its own (`commands.GATE_STATUS`).
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import textwrap
from collections.abc import Collection, Sequence
from typing import NoReturn

from distillknob.cli.commands import COMMANDS, COULD_NOT_RUN, Commands
from distillknob.cli.completion import add_completion, completion_script
from distillknob.cli.extras import extras_of
from distillknob.cli.flags import add_flags, without_bool_values
from distillknob.cli.welcome import SENTENCE, USAGE, WIDTH, command_groups, greeting
from distillknob.config.fields import REFUSED
from distillknob.errors import BadInputError, RunFailedError, nearest
from distillknob.stages import STAGES, Stage

COMPLETION = "completion"  # the command whose answer needs the parser itself
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
        (chosen,) = (action for action in self._actions if isinstance(action, argparse._SubParsersAction))
        stage = chosen.choices.get(next((word for word in words if not word.startswith("-")), ""))
        if stage is not None:
            words = without_bool_values(words, stage)
        arguments, unknown = self.parse_known_args(words)
        if not unknown:
            return arguments
        parser = self if arguments.command is None else chosen.choices[arguments.command]
        flag = next((word.partition("=")[0] for word in unknown if word.startswith("-")), None)
        if flag is None:
            raise BadInputError(f"{parser.prog} can't use {' '.join(unknown)}: see {parser.prog} --help")
        if (reason := REFUSED.get(flag.lstrip("-").replace("-", "_"))) is not None:
            raise BadInputError(f"{flag} can't be set here: {reason}")
        flags = [name for action in parser._actions for name in action.option_strings]
        guess = nearest(flag.replace("-", "_"), flags) or nearest(flag, flags, otherwise=":")
        raise BadInputError(f"{parser.prog} has no flag {flag}{guess} see {parser.prog} --help")


def _parser(filled: Collection[str], *, inherited: bool = False) -> _Parser:
    """The parser. Only the `filled` stages have flags of their own, since that loads their config's class; `inherited`
    says whether their help lists those of transformers and TRL too."""
    parser = _Parser(
        prog="distillknob",
        usage=USAGE,
        description=textwrap.fill(SENTENCE, WIDTH),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="store_true", help="print the version and leave")
    # Their list is the epilog's, in groups.
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", help=argparse.SUPPRESS, prog="distillknob")
    for stage in STAGES.values():
        _add_stage(commands, stage, fields=stage.name in filled, inherited=inherited)
    for add_parser, _ in COMMANDS.values():
        add_parser(commands)
    add_completion(commands)
    parser.epilog = command_groups({action.dest: str(action.help) for action in commands._choices_actions})
    return parser


def whole_parser() -> argparse.ArgumentParser:
    """Return the parser with the settings of every stage. It takes seconds, as it loads all of their configs."""
    return _parser(STAGES)


def _add_stage(commands: Commands, stage: Stage, *, fields: bool, inherited: bool) -> None:
    """Add a stage's command. With `fields`, its config's class is loaded, and each of its settings is a flag."""
    usage = f"distillknob {stage.name} [RECIPE] [--output DIR] [--dry-run] [--FIELD VALUE ...]"
    texts = {"help": stage.summary, "description": stage.summary, "usage": usage}
    parser = commands.add_parser(stage.name, **texts, allow_abbrev=False)
    parser.add_argument(
        "recipe", nargs="?", metavar="RECIPE", help="a recipe: a YAML file, or the name of a shipped one"
    )
    parser.add_argument("--config", metavar="RECIPE", help="the recipe as a flag, which may stand anywhere")
    parser.add_argument("--output", metavar="DIR", help=f"directory of the run (default: runs/{stage.name})")
    parser.add_argument("--resume", action="store_true", help="go on with the unfinished run in --output")
    parser.add_argument("--dry-run", action="store_true", help="check everything, print the plan, start nothing")
    parser.add_argument(
        "--gpu", metavar="NAME", help="with --dry-run: estimate for this GPU, such as h100, in place of this machine"
    )
    about = "with --dry-run: estimate for the processes and the sharding of this file of accelerate launch"
    parser.add_argument("--accelerate", metavar="CONFIG.yaml", help=about)
    parser.add_argument("--json", action="store_true", help="print the result as JSON on stdout")
    extras_of(stage.name).add_flags(parser)
    if fields:
        hidden = add_flags(parser, stage.config_class, skip=OWN_FLAGS, inherited=inherited)
        parser.add_argument("--help-all", action="help", help="this help, with all inherited fields")
        more = f"{hidden} more fields are TRL's and transformers': --help-all lists them too. " if hidden else ""
        parser.epilog = f"{more}--FLAG may be written --FLAG true, and --no-FLAG as --FLAG false."


def _answer(command: str | None, words: Sequence[str]) -> int:
    """Do what the command line asks for, and return the exit status."""
    arguments = _parser([command] if command else [], inherited="--help-all" in words).parse(words)
    if arguments.version:
        from distillknob import __version__

        print(__version__)
        return 0
    if command is None:
        print(greeting())
        return 0
    if command == COMPLETION:
        from distillknob.runtime.machine import quiet_libraries

        quiet_libraries()
        print(completion_script(arguments.shell, whole_parser()))
        return 0
    if command in COMMANDS:
        _, answer = COMMANDS[command]
        return answer(arguments)
    from distillknob.cli.run_stage import run_stage

    return run_stage(arguments)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    _quiet_environment()
    _any_encoding()
    words = list(sys.argv[1:] if argv is None else argv)
    command = next((word for word in words if not word.startswith("-")), None)
    commands = [*STAGES, *COMMANDS, COMPLETION]
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
        return COULD_NOT_RUN.get(command or "", 1)
    except BadInputError as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":  # once a machine
            print(f"error: {error}", file=sys.stderr)
        return COULD_NOT_RUN.get(command or "", 2)
    except RunFailedError as error:
        print(f"failed: {error}", file=sys.stderr)
        return COULD_NOT_RUN.get(command or "", 1)
    except KeyboardInterrupt:
        goes_on = ": the same command with --resume goes on" if command in STAGES else ""
        print(f"interrupted{goes_on}", file=sys.stderr)
        return 130
