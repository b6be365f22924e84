"""What distillknob sets in its process before any work: memory that is freed stays here, and libraries are quiet."""

from __future__ import annotations

import ctypes
import gc
import platform
import warnings

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def keep_freed_memory() -> None:
    """Tell glibc to keep freed blocks for the next allocation; elsewhere, do nothing.

    By default it gives tensors of some MB back to the kernel and faults their pages in again at the next step: on a CPU
    that took up to a third of a small model's training time (docs/lab-notebook.md).
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


def free_models() -> None:
    """Free the models that nothing holds any more, before others are loaded. A Trainer, and a model whose forward pass
    TRL replaced, hold themselves, and Python looks for such circles when it has made many objects, not when a device's
    memory runs out: an 8B teacher was held beside the one that it had become."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
