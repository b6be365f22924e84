"""docs/reference/cli.md: every command with its settings, read off the parser that reads the command line."""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Iterable, Iterator

from distillknob.cli.reference.library import library_links
from distillknob.cli.reference.markdown import WRITTEN, anchor, cell, code, sentence, table
from distillknob.cli.welcome import GROUPS, REST, WIDTH
from distillknob.stages import STAGES

HEADER = ("flag", "value", "default", "what it does")
COMMON = "Settings of every stage"
INTRODUCTION = f"""# Commands

{WRITTEN}

Every command of `distillknob`, with its settings. `distillknob COMMAND --help` says the same on the terminal.

- A **stage** (`diagnose`, `calibrate`, `distill` and so on) makes a run directory. Each field of its config is a flag.
- `--max-steps` and `--max_steps` are the same. A switch is turned off by `--no-NAME`.
- A flag that takes several values takes them with spaces between. JSON goes in quotes: `--options '{{"NAME": 1}}'`.
- A flag goes before the recipe, and the recipe before the default. [Recipes](recipes.md) says how a recipe is read.
- The exit status is 0 when the work is done, 2 for bad input, and 1 for a run that failed after a good start.
  [`gate`](#distillknob-gate) has its own.
"""


def commands_page() -> str:
    """Return the page whole. It loads the configs of all stages, which takes seconds."""
    from distillknob.cli.main import whole_parser

    parser = whole_parser()
    (chosen,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    about = {action.dest: str(action.help) for action in chosen._choices_actions}
    named = {name for names in GROUPS.values() for name in names}
    groups = {**GROUPS, REST: tuple(name for name in about if name not in named)}
    shared = _shared([chosen.choices[name] for name in STAGES])
    parts = [INTRODUCTION, *(_contents(groups, about)), _common(chosen.choices[next(iter(STAGES))], shared)]
    for name in (name for names in groups.values() for name in names):
        parts.append(_command(name, about[name], chosen.choices[name], shared if name in STAGES else set()))
    return "\n".join(parts)


def _contents(groups: dict[str, tuple[str, ...]], about: dict[str, str]) -> Iterator[str]:
    for title, names in groups.items():
        rows = [[f"[`{name}`](#{anchor(f'distillknob {name}')})", cell(about[name])] for name in names]
        yield f"**{title}**\n\n{table(('command', 'what it does'), rows)}\n"


def _shared(stages: Iterable[argparse.ArgumentParser]) -> set[str]:
    """The flags, and the recipe, that every stage has beside its config's fields."""
    named = [{action.dest for group in parser._action_groups[:2] for action in _shown(group)} for parser in stages]
    return set.intersection(*named)


def _common(parser: argparse.ArgumentParser, shared: set[str]) -> str:
    rows = [_row(action) for group in parser._action_groups[:2] for action in _shown(group) if action.dest in shared]
    rows = [[cell.replace(f"runs/{next(iter(STAGES))}", "runs/STAGE") for cell in row] for row in rows]
    return f"## {COMMON}\n\n{table(HEADER, rows)}\n"


def _command(name: str, about: str, parser: argparse.ArgumentParser, shared: set[str]) -> str:
    """The section of one command. Of a stage, what it shares with others is linked."""
    lines = [f"## `distillknob {name}`", "", sentence(parser.description or about), ""]
    usage = " ".join(parser.format_usage().split()).removeprefix("usage: ").replace("[-h] ", "").removesuffix(" [-h]")
    lines += ["```text", textwrap.fill(usage, WIDTH, subsequent_indent="    ", break_on_hyphens=False), "```", ""]
    positional, optional, *groups = parser._action_groups
    cls = STAGES[name].config_class if name in STAGES else None
    own = [group for group in groups if cls is None or group.title == cls.__name__]
    rows = [_row(one) for group in (positional, optional, *own) for one in _shown(group) if one.dest not in shared]
    lines += [table(HEADER, rows), ""] if rows else []
    if cls is None:
        return "\n".join([*lines, *(["```text", parser.epilog, "```", ""] if parser.epilog else [])])
    also = [f"- [settings of every stage](#{anchor(COMMON)})"]
    for group in groups:
        if not _shown(group):
            continue
        flags = ", ".join(code(_spelling(action)) for action in _shown(group))
        if str(group.title).startswith("inherited from "):
            base = str(group.title).removeprefix("inherited from ")
            also.append(f"- of [{base}](configs.md#{anchor(base)}): {flags}")
        elif group.title == "inherited, often set":
            also.append(f"- of {library_links(cls)}: {flags}; `--help-all` lists the others")
    return "\n".join([*lines, "It also takes:", "", *also, ""])


def _shown(group: argparse._ArgumentGroup) -> list[argparse.Action]:
    """What the help shows of a group; a field's other spellings are hidden there."""
    hidden = (argparse.SUPPRESS,)
    return [one for one in group._group_actions if one.help not in hidden and not isinstance(one, argparse._HelpAction)]


def _spelling(action: argparse.Action) -> str:
    """An argument as the documents write it: `--max-steps`, or a place's name."""
    if not action.option_strings:
        return str(action.metavar or action.dest)
    return action.option_strings[0].replace("_", "-")


def _row(action: argparse.Action) -> list[str]:
    text = str(action.help or "").replace("%%", "%")
    stated = re.search(r"\s*\((?:default: (.*)|(required))\)$", text, re.DOTALL)
    text = text[: stated.start()] if stated else text
    if text and not text.endswith("."):  # a field's help is a sentence already
        text = sentence(text)
    default = "" if stated is None or stated[2] else stated[1]
    if action.required or (stated and stated[2]):
        default = "required"
    elif default and (default[0] in "'[{" or " " not in default):
        default = code(default)
    return [code(_spelling(action)), _value(action), cell(default), cell(text)]


def _value(action: argparse.Action) -> str:
    """What an argument takes: a placeholder, its choices, or nothing for a switch."""
    if action.nargs == 0:
        return "switch"
    name = str(action.metavar or "") if action.option_strings else ""
    if action.choices is not None:
        name = "{" + ",".join(map(str, action.choices)) + "}"
    name = name.replace("|", " or ")
    if name.startswith("{"):
        name = name.strip("{}").replace(",", "`, `")
    return code(name) + (" …" if action.nargs == "+" and action.option_strings else "")
