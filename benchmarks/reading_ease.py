"""How easy a page of the documentation is to read. Prints a Markdown table, a row for each page.

    python benchmarks/reading_ease.py README.md docs/tutorial.md

For a page as it was at a commit: `git show COMMIT:README.md > before.md`, and give it before.md.

What counts as running text: paragraphs and list items. Headings, code blocks, tables, pictures, HTML comments and the
addresses of links are left out; the words of a link stay.

- **words a sentence**: a sentence ends at `.`, `!` or `?` before a space, and at the end of a paragraph or list item;
  one at a colon goes on. A word is a run of characters between spaces with a letter in it, so `--eta` is one.
- **figures per 100 words**: a figure is a number with its sign, point and commas; one inside a word (`Qwen3`) isn't,
  nor is the number of a paper on arXiv. An interval is two figures.
- **words before the first command**: running text above the first block of shell commands (```sh or ```console).
- **reading ease**: Flesch's 206.835 − 1.015 · words a sentence − 84.6 · syllables a word. 60 and more is plain English,
  below 30 a scientific paper.

Left out on purpose: a dictionary of syllables. They are counted as groups of vowels, less a silent e at the end, which
is off by some per cent for a text and by more for code words. So compare pages by this script alone, not with figures
of others. No formula knows whether a page can be understood; this one sees long sentences and long words.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

FENCE = re.compile(r"^ *(```|~~~).*?^ *\1 *$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^ *```(?:sh|console) *$", re.MULTILINE)
INDENTED = re.compile(r"(?:(?<=\n\n)|\A)(?: {4}[^\n]*\n(?:\n(?= {4}))?)+")
FIGURE = re.compile(r"(?<![\w.])[−+-]?\d[\d,.]*(?![\w])")


def running_text(page: str) -> str:
    """Return a page's running text, one sentence a line."""
    page = re.sub(r"<!--.*?-->", "", FENCE.sub("", page), flags=re.DOTALL)
    page = re.sub(r"^(?: *\||#).*$", "", INDENTED.sub("", page), flags=re.MULTILINE)
    page = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", page)
    page = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", page)
    page = re.sub(r"https?://\S+|arXiv[ :]\d{4}\.\d{4,5}|<[^>\n]*>", "", page)
    page = re.sub(r"^ *(?:[-*]|\d+\.|>) +", "\n\n", page, flags=re.MULTILINE)
    paragraphs = re.split(r"\n\s*\n", re.sub(r"[*_`]+", "", page))
    return "\n".join(re.sub(r"(?<=[.!?])\s+", "\n", " ".join(part.split())) for part in paragraphs)


def words_of(text: str) -> list[str]:
    return [word for word in text.split() if re.search(r"[^\W\d_]", word)]


def syllables(word: str) -> int:
    """Return the groups of vowels of a word, at least one; a silent e at the end doesn't count."""
    letters = re.sub(r"[^a-z]", "", word.lower())
    return max(1, len(re.findall(r"[aeiouy]+", re.sub(r"(?<=[^aeiouyl])e$", "", letters))))


def row(path: Path) -> str:
    """Return a page's row of the table."""
    page = path.read_text(encoding="utf-8")
    text = running_text(page)
    words = words_of(text)
    sentences = [line for line in text.splitlines() if words_of(line)]
    length = len(words) / len(sentences)
    ease = 206.835 - 1.015 * length - 84.6 * sum(map(syllables, words)) / len(words)
    command = COMMAND.search(page)
    before = len(words_of(running_text(page[: command.start()]))) if command else "–"
    figures = 100 * len(FIGURE.findall(text)) / len(words)
    return f"| {path} | {len(words)} | {length:.1f} | {figures:.1f} | {before} | {ease:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", type=Path, nargs="+", help="Markdown files")
    pages = parser.parse_args().pages
    print("| page | words | words a sentence | figures per 100 words | words before the first command | reading ease |")
    print("|---|---|---|---|---|---|")
    for path in pages:
        print(row(path))


if __name__ == "__main__":
    main()
