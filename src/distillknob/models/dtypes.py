"""Which type weights have where nobody says: the checkpoint's own on an accelerator, and on a CPU float32 or bfloat16.

A CPU that multiplies bfloat16 itself reads and samples from SmolLM2-135M two to four times as fast in it as in float32
(two cores with AMX: forward 2,900–4,000 tokens a second against 730–1,100, sampling 300 against 150–230). One that
doesn't converts every factor and is slower, and so is a small model anywhere, whose conversions take longer than its
products. What is trained in full is float32 all the same, as on an accelerator: steps are lost in the rounding of
bfloat16.

Of a float16 checkpoint bfloat16 drops three bits of each weight, no more than it drops of what they are multiplied
with. Whoever wants other numbers names the type.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from distillknob.runtime.machine import multiplies_bfloat16
from distillknob.runtime.processes import notice

HALF = (torch.bfloat16, torch.float16)
# Parameters from which bfloat16 pays. Measured was 135 M; models that differ from that one in the number of layers
# alone do the same products in each, down to 71 M (12 of its 30 layers). Between these and the embedded models, of less
# than one, nothing was measured, and float32 is exact.
LARGE = 50e6


def own_dtype(config: Any) -> torch.dtype | None:
    """The type that a transformers config says its checkpoint has; None where it says nothing."""
    dtype = getattr(config, "dtype", None) or getattr(config.get_text_config(), "dtype", None)
    return dtype if isinstance(dtype, torch.dtype) else None


def cpu_dtype(capable: bool, own: torch.dtype | None, parameters: Callable[[], int]) -> str:
    """The type on a CPU, as torch calls it, of a model whose checkpoint has its `own` and so many parameters (which are
    counted where it matters). `capable` says whether the processor multiplies bfloat16 itself."""
    return "bfloat16" if capable and own in HALF and parameters() >= LARGE else "float32"


def dtype_here(own: torch.dtype | None, parameters: Callable[[], int]) -> str:
    """`cpu_dtype` on this machine's CPU."""
    return cpu_dtype(multiplies_bfloat16(), own, parameters)


def dtype_on(device: str, own: torch.dtype | None, parameters: Callable[[], int]) -> str:
    """The type on `device` where nobody says: `auto`, the checkpoint's own, on an accelerator. That a CPU takes
    bfloat16 is said, once."""
    if device != "cpu":
        return "auto"
    dtype = dtype_here(own, parameters)
    if dtype == "bfloat16":
        _tell()
    return dtype


@cache
def _tell() -> None:
    notice(
        f"this CPU multiplies bfloat16: checkpoints of 16 bits with {LARGE / 1e6:.0f} M parameters or more are loaded "
        "in it (what is trained in full stays float32)"
    )
