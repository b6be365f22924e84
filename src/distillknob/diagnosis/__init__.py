"""Why a pair will fail: each trap is one file that turns scored tensors into a `Finding`.

`diagnose` runs the stage: it samples, scores and asks every trap. Traps themselves never see a model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from distillknob.diagnosis.config import DiagnoseConfig
from distillknob.diagnosis.finding import Finding

if TYPE_CHECKING:
    from distillknob.diagnosis.stage import diagnose

__all__ = ["DiagnoseConfig", "Finding", "diagnose"]


def __getattr__(name: str) -> Any:
    # The stage loads models; whoever wants a config or a Finding alone shouldn't pay for that.
    if name == "diagnose":
        from distillknob.diagnosis.stage import diagnose

        return diagnose
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
