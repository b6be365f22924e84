"""The pages that are written from the program say what it says, and read well."""

from __future__ import annotations

import re

import pytest

from distillknob.cli.reference import written_pages
from distillknob.cli.reference.markdown import cell, sentence
from distillknob.cli.reference.pages import title_and_sentence
from distillknob.errors import BadInputError
from distillknob.stages import STAGES
from documents import DOCS


def test_the_generated_pages_are_up_to_date() -> None:
    stale = [page.name for page, text in written_pages(DOCS) if page.read_text(encoding="utf-8") != text]
    assert stale == [], "run `make reference`"


def test_every_stage_has_its_section_on_both_pages() -> None:
    commands, configs = ((DOCS / "reference" / name).read_text(encoding="utf-8") for name in ("cli.md", "configs.md"))
    for stage in STAGES.values():
        assert f"\n## `distillknob {stage.name}`\n" in commands
        assert f"\n## {stage.config_class.__name__}\n" in configs


def test_every_setting_says_what_it_does() -> None:
    for name in ("cli.md", "configs.md"):
        text = (DOCS / "reference" / name).read_text(encoding="utf-8")
        silent = re.findall(r"^\| `(?!action|shell)([^`]+)` \|.*\|  \|$", text, re.MULTILINE)
        assert silent == []


def test_the_list_for_models_has_the_form_that_it_should() -> None:
    """That of llmstxt.org: a title, a summary, then links with what stands behind each."""
    title, summary, *rest = (DOCS / "llms.txt").read_text(encoding="utf-8").split("\n\n")
    assert title == "# distillknob" and summary.startswith("> ")
    for part in rest:
        lines = [line for line in part.strip().split("\n") if line]
        assert all(re.fullmatch(r"## [\w-]+|- \[[^\]]+\]\([\w/-]+\.md\): \S.*", line) for line in lines), part


def test_text_becomes_a_cell_and_a_sentence() -> None:
    assert cell("|a| <b> `*c*`\n*d*") == "&#124;a&#124; \\<b> `*c*` \\*d\\*"
    assert sentence("print it") == "Print it."
    assert sentence("smollm2: a model") == "smollm2: a model."
    assert sentence("`a` is it!") == "`a` is it!"


def test_a_page_is_quoted_by_its_first_sentence() -> None:
    text = "# The `knob`\n\n<!-- a remark -->\n\n![a picture](b.svg)\n\nIt turns [a\nteacher](c.md). It does more.\n"
    assert title_and_sentence(text) == ("The knob", "It turns a teacher.")
    with pytest.raises(BadInputError, match="needs a title"):
        title_and_sentence("It turns.")
    with pytest.raises(BadInputError, match="no sentence before its first section"):
        title_and_sentence("# The knob\n\n## A section\n\nIt turns.")
