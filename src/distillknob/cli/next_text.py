"""This module ends a stage's text on the terminal: with what its page answers to "What to do next?"."""

from __future__ import annotations

from distillknob.cli.layout import wrapped
from distillknob.report.opening.next_step import next_step
from distillknob.report.read import read_source
from distillknob.runs.run import Run


def next_text(run: Run) -> str:
    """Say what to do next, with the command to copy on a line of its own; nothing where nothing follows."""
    parts = []
    for line in next_step(read_source(run.path)):
        if line.text:
            parts.append(wrapped(f"{line.word} ({line.text.rstrip('.')})", "next: "))
        parts += [f"    {line.command}"] if line.command else []
    return "\n".join(parts)
