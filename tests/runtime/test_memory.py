"""The peak of memory is that of the work since it was last forgotten, and what a stage frees the next one gets."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from distillknob.runtime.machine import forget_peak_memory, peak_memory


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux can forget a process's peak")
def test_what_was_freed_before_is_not_in_the_peak() -> None:
    block = bytearray(300 << 20)
    block[::4096] = b"x" * len(block[::4096])
    assert forget_peak_memory()
    with_block = peak_memory()
    del block
    assert forget_peak_memory()
    assert peak_memory() < with_block - (200 << 20)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library gives memory back by its own rules")
def test_the_next_stage_finds_the_memory_that_the_last_one_freed() -> None:
    """In pieces of another size it isn't used again."""
    script = """
import torch
from distillknob.runtime.machine import free_models, keep_freed_memory

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 1e6

keep_freed_memory()
before = resident()
held = [torch.ones(2_000_000) for _ in range(50)]
last = torch.ones(1000)  # behind them, so that the end of the heap stays where it is
del held
kept = resident()
free_models()
print(kept - before, resident() - before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    kept, held = map(float, done.stdout.split())
    assert kept > 300 and held < 100  # MB, of 400
