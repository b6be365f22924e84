"""The rows of methods, and that what shows them reads or equals them."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from distilling import NEEDED
from distillknob.cli.flags import add_flags
from distillknob.cli.methods_page import method_text, methods_page
from distillknob.distillation import losses
from distillknob.distillation.config import DistillConfig
from distillknob.distillation.losses import LOSSES
from distillknob.distillation.selection import SELECTIONS
from distillknob.distillation.teacher_context import CONTEXTS
from distillknob.distillation.token_choice import CHOICES
from distillknob.distillation.traces import SOURCES
from distillknob.errors import BadInputError
from distillknob.methods import METHODS
from distillknob.methods.systems import SYSTEMS
from distillknob.report.names import method_name

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "methods.md"


def test_the_page_of_methods_is_what_the_command_writes() -> None:
    assert PAGE.read_text(encoding="utf-8") == methods_page(), "distillknob methods --page > docs/reference/methods.md"


def test_every_method_says_what_it_is_and_when_to_take_it() -> None:
    for name, method in METHODS.items():
        for text in (method.summary, method.formula, method.when):
            assert text.strip() == text and text, name
        assert method.summary.endswith(".") and method.when.endswith("."), name
        assert name in method_text(name) and method.summary.split()[0] in method_text(name)


def test_each_of_the_forty_four_systems_has_a_row_that_leads_to_methods() -> None:
    assert len(SYSTEMS) == 44 and len({one.paper for one in SYSTEMS}) == 44
    for one in SYSTEMS:
        assert re.fullmatch(r"\d{4}\.\d{5}", one.paper) and one.note.endswith(".")
        assert set(one.at) <= METHODS.keys(), one.name
        assert not (one.standing == "no place" and one.at)
        assert f"| {one.name} |" in methods_page()


def test_an_unknown_method_is_refused_with_the_nearest() -> None:
    with pytest.raises(BadInputError, match="did you mean 'gkd'"):
        method_text("gdk")


def test_every_method_has_its_own_label_and_a_report_tells_it() -> None:
    labels = [method.label for method in METHODS.values()]
    assert len(set(labels)) == len(labels)
    assert [method_name(name) for name in METHODS] == labels
    assert all(re.fullmatch(r"\d{4}\.\d{5}", method.paper) for method in METHODS.values() if method.paper)


def test_every_part_of_every_method_is_there() -> None:
    for name, method in METHODS.items():
        assert (
            method.traces in SOURCES
            and method.selection in SELECTIONS
            and method.tokens in CHOICES
            and method.context in CONTEXTS
        )
        assert DistillConfig(method=name, **NEEDED.get(name, {})).objective == method


def test_the_help_shows_the_choices_of_each_part() -> None:
    parser = argparse.ArgumentParser(prog="distill", allow_abbrev=False)
    add_flags(parser, DistillConfig, inherited=False)
    text = " ".join(parser.format_help().split())
    for choices in (SOURCES, SELECTIONS, CHOICES, CONTEXTS):  # as a placeholder, or listed where that has no room
        ways = "{" + ",".join(choices) + "}", f"One of {', '.join(choices)}."
        assert any(re.sub(r"\s", "", way) in re.sub(r"\s", "", text) for way in ways)
    assert f"One of {', '.join(METHODS)}" in text
    assert f"One of {', '.join(LOSSES)}" in text


def test_every_file_of_losses_has_a_row() -> None:
    """A loss that nobody can name would be dead code; `stored` is the divergences' own, for a teacher on disk."""
    folder = Path(losses.__file__).parent
    files = {path.stem for path in folder.glob("*.py")} - {
        "__init__",
        "base",
        "blocks",
        "cross_tokenizer",
        "stored",
        "token_loss",
    }
    homes = {type(make(DistillConfig())).__module__.rpartition(".")[2] for make in LOSSES.values()}
    assert files == homes
