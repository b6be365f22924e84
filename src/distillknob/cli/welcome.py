"""What somebody sees who types `distillknob` alone or `distillknob --help`: what to type next, and the commands in
groups, those that most people need first.

argparse has no groups of commands, so the list is set here. Left out on purpose: addresses of pages, which an installed
copy doesn't hold.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

WIDTH = 100
SENTENCE = (
    "distillknob measures why a student model learns badly from a teacher model, and changes the teacher so that "
    "students learn more from it, or so that it is harder to copy."
)
USAGE = "distillknob COMMAND [RECIPE] [--SETTING VALUE ...]"
# The three commands that a newcomer is shown, with what each does.
NEXT = {
    "distillknob diagnose --teacher zoo:teacher --student zoo:student --tasks math --output runs/first": "measure "
    "what stands in the way of a small pair that comes with distillknob (a minute or two on a CPU)",
    "distillknob demo quick --output runs/demo": "go the whole way on such a pair: diagnose, change the teacher, train "
    "students, see one page of results (some ten minutes, more on a busy machine)",
    "distillknob init": "write a recipe for your own two models and your own data: it asks what it has to know",
}
GROUPS = {
    "Start here": ("init", "diagnose", "distill", "evaluate", "report"),
    "Change the teacher, and ask what an extractor would get": ("calibrate", "defend", "attack", "gate"),
    "Choose a method": ("methods", "compare"),
    "Get a student to train": ("prune", "fetch"),
    "The whole way in one command": ("demo", "sweep"),
    "Look for traces": ("fingerprint", "memorization"),
}
REST = "More"  # every command that no group names


def greeting() -> str:
    """Return what `distillknob` alone prints: what it is, three commands to type next, and where help is."""
    lines = [textwrap.fill(SENTENCE, WIDTH), "", "Type next:"]
    for command, about in NEXT.items():
        lines += ["", textwrap.fill(about[0].upper() + about[1:], WIDTH, initial_indent="  ", subsequent_indent="  ")]
        lines.append(f"    {command}")
    lines += [
        "",
        "Help: `distillknob --help` lists the commands, `distillknob COMMAND --help` the settings of one.",
        "Something is wrong? `distillknob env` prints what a report of it needs.",
    ]
    return "\n".join(lines)


def command_groups(about: Mapping[str, str]) -> str:
    """Return the commands in groups, one line each: `about` says of every command what it does."""
    grouped = {name for names in GROUPS.values() for name in names}
    groups = {**GROUPS, REST: tuple(name for name in about if name not in grouped)}
    width = max(map(len, about))
    parts = [
        "\n".join([f"{title}:", *(f"  {name:<{width}}  {about[name]}" for name in names)])
        for title, names in groups.items()
    ]
    ends = "`distillknob COMMAND --help` says what a command takes. --dry-run checks it all and starts nothing."
    return "\n\n".join([*parts, ends])
