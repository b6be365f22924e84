"""Who may import whom: a row a room, and three laws.

A room is a folder of the package, or one of its top-level modules. Every import counts: at the top, inside a function,
under TYPE_CHECKING, by `importlib.import_module("…")`.

1. Arrows go one way: a room imports the rooms that its row names, and each of them has its row above.
2. A `stage.py` is imported by what chains stages alone: stages hand over run directories.
3. A room that has to start at once imports at module level only rooms that do so too, and no heavy package.
"""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "distillknob"
HUGGING = "torch transformers"
TRAINERS = "torch transformers trl accelerate datasets safetensors"
FILES = "tokenizers gguf filelock"  # what reads and keeps a model of another form
STAGE = "errors results runtime config runs tasks models inputs"  # what every stage needs


@dataclass(frozen=True)
class Row:
    """The rooms and the other packages that a room may import; the standard library always, `*` for every room."""

    rooms: frozenset[str]
    packages: frozenset[str]


def row(rooms: str = "", packages: str = "") -> Row:
    return Row(frozenset(rooms.split()), frozenset(packages.split()))


# From the ground up.
ROOMS = {
    "errors": row(),
    "results": row("errors"),
    "stages": row(),
    "stats": row("errors", "numpy"),
    "verdicts": row("results stats"),
    "methods": row(),
    "runtime": row("errors", f"{HUGGING} accelerate datasets huggingface_hub ray tqdm"),
    "config": row("errors stages", "yaml"),
    "runs": row("errors results runtime verdicts", "torch yaml"),
    "divergences": row("errors", "torch"),
    "tasks": row("errors runtime", f"{HUGGING} safetensors datasets huggingface_hub math_verify sympy numpy yaml"),
    "models": row(
        "errors runtime runs divergences", f"{HUGGING} {FILES} peft safetensors huggingface_hub jinja2 numpy vllm"
    ),
    "inputs": row("errors runtime config runs tasks models", "transformers"),
    "publishing": row("errors runtime runs models inputs", "huggingface_hub yaml"),
    "evaluation": row(f"{STAGE} stats", "transformers numpy sklearn"),
    "training": row("errors config runtime runs models tasks evaluation", TRAINERS),
    "diagnosis": row(f"{STAGE} stats divergences evaluation training", "torch numpy"),
    "fingerprints": row(STAGE, "torch transformers scipy"),
    "pruning": row(f"{STAGE} stats verdicts evaluation publishing", "torch transformers"),
    "calibration": row(f"{STAGE} stats verdicts training evaluation publishing", f"{TRAINERS} huggingface_hub"),
    "distillation": row(f"{STAGE} methods divergences training evaluation diagnosis publishing", f"{TRAINERS} opacus"),
    "defences": row(f"{STAGE} methods training evaluation distillation fingerprints publishing", TRAINERS),
    "report": row("errors results stats verdicts methods config runs", "numpy"),
    "attacks": row(
        f"{STAGE} stats methods divergences training evaluation calibration distillation defences report",
        f"{TRAINERS} numpy yaml",
    ),
    "gates": row("errors results config runs models inputs publishing attacks"),
    "experiments": row(
        f"{STAGE} stages stats verdicts methods evaluation diagnosis calibration distillation report", "numpy"
    ),
    "zoo": row("errors runtime runs tasks models evaluation", f"{HUGGING} datasets peft tokenizers"),
    "planning": row(
        "errors runtime stages config runs tasks models inputs divergences training evaluation diagnosis calibration "
        "distillation fingerprints pruning defences experiments",
        "torch accelerate yaml",
    ),
    "cli": row("*"),
}
# What stays arithmetic inside a room: modules of the package that it may import, and packages.
PURE = {
    "diagnosis.traps": row(
        "errors results stats divergences diagnosis.finding diagnosis.samples diagnosis.traps", "torch numpy"
    ),
    "training.advantages": row("errors", "torch"),
    "training.entropy_band": row("errors", "torch"),
    "calibration.advantage": row("errors training.advantages", "torch"),
    "calibration.guard": row("errors results stats"),
    "gates": row("errors results config runs models.names inputs.identity publishing.marks attacks.access gates"),
    "fingerprints.green": row("errors", "torch"),
    "fingerprints.radioactivity": row("errors fingerprints.green", "torch scipy"),
}
CHAINS = {"attacks", "experiments", "planning", "cli"}
AT_ONCE = {"errors", "results", "stages", "stats", "verdicts", "methods", "runtime", "config", "runs", "tasks"}
AT_ONCE |= {"report", "cli"}
LIGHT = {"numpy", "tqdm", "yaml"}
# (module, what it imports): why a law doesn't hold there.
EXCEPTIONS = {
    # Batches are kept as torch writes them; the module is imported by what has loaded torch anyway.
    ("runs.journal", "torch"),
}


@dataclass(frozen=True)
class Import:
    target: str  # "tasks.base" of distillknob's own, "torch" of others
    own: bool
    lazy: bool
    line: int

    @property
    def room(self) -> str:
        return self.target.partition(".")[0]


def module_name(path: Path) -> str:
    """`diagnosis.stage` for diagnosis/stage.py, `diagnosis` for its __init__, `__init__` for distillknob's own."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def room_of(module: str) -> str:
    """The package's own face and its `__main__` stand where the command line does."""
    return "cli" if module in ("__init__", "__main__") else module.partition(".")[0]


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
                # `from distillknob import tasks` and `from distillknob.tasks import base` name modules, too
                names = [f"{module}.{alias.name}" for alias in child.names] if module else []
            elif isinstance(child, ast.Call) and ast.unparse(child.func).endswith(("import_module", "__import__")):
                names = [str(item.value) for item in child.args[:1] if isinstance(item, ast.Constant)]
            for name in names:
                assert isinstance(child, ast.stmt | ast.expr)  # which have a line
                top, _, rest = name.partition(".")
                if top != "distillknob":
                    yield Import(top, own=not top, lazy=inside, line=child.lineno)
                    continue
                if rest.partition(".")[0] not in ROOMS:  # one of the public names
                    rest = "__init__"
                yield Import(rest, own=True, lazy=inside, line=child.lineno)

    return visit(tree, lazy=False)


def lies_in(target: str, names: frozenset[str]) -> bool:
    return any(target == name or target.startswith(f"{name}.") for name in names)


def is_stage(target: str) -> bool:
    return "stage" in target.split(".")[1:]


def fault(module: str, item: Import) -> str | None:
    """The law that an import breaks."""
    room = room_of(module)
    if any(module == here and lies_in(item.target, frozenset({there})) for here, there in EXCEPTIONS):
        return None
    pure = next((PURE[name] for name in PURE if lies_in(module, frozenset({name}))), None)
    allowed = pure or ROOMS[room]
    if not item.own:
        if item.target in sys.stdlib_module_names:
            return None
        if room != "cli" and item.target not in allowed.packages:
            return "is not among its packages"
        return "too heavy" if room in AT_ONCE and not item.lazy and item.target not in LIGHT else None
    if "*" not in allowed.rooms and not lies_in(item.target, allowed.rooms if pure else allowed.rooms | {room}):
        return "lies in a room that its row doesn't name"
    if is_stage(item.target) and room not in CHAINS | {item.room}:
        return "is a stage"
    if room in AT_ONCE and not item.lazy and item.room not in AT_ONCE:
        return "too heavy"
    return None


def violations(module: str, source: str) -> list[str]:
    """One line for each import that breaks a law."""
    if room_of(module) not in ROOMS:
        return [f"{module} has no row: say in ROOMS what its room may import, and put it above all that import it"]
    faults = [(item, fault(module, item)) for item in imports(ast.parse(source))]
    return [f"{module}, line {item.line}: {item.target or 'a relative name'}: {why}" for item, why in faults if why]


MODULES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=map(module_name, MODULES))
def test_a_module_imports_only_what_lies_below_it(path: Path) -> None:
    assert violations(module_name(path), path.read_text(encoding="utf-8")) == []


def test_the_table_of_rooms_in_the_docs_is_this_one() -> None:
    page = (PACKAGE.parents[1] / "docs" / "explanation" / "design.md").read_text(encoding="utf-8")
    table = page[page.index("| room | what it holds |") :].split("\n\n")[0]
    names = [name for line in table.splitlines()[2:] for name in re.findall(r"`(\w+)/?`", line.split("|")[1])]
    assert sorted(names) == sorted(ROOMS)
    for number, room in enumerate(names):
        above = {*names[:number], "errors", "stats", "stages", "methods"}
        assert ROOMS[room].rooms <= above | {"*"}, f"{room} stands above a room that it imports"


def test_a_row_names_only_rooms_above_it_and_every_row_has_a_room() -> None:
    rows = list(ROOMS)
    for n, room in enumerate(rows):
        assert ROOMS[room].rooms <= {*rows[:n], "*"}, room
        assert (PACKAGE / room).is_dir() or (PACKAGE / f"{room}.py").is_file(), room


def test_every_exception_is_still_one() -> None:
    for module, target in EXCEPTIONS:
        path = PACKAGE.joinpath(*module.split("."))
        source = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8")
        assert any(lies_in(item.target, frozenset({target})) for item in imports(ast.parse(source))), (module, target)


def test_no_file_imports_itself_by_way_of_others() -> None:
    names = {module_name(path): path for path in MODULES if path.name != "__init__.py"}
    below: dict[str, set[str]] = {}
    for name, path in names.items():
        targets = [item.target for item in imports(ast.parse(path.read_text(encoding="utf-8"))) if item.own]
        below[name] = {part for target in targets for part in (target, target.rpartition(".")[0]) if part in names}
    graphlib.TopologicalSorter(below).prepare()


@pytest.mark.parametrize(
    "module, source",
    [
        ("errors", "import distillknob.runs.run"),
        ("stages", "from distillknob.runs.run import Run"),
        ("stats", "import torch"),
        ("stats", "def f():\n    from scipy import stats"),
        ("runtime.hub", "import huggingface_hub"),
        ("divergences.dense", "import numpy as np"),
        ("divergences.dense", "from distillknob.models.load import load_model"),
        ("runs.run", "from distillknob import config"),
        ("runs.run", "import torch"),
        ("runs.run", "from distillknob import divergence"),
        ("config.recipe", "if TYPE_CHECKING:\n    from transformers import TrainingArguments"),
        ("tasks.generated.math", "from distillknob.models.load import load_model"),
        ("tasks.generated.qa", "from .words import WORDS"),
        ("tasks.graders.reward_model", "import torch"),
        ("models.load", "from distillknob.tasks import get_task"),
        ("inputs.identity", "from distillknob.distillation.traces import make_traces"),
        ("diagnosis.traps.tail_noise", "from distillknob.models.load import load_model"),
        ("diagnosis.traps.tail_noise", "from distillknob.diagnosis.gather import gather"),
        ("diagnosis.traps.tail_noise", "async def f():\n    import distillknob.models.scoring as s"),
        ("diagnosis.stage", "from distillknob.evaluation.stage import evaluate"),
        ("diagnosis.stage", "from distillknob.distillation.traces import make_traces"),
        ("calibration.stage", "def f():\n    from distillknob.evaluation.stage import evaluate"),
        ("calibration.stage", "import importlib\nimportlib.import_module('distillknob.distillation.stage')"),
        ("calibration.guard", "import torch"),
        ("distillation.stage", "from distillknob.calibration.guard import UtilityGuard"),
        ("distillation.stage", "from distillknob.diagnosis.stage import diagnose"),
        ("evaluation.stage", "from distillknob import distillation"),
        ("evaluation.stage", "from distillknob.diagnosis.stage import diagnose"),
        ("report.page", "import torch"),
        ("report.page", "def f():\n    from distillknob.evaluation.stage import EvaluateConfig"),
        ("zoo.build", "from distillknob.evaluation.stage import evaluate"),
        ("experiments.cell", "from distillknob.planning.plan import plan"),
        ("attacks.stage", "from distillknob.experiments.sweep import sweep"),
        ("defences.sampled", "from distillknob.attacks.base import Attack"),
        ("cli.main", "import torch"),
        ("cli.main", "from distillknob.training.config import plain_config"),
        ("cli.main", "class A:\n    import torch"),
        ("__init__", "from distillknob.divergences.dense import divergence"),
        ("surprise", "import os"),
    ],
)
def test_a_planted_violation_is_found(module: str, source: str) -> None:
    assert len(violations(module, source)) == 1


@pytest.mark.parametrize(
    "module, source",
    [
        ("errors", "import os.path\nfrom collections.abc import Iterable"),
        ("tasks.generated.math", "from distillknob.tasks.base import Task"),
        ("tasks.graders.reward_model", "def f():\n    import torch"),
        ("diagnosis.traps.tail_noise", "from distillknob.divergences.dense import divergence"),
        ("diagnosis.traps.tail_noise", "from distillknob.diagnosis import finding"),
        ("diagnosis.stage", "from distillknob.models.load import load_model\nfrom distillknob.diagnosis import traps"),
        ("distillation.stage", "from distillknob.diagnosis.traps import teacher_hacking"),
        ("experiments.cell", "from distillknob.calibration.stage import calibrate"),
        ("attacks.scene", "from distillknob.distillation.stage import distill"),
        ("cli.main", "def main():\n    import torch\n    from distillknob.calibration.stage import calibrate"),
        ("cli.main", "from distillknob.config.recipe import read_recipe"),
        ("__main__", "from distillknob.cli.main import main"),
        ("__init__", "if TYPE_CHECKING:\n    from distillknob.divergences.dense import divergence"),
    ],
)
def test_what_the_laws_allow_is_not_found(module: str, source: str) -> None:
    assert violations(module, source) == []


def test_an_unknown_room_is_asked_for_a_row() -> None:
    assert "surprise.stage has no row: say in ROOMS" in violations("surprise.stage", "")[0]


@pytest.mark.parametrize(
    "module, heavy",
    [
        ("cli.main", {"torch", "transformers", "trl", "datasets", "numpy"}),
        ("cli.run_stage", {"torch", "transformers", "trl", "datasets", "numpy"}),
        ("stages", {"torch", "transformers", "trl", "datasets", "numpy", "yaml"}),
        ("config.recipe", {"torch", "transformers", "trl", "datasets", "numpy"}),
        ("gates.gate", {"torch", "transformers", "trl", "datasets", "numpy"}),
        ("runs.run", {"torch", "transformers", "trl", "datasets", "numpy"}),
        ("tasks", {"torch", "transformers", "trl", "datasets", "numpy"}),
        ("report.page", {"torch", "transformers", "trl", "datasets"}),
        ("stats", {"torch", "scipy"}),
    ],
)
def test_importing_it_stays_light(module: str, heavy: set[str]) -> None:
    code = f"import sys, distillknob.{module}; print(*sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
