"""Who may import whom. The table below is the rule; a module that isn't in it fails until it is.

Every import counts: at the top, inside a function, under TYPE_CHECKING, by `importlib.import_module("…")`.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "distillknob"
ANY = frozenset({"*"})
# `traps.diagnose` is what the package `traps` calls its stage.
STAGES = frozenset({"calibrate", "distill", "evaluate", "traps.stage", "traps.diagnose", "attack", "demo", "sweep"})
PARTS = frozenset(
    {
        "errors",
        "processes",
        "progress",
        "stats",
        "files",
        "journal",
        "runs",
        "config",
        "tasks",
        "models",
        "served",
        "served_chat",
        "generation",
        "measure",
        "scoring",
        "same_text",
        "verdicts",
        "model_record",
        "identity",
        "template_date",
        "preflight",
    }
)
LOSSES = frozenset({"divergence_kernel", "divergences", "fused", "estimators"})
TRAINERS = frozenset({"torch", "transformers", "trl", "peft", "accelerate", "datasets", "numpy", "safetensors", "tqdm"})


@dataclass(frozen=True)
class Rule:
    """What a module may import: distillknob's modules, other packages (the standard library always), and what only
    inside a function or for type checkers. A name stands for the package below it too; "*" for everything."""

    own: frozenset[str] = frozenset()
    others: frozenset[str] = frozenset()
    lazily: frozenset[str] = frozenset()
    others_lazily: frozenset[str] = frozenset()
    never: frozenset[str] = frozenset()


def rule(own: str = "", others: str = "", lazily: str = "") -> Rule:
    return Rule(frozenset(own.split()), frozenset(others.split()), frozenset(lazily.split()))


def stage(name: str, *also: str) -> Rule:
    """A stage imports what lies below it and never another stage: stages hand over run directories."""
    return Rule(PARTS | LOSSES | {"training", "traps", name, *also}, TRAINERS, never=STAGES - {name})


# The most specific name wins: `traps.stage` before `traps`.
RULES = {
    "errors": rule(),
    "progress": rule("processes", "tqdm"),
    "processes": Rule(others_lazily=frozenset({"torch", "accelerate"})),
    "divergence_kernel": rule("errors", "torch"),
    "token_stats": rule("divergence_kernel", "torch"),
    "divergences": rule("divergence_kernel token_stats errors", "torch"),
    "fused": rule("divergences divergence_kernel errors", "torch"),
    "estimators": rule("divergences divergence_kernel errors", "torch"),
    "stats": rule("errors", "numpy"),
    "files": rule("errors"),
    "verdicts": rule("stats"),
    "model_record": rule("files processes verdicts"),
    "journal": rule("errors files processes", "torch"),
    "environment": rule(),
    "lock": rule("errors files processes"),
    "manifest": rule("errors files lock"),
    "records": rule("errors files", "yaml"),
    "runs": rule("environment errors files lock manifest processes records"),
    "hub": rule("errors processes", "huggingface_hub"),
    "checkpoint_files": rule("errors", "safetensors"),
    "template_date": rule("errors processes", "transformers"),
    "identity": rule("checkpoint_files errors files hub models processes records runs tasks"),
    "fields": rule("errors"),
    "flags": rule("fields"),
    "inherited": rule("errors fields"),
    "config": rule("errors fields", "yaml"),
    "tasks": Rule(
        frozenset({"tasks", "errors", "hub"}),
        frozenset({"datasets", "huggingface_hub", "math_verify", "sympy", "yaml"}),
        others_lazily=frozenset({"numpy"}),
    ),
    "tasks.reward_model": Rule(
        frozenset({"tasks", "errors", "hub", "post", "template_date"}),
        others_lazily=frozenset({"torch", "transformers", "safetensors"}),
    ),
    "models": rule(
        "checkpoint_files errors families hub processes template_date",
        "torch transformers peft safetensors huggingface_hub jinja2",
    ),
    "caches": rule("", "torch transformers"),
    "families": rule("caches errors heads", "torch transformers"),
    "architectures": rule("caches errors families models", "torch transformers huggingface_hub"),
    "hardware": rule("errors", "torch accelerate yaml"),
    "preflight": rule("architectures errors families models processes tasks teacher_context", "transformers"),
    "shipped": rule("errors"),
    "spans": rule("errors journal models scoring", "torch"),
    "same_text": rule("journal models scoring served", "torch transformers"),
    "generation": rule(
        "caches families models tasks errors journal processes progress served served_chat", "torch transformers vllm"
    ),
    "scoring": rule(
        "families models tasks divergences errors heads journal processes progress served shared_prefix",
        "torch transformers",
    ),
    "measure": rule("errors generation journal models processes served served_chat tasks", "numpy transformers"),
    "gradients": rule("divergences errors heads journal models processes progress same_text scoring traps", "torch"),
    "traps": rule("traps divergences estimators stats errors", "torch numpy"),
    "traps.compare": rule("traps runs files stats errors", "torch numpy"),
    "traps.gather": rule(
        "gradients generation journal measure models same_text scoring spans tasks traps.scored", "torch"
    ),
    "traps.stage": stage("traps.stage"),
    "training": rule(
        "checkpoint_files config errors files forward model_record models processes progress runs template_date",
        " ".join(TRAINERS),
    ),
    "calibrate": stage(
        "calibrate",
        "calibration_check",
        "calibration_config",
        "calibration_trainer",
        "guard",
        "held_out",
        "rollout_rewards",
    ),
    "calibration_check": stage("calibration_check", "calibration_config", "held_out"),
    "held_out": stage("held_out", "calibration_config"),
    "calibration_config": stage("calibration_config", "adapters", "inherited", "rollouts"),
    "calibration_trainer": stage(
        "calibration_trainer", "calibration_config", "calibration_reward", "guard", "rollout_rewards", "rollouts"
    ),
    "rollout_rewards": rule("errors measure models tasks", "transformers trl"),
    "calibration_reward": rule("errors", "torch"),
    "guard": rule("errors stats"),
    "post": rule("errors"),
    "served": rule("errors models post processes served_answers served_chat", "torch transformers"),
    "served_answers": rule("errors"),
    "served_chat": rule("errors post served_answers"),
    "adapters": rule("errors models", "torch peft"),
    "heads": rule("errors", "torch"),
    "forward": rule("adapters errors", "torch"),
    "rollouts": rule("adapters errors families forward generation training", "transformers"),
    "shared_prefix": rule("heads models", "torch transformers"),
    "traces": rule(
        "errors generation journal measure models same_text scoring served served_chat tasks teacher_context"
    ),
    "failure_modes": rule("tasks"),
    "teacher_context": rule("errors tasks"),
    "token_choice": rule("", "torch"),
    "methods": rule("traces"),
    "cross_tokenizer": rule("heads models scoring spans", "torch"),
    "teacher_cache": stage("teacher_cache", "heads", "traces"),
    "distill_config": stage(
        "distill_config",
        "adapters",
        "cross_tokenizer",
        "inherited",
        "methods",
        "rollouts",
        "teacher_context",
        "token_choice",
        "traces",
    ),
    "distill_trainer": stage(
        "distill_trainer",
        "distill_config",
        "adapters",
        "cross_tokenizer",
        "heads",
        "methods",
        "rollouts",
        "teacher_cache",
        "teacher_context",
        "token_choice",
        "traces",
    ),
    "learning_curve": stage("learning_curve", "adapters", "teacher_cache"),
    "distill": stage(
        "distill",
        "adapters",
        "architectures",
        "cross_tokenizer",
        "distill_config",
        "distill_trainer",
        "learning_curve",
        "methods",
        "teacher_cache",
        "teacher_context",
        "traces",
    ),
    "evaluate": stage("evaluate", "failure_modes"),
    "attack": Rule(PARTS | LOSSES | {"attack", "distill", "evaluate"}, TRAINERS),
    "report": rule("report files runs stats errors verdicts", "numpy"),
    "zoo": rule("zoo tasks models heads files errors progress", " ".join({*TRAINERS, "tokenizers"}), "evaluate"),
    "experiment": Rule(PARTS | STAGES | {"experiment", "methods", "teacher_cache", "traps"}, TRAINERS),
    "knob_tables": rule("runs stats traps.compare verdicts"),
    "demo": Rule(PARTS | STAGES | {"demo", "experiment", "knob_tables", "traps", "report"}, TRAINERS),
    "sweep": Rule(PARTS | STAGES | {"sweep", "experiment", "knob_tables", "report"}, TRAINERS),
    "table": rule("runs verdicts"),
    "workload": rule("architectures generation hardware models tasks"),
    "footprint": rule("architectures fused generation hardware heads workload", "torch"),
    "fitting": rule("footprint hardware workload"),
    "new_recipe": Rule(
        PARTS | STAGES | {"architectures", "config", "fitting", "hardware", "held_out", "workload", "traps"},
        frozenset({"yaml"}),
    ),
    "estimate": rule(
        "fitting footprint generation hardware identity preflight runs training workload",
        "yaml",
        "experiment learning_curve traps",
    ),
    "cli": Rule(frozenset({"errors", "processes"}), lazily=ANY, others_lazily=ANY),
    "__init__": Rule(frozenset({"errors"}), lazily=ANY),
    "__main__": rule("cli"),
}


@dataclass(frozen=True)
class Import:
    target: str  # "tasks.base" of distillknob's own, "torch" of others
    own: bool
    lazy: bool
    line: int


def module_name(path: Path) -> str:
    """`traps.stage` for src/distillknob/traps/stage.py, `traps` for its __init__, `__init__` for distillknob's own."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def is_module(name: str) -> bool:
    return name in RULES or (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file()


def imports(tree: ast.Module) -> Iterator[Import]:
    def visit(node: ast.AST, lazy: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            inside = lazy or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                inside = True
            yield from visit(child, inside)
            names: list[str] = []
            if isinstance(child, ast.Import):
                names = [alias.name for alias in child.names]
            elif isinstance(child, ast.ImportFrom):
                module = "." * child.level + (child.module or "")
                # `from distillknob import tasks` and `from distillknob.tasks import math` name modules, too
                names = [f"{module}.{alias.name}" for alias in child.names] if module else []
            elif isinstance(child, ast.Call) and ast.unparse(child.func).endswith(("import_module", "__import__")):
                names = [item.value for item in child.args[:1] if isinstance(item, ast.Constant)]
            for name in names:
                top, _, rest = name.partition(".")
                if top != "distillknob":
                    yield Import(top, own=not top, lazy=inside, line=child.lineno)
                    continue
                if not is_module(rest.partition(".")[0]):  # one of the public names
                    rest = "__init__"
                yield Import(rest, own=True, lazy=inside, line=child.lineno)

    return visit(tree, lazy=False)


def stands_for(names: frozenset[str], target: str) -> bool:
    return "*" in names or any(target == name or target.startswith(f"{name}.") for name in names)


def violations(module: str, source: str) -> list[str]:
    """One line for each import that the module's rule forbids."""
    candidates = [name for name in RULES if stands_for(frozenset({name}), module)]
    if not candidates:
        return [f"{module} has no rule: say in RULES what it may import, as the design's layering has it"]
    found = RULES[max(candidates, key=len)]
    lines = []
    for item in imports(ast.parse(source)):
        if item.own:
            allowed = found.own | found.lazily if item.lazy else found.own
            fine = stands_for(allowed, item.target) and not stands_for(found.never, item.target)
            name = f"distillknob.{item.target}" if item.target else "a relative name"
        else:
            allowed = found.others | found.others_lazily if item.lazy else found.others
            fine = item.target in sys.stdlib_module_names or stands_for(allowed, item.target)
            name = item.target
        if not fine:
            lines.append(f"{module}, line {item.line}: must not import {name}{'' if item.lazy else ' at module level'}")
    return lines


MODULES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=map(module_name, MODULES))
def test_a_module_imports_only_what_lies_below_it(path: Path) -> None:
    assert violations(module_name(path), path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "module, source",
    [
        ("errors", "import distillknob.runs"),
        ("stats", "import torch"),
        ("stats", "def f():\n    from scipy import stats"),
        ("divergences", "import numpy as np"),
        ("divergences", "from distillknob.models import load_model"),
        ("runs", "from distillknob import config"),
        ("runs", "def f():\n    import torch"),
        ("config", "if TYPE_CHECKING:\n    from transformers import TrainingArguments"),
        ("tasks.math", "from distillknob.models import load_model"),
        ("models", "from distillknob.tasks import get_task"),
        ("traps.tail_noise", "from distillknob.models import load_model"),
        ("traps.tail_noise", "async def f():\n    import distillknob.scoring as s"),
        ("traps.stage", "from distillknob.evaluate import evaluate"),
        ("calibrate", "def f():\n    from distillknob.evaluate import evaluate"),
        ("calibrate", "import importlib\nimportlib.import_module('distillknob.distill')"),
        ("distill", "from distillknob.guard import UtilityGuard"),
        ("evaluate", "from distillknob import distill"),
        ("evaluate", "from distillknob.traps.stage import diagnose"),
        ("evaluate", "from distillknob.traps import diagnose"),
        ("guard", "import torch"),
        ("report.page", "import torch"),
        ("report.page", "from distillknob.evaluate import EvaluateConfig"),
        ("zoo.build", "from distillknob.evaluate import evaluate"),
        ("cli", "import numpy"),
        ("cli", "from distillknob.config import read_recipe"),
        ("cli", "class A:\n    import torch"),
        ("__init__", "from distillknob.divergences import divergence"),
        ("tasks.qa", "from .base import Task"),
        ("runs", "from distillknob import divergence"),
        ("surprise", "import os"),
    ],
)
def test_a_planted_violation_is_found(module: str, source: str) -> None:
    assert len(violations(module, source)) == 1


@pytest.mark.parametrize(
    "module, source",
    [
        ("errors", "import os.path\nfrom collections.abc import Iterable"),
        ("tasks.math", "from distillknob.tasks.base import Task"),
        ("traps.tail_noise", "from distillknob.divergences import divergence\nfrom distillknob.traps import base"),
        ("traps.stage", "from distillknob.models import load_model\nfrom distillknob.traps import Finding"),
        ("zoo.build", "def verify():\n    from distillknob.evaluate import evaluate"),
        ("cli", "def main():\n    import torch\n    from distillknob.calibrate import calibrate"),
        ("attack.relearn", "from distillknob.distill import distill"),
        ("__init__", "if TYPE_CHECKING:\n    from distillknob.divergences import divergence"),
    ],
)
def test_what_the_rules_allow_is_not_found(module: str, source: str) -> None:
    assert violations(module, source) == []


def test_an_unknown_module_is_asked_for_a_rule() -> None:
    assert "surprise has no rule: say in RULES" in violations("surprise", "")[0]


@pytest.mark.parametrize(
    "module, heavy",
    [
        ("cli", {"torch", "transformers", "trl", "datasets", "numpy"}),
        ("config", {"torch", "transformers", "trl", "datasets", "numpy"}),
        ("runs", {"torch", "transformers", "trl", "datasets", "numpy"}),
        ("tasks", {"torch", "transformers", "trl", "datasets", "numpy"}),
        ("report", {"torch", "transformers", "trl", "datasets"}),
        ("stats", {"torch", "scipy"}),
    ],
)
def test_importing_it_stays_light(module: str, heavy: set[str]) -> None:
    code = f"import sys, distillknob.{module}; print(*sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
