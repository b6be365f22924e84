"""The documents as tests read them: their pages, blocks of code, and the commands in those."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")),
    *sorted(DOCS.rglob("*.md")),
]
# Records of their day: the commands in them ran with the code of then, and aren't changed when a flag is.
RECORDS = {DOCS / "research" / f"{name}.md" for name in ("lab-notebook", "benchmarks", "evidence")}
RECORDS |= {page for page in PAGES if page.is_relative_to(DOCS / "evidence")}
LIVE = [page for page in PAGES if page not in RECORDS]
SHELLS = ("sh", "bash", "console")
EXCUSE = "not parsed:"


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@dataclass(frozen=True)
class Block:
    """A fenced block of code. `excuse` is why its commands can't be held to the program: the text behind
    `<!-- not parsed:` on the line above it."""

    page: str
    line: int
    language: str
    text: str
    excuse: str | None

    @property
    def place(self) -> str:
        return f"{self.page}, line {self.line}"

    def commands(self) -> Iterator[list[str]]:
        """The words of each command of a shell's block. In a `console` only what follows a prompt is one."""
        text = re.sub(r"\\\n\s*", " ", self.text)
        for line in text.splitlines():
            line = line.strip()
            if self.language == "console":
                if not line.startswith("$ "):
                    continue
                line = line.removeprefix("$ ")
            yield from commands_of(line)


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, in a list's item too."""
    text = page.read_text(encoding="utf-8")
    for fence in re.finditer(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```$", text, re.MULTILINE | re.DOTALL):
        above = text[: fence.start()].rstrip()
        remark = re.search(rf"<!--\s*{EXCUSE}\s*((?:(?!-->).)*?)\s*-->$", above, re.DOTALL)
        line = text.count("\n", 0, fence.start()) + 1
        yield Block(name_of(page), line, fence[2], fence[3], remark[1] if remark else None)


def commands_of(line: str) -> Iterator[list[str]]:
    """The words of each command in a line of a shell, without comment, redirection and settings of the environment."""
    line = re.sub(r"(^|\s)#(\s.*)?$", "", line)
    line = re.sub(r"\d?>&\d", "", line)
    words = shlex.shlex(line, posix=True, punctuation_chars=True)
    words.whitespace_split, words.commenters = True, ""
    command: list[str] = []
    redirects = False
    for word in [*words, ";"]:
        if set(word) <= set("<>"):
            redirects = True
        elif set(word) <= set(";&|()"):
            if command:
                yield command
            command = []
        elif redirects:
            redirects = False
        elif command or not (re.fullmatch(r"\w+=.*", word) or word in ("do", "then", "time", "nohup")):
            command.append(word)


def program_words(command: list[str]) -> list[str] | None:
    """What a command gives to distillknob, called by its name or as a module; None for another program."""
    if command[0].rpartition("/")[2] == "distillknob":
        return command[1:]
    if ("-m", "distillknob") in itertools.pairwise(command):
        return command[command.index("distillknob") + 1 :]
    return None
