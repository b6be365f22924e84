"""The Python and YAML that the documents show name what is there. tests/test_readme.py runs what the README shows."""

from __future__ import annotations

import ast
from importlib import import_module
from typing import Any

import pytest
import yaml

import distillknob
from distillknob.config.fields import checked, fields_of
from distillknob.stages import STAGES
from documents import LIVE, Block, blocks

BLOCKS = [block for page in LIVE for block in blocks(page)]
PYTHON = [block for block in BLOCKS if block.language == "python"]
YAML = [block for block in BLOCKS if block.language == "yaml"]


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.place)
def test_python_imports_what_is_there_and_sets_fields_that_are(block: Block) -> None:
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] == "distillknob":
            for alias in node.names:
                assert hasattr(import_module(str(node.module)), alias.name), alias.name
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.endswith("Config"):
            cls = getattr(distillknob, node.func.id, None)
            names = {word.arg for word in node.keywords if word.arg is not None}
            assert cls is None or names <= fields_of(cls).keys(), names - fields_of(cls).keys()


@pytest.mark.parametrize("block", YAML, ids=lambda block: block.place)
def test_yaml_is_well_formed_and_sets_fields_that_are_there(block: Block) -> None:
    content = yaml.safe_load(block.text)
    for stage in STAGES.keys() & (content if isinstance(content, dict) else {}):
        cls: Any = STAGES[stage].config_class
        fields = fields_of(cls)
        for name, value in (content[stage] or {}).items():
            assert name in fields, f"{stage} has no field {name}"
            checked(fields[name], value)
