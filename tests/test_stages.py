"""Every row of the table of stages has all its parts. A part that a new stage lacks fails here by its name."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import pytest

from distillknob.cli.extras import EXTRAS
from distillknob.cli.text import TEXTS
from distillknob.config.shared import StageConfig
from distillknob.experiments.plan import Cell, steps
from distillknob.planning.workload import WORKLOADS
from distillknob.report.page import PAGES
from distillknob.report.read import PLACES
from distillknob.stages import CHAINED, EXPERIMENTS, STAGES
from result_types import STAGES as RESULT_TYPES


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_has_all_its_parts(name: str) -> None:
    stage = STAGES[name]
    assert stage.name == name and stage.summary
    cls: type[Any] = stage.config_class
    assert dataclasses.is_dataclass(cls), "a config"
    first, second, resume, *more = inspect.signature(stage.run).parameters.values()
    assert (first.name, second.name, resume.name) == ("config", "output", "resume"), "a function (config, output, *, …)"
    assert resume.kind is inspect.Parameter.KEYWORD_ONLY and resume.default is False, "a function with resume=False"
    assert all(one.default is not inspect.Parameter.empty for one in more), "a function that needs nothing else"
    assert [*inspect.signature(stage.check).parameters] == ["config", "preflight"], "a check(config, preflight)"
    assert name in TEXTS, "a text on the terminal: cli.text.TEXTS"
    assert name in PAGES, "a page, or None: report.page.PAGES"
    if stage.kind == "stage" and PAGES[name] is not None:
        assert name in PLACES, "where its page looks for its run: report.read.PLACES"
    assert name in RESULT_TYPES, "the type of its result: results.stages, and in tests/result_types.py"
    assert (name in WORKLOADS) is (stage.kind == "stage"), "what a dry run counts: planning.workload.WORKLOADS"
    if stage.kind == "stage":
        config: StageConfig = STAGES[name].config_class()
        assert config.tasks and config.models_read and config.answer_limit is None, "what config.shared asks for"
        assert hasattr(config, config.answer_field), "the field that bounds answers"
    assert not (stage.chained and stage.kind == "experiment")


def test_no_part_is_of_a_stage_that_has_no_row() -> None:
    for parts in (TEXTS, PAGES, WORKLOADS, EXTRAS):
        assert parts.keys() <= STAGES.keys()


def test_experiments_chain_stages_that_a_dry_run_can_count() -> None:
    assert EXPERIMENTS == ("demo", "sweep", "attack", "compare")
    assert set(CHAINED) <= WORKLOADS.keys()


def test_a_stage_is_called_chained_where_a_cell_runs_it() -> None:
    """A cell with everything in it: calibrated, diagnosed, and with a student."""
    cell = Cell(0.5, seed=0, methods=("gkd",), lens=True)
    assert {step.stage.name for step in steps(cell, {})} == set(CHAINED)
