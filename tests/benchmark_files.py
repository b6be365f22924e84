"""The files of `benchmarks/` as modules, which no package holds."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def benchmark(name: str) -> ModuleType:
    """The module in `benchmarks/` of that name."""
    file = Path(__file__).parents[1] / "benchmarks" / f"{name}.py"
    if str(file.parent) not in sys.path:  # the scripts share pieces, as when one of them is run
        sys.path.append(str(file.parent))
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # where its dataclasses look for their types
    spec.loader.exec_module(module)
    return module
