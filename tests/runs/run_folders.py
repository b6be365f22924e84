"""The config of a run in tests, and what its folder holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

CONFIG: dict[str, Any] = {"eta": -0.5, "learning_rate": 1e-5, "tasks": ["math"], "generation": {"top_p": 1.0}}


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
