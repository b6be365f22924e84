"""This module records where and by what a run was made: versions, machine, commit, command line."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from distillknob.runs.commands import recipe_record
from distillknob.runtime.machine import multiplies_bfloat16

PACKAGES = ("distillknob", "torch", "transformers", "trl", "peft", "accelerate", "datasets", "vllm")


def environment() -> dict[str, Any]:
    """Return where and by what this process runs: versions, machine, commit, command line."""
    torch = sys.modules.get("torch")  # asking for threads must not cost the seconds that an import takes
    cuda = torch is not None and torch.cuda.is_available()
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "argv": [Path(sys.argv[0]).name, *sys.argv[1:]],  # where the command lies belongs to the machine
        "recipe": recipe_record(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "torch_threads": torch.get_num_threads() if torch is not None else None,
        "cpu_bfloat16": multiplies_bfloat16() if torch is not None else None,  # which may decide models' types
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch and cuda else [],
        "versions": {name: version_of(name) for name in PACKAGES},
        "commit": source_commit(),
    }


def version_of(package: str) -> str | None:
    """Return the version of an installed package; None where it isn't installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def source_commit() -> str | None:
    """Return the commit of the source that runs, with `-dirty` where it was changed since; None outside a checkout."""
    here = Path(__file__)

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(("git", "-C", here.parent, *arguments), capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # An installed copy may lie in a virtual environment inside somebody else's repository, whose commit says nothing.
    if git("ls-files", "--error-unmatch", here.name) is None:
        return None
    return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
