"""This module says what an answer on top of a page is, and writes all of them as a list.

A line has one figure and one interval at most: what more there is to say stands in the section that it links to. A
question that the run doesn't answer gets the command that would.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from distillknob.report.drawing.markup import Html, Section, command_line, join, tag
from distillknob.report.read import Source

Tone = Literal["good", "warn", "bad", "none"]
NAME = "glance"


@dataclass(frozen=True)
class Line:
    """A line answers in a word, then says of what, by which figure, in which section (its name) more stands, or which
    command would tell."""

    word: str
    text: str = ""
    figure: str = ""
    interval: str = ""
    tone: Tone = "none"
    section: str | None = None
    command: str | None = None

    def render(self, sections: Mapping[str, Section]) -> Html:
        """Return the line as markup. A link to a section that isn't among the page's `sections` is left out."""
        section = sections.get(self.section or "")
        return tag(
            "dd",
            tag("span", f"{self.word}{':' if self.text else ''}", class_=f"word {self.tone}"),
            f" {self.text}" if self.text else None,
            join(" ", tag("strong", self.figure)) if self.figure else None,
            join(" ", tag("small", self.interval, class_="range")) if self.interval else None,
            join(" ", _more(section)) if section else None,
            tag("div", command_line(self.command)) if self.command else None,
        )


@dataclass(frozen=True)
class Question:
    """A question is one that every reader has, and the function that answers it from a run; its title may depend on the
    run too. `leads` marks the one about the next step: a command that stands there isn't repeated under another."""

    title: str | Callable[[Source], str]
    answer: Callable[[Source], Sequence[Line]]
    leads: bool = False


def opening_section(source: Source, questions: Sequence[Question], sections: Mapping[str, Section]) -> Section:
    """Answer the questions. `sections` are those that the answers link to, by the names that their lines know."""
    answers = [(question, question.answer(source)) for question in questions]
    steps = {line.command for question, lines in answers if question.leads for line in lines}
    answered = [
        tag(
            "div",
            tag("dt", question.title if isinstance(question.title, str) else question.title(source)),
            [(line if question.leads else _once(line, steps)).render(sections) for line in lines],
        )
        for question, lines in answers
    ]
    return Section(NAME, "At a glance", None, tag("dl", answered, class_="answers"))


def _once(line: Line, steps: Collection[str | None]) -> Line:
    """The line without its command where that is the next step anyway."""
    if line.command is None or line.command not in steps:
        return line
    return replace(line, text=f"{line.text.rstrip('.')}; the next step measures it.", command=None)


def _more(section: Section) -> Html:
    """The link to a section, short to the eye and with the section's title to the ear."""
    return tag("a", "more", href=f"#{section.name}", class_="where", aria_label=f"more: {section.title}")
