"""What distillknob sets in its process before any work: memory that is freed stays here, and libraries are quiet."""

from __future__ import annotations

import ctypes
import gc
import platform
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_OWN = Path("/proc/self")
# As torch calls the instructions that multiply bfloat16: Intel's tiles, x86's vectors (Intel and AMD), ARM's.
_BFLOAT16 = ("amx_bf16", "avx512_bf16", "bf16")


def keep_freed_memory() -> None:
    """Tell glibc to keep freed blocks for the next allocation; elsewhere, do nothing.

    By default it gives tensors of some MB back to the kernel and faults their pages in again at the next step: on a CPU
    that took up to a third of a small model's training time (docs/research/lab-notebook.md).
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
    libc.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


def quiet_libraries() -> None:
    """Bars and notices of the libraries, which would drown the stage's own, off; their errors stay on stderr."""
    import datasets
    from transformers.utils import logging

    logging.disable_progress_bar()
    datasets.disable_progress_bars()
    logging.set_verbosity_error()
    # What a library plans to rename is for its developers and ours; the tests show it.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers|trl|accelerate")


def multiplies_bfloat16(capabilities: Mapping[str, Any] | None = None) -> bool:
    """Say whether a processor with these capabilities (default: this one) has instructions for products of bfloat16. A
    torch that can't be asked says no."""
    import torch

    if capabilities is None:
        capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    return any(bool(capabilities.get(name)) for name in _BFLOAT16)


def has_gpu() -> bool:
    """Says whether this machine has a GPU that torch can use."""
    import torch

    return bool(torch.cuda.is_available())


def forget_peak_memory() -> bool:
    """Let `peak_memory` count from now on, and say whether it can. Without a GPU what earlier work freed goes back to
    the system before, so that the peak isn't theirs; only Linux can forget a process's peak."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return True
    _return_freed_memory()
    try:
        (_OWN / "clear_refs").write_text("5")  # proc(5): the peak of the resident set
    except OSError:
        return False
    return True


def peak_memory() -> int:
    """Return the most bytes since `forget_peak_memory`: of tensors on this process's GPU, or where there is none, of
    the whole process in memory (its resident set)."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    status = (_OWN / "status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def free_models() -> None:
    """Free the models that nothing holds any more, before others are loaded. A Trainer, and a model whose forward pass
    TRL replaced, hold themselves, and Python looks for such circles when it has made many objects, not when a device's
    memory runs out: an 8B teacher was held beside the one that it had become.

    What was freed goes back to the system (`keep_freed_memory`): the next stage needs it in other pieces. A calibration
    and the distillation behind it, in one process, else held 15 GB where either needs 6 to 9.
    """
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    _return_freed_memory()


def _return_freed_memory() -> None:
    """Give the blocks that glibc keeps back to the kernel; elsewhere, do nothing."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
