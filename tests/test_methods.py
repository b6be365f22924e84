"""The rows of methods, and that what shows them reads or equals them."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from distillknob.cli.flags import add_flags
from distillknob.distillation import losses
from distillknob.distillation.config import DistillConfig
from distillknob.distillation.losses import LOSSES
from distillknob.distillation.selection import SELECTIONS
from distillknob.distillation.teacher_context import CONTEXTS
from distillknob.distillation.token_choice import CHOICES
from distillknob.distillation.traces import SOURCES
from distillknob.methods import METHODS, Method
from distillknob.report.names import method_name

GUIDE = Path(__file__).parents[1] / "docs" / "guide.md"


def guide_row(name: str, method: Method) -> str:
    paper = "" if method.paper is None else f"[{method.paper}](https://arxiv.org/abs/{method.paper})"
    traces = f"`{method.traces}`" + (f" by `{method.selection}`" if method.selects else "")
    parts = (f"`{method.loss}`", traces, f"{method.lmbda:g}", f"`{method.tokens}`", f"`{method.context}`")
    return f"| {' | '.join((f'`{name}`', method.label, paper, *parts))} |".replace("|  |", "| |")


def test_the_guide_s_table_holds_every_method_as_it_is() -> None:
    lines = [line.strip() for line in GUIDE.read_text(encoding="utf-8").splitlines()]
    start = lines.index("| `--method` | | paper | loss | traces | λ | tokens | context |") + 2
    assert lines[start : start + len(METHODS) + 1] == [*(guide_row(*row) for row in METHODS.items()), ""]


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
        assert DistillConfig(method=name).objective == method


def test_the_help_shows_the_choices_of_each_part() -> None:
    parser = argparse.ArgumentParser(prog="distill", allow_abbrev=False)
    add_flags(parser, DistillConfig, inherited=False)
    text = " ".join(parser.format_help().split())
    for choices in (SOURCES, SELECTIONS, CHOICES, CONTEXTS):
        assert re.sub(r"\s", "", "{" + ",".join(choices) + "}") in re.sub(r"\s", "", text)
    assert f"One of {', '.join(METHODS)}" in text
    assert "One of hard_label, forward_kl, " in text and "spans, uld" in text


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
