"""What `from distillknob import …` offers: a name that is added, renamed or dropped changes this list."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

import distillknob

PUBLIC = """
AttackConfig BadInputError CacheConfig CalibrationConfig CalibrationTrainer CompareConfig DefendConfig DemoConfig
DiagnoseConfig DistillConfig DistillTrainer EvaluateConfig Example Finding FingerprintConfig LanguageModel METHODS
MemorizationConfig Method PruneConfig Run RunFailedError Sampling SweepConfig Task TeacherCache __version__ attack
build_report cache_teacher calibrate compare compare_diagnoses defend demo diagnose distill divergence evaluate
fingerprint fused_divergence gate generate get_task interval load_model load_run memorization paired_difference
pass_at_k prune register_task sweep task_names
token_logprobs
""".split()


def test_the_public_names_are_these() -> None:
    assert sorted(distillknob.__all__) == sorted(PUBLIC)
    assert set(PUBLIC) <= set(dir(distillknob))


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_there_and_says_what_it_is(name: str) -> None:
    value = getattr(distillknob, name)
    if callable(value):
        assert value.__name__ == name, "one name for one thing"
        assert value.__doc__


def test_type_checkers_see_what_is_looked_up() -> None:
    tree = ast.parse(Path(distillknob.__file__).read_text("utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: f"{node.module}".removeprefix("distillknob.")
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname == alias.name  # so that strict type checkers take it for public
    }
    assert seen == distillknob._HOME_OF
    assert resources.files("distillknob").joinpath("py.typed").is_file()


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        distillknob.nothing  # noqa: B018


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = "{'torch', 'transformers', 'trl', 'numpy', 'yaml'}"
    code = f"import sys, distillknob; print(sorted({heavy} & set(sys.modules)))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"
