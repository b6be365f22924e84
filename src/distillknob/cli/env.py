"""`distillknob env`: what a report of a bug needs, as Markdown to paste.

It shows settings of the environment by the beginnings of their names, and hides whatever could be a secret: a name that
says so, a text that looks like a token, what an address holds of a login. Left out on purpose: the command that failed
and its output, which only the reporter knows.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distillknob.runs.provenance import source_commit, version_of

PACKAGES = (
    *("torch", "transformers", "trl", "peft", "accelerate", "datasets", "tokenizers", "safetensors"),
    *("huggingface_hub", "numpy", "scikit-learn", "math-verify", "vllm", "deepspeed", "opacus", "gguf", "ray"),
)
# Instruction sets that decide how fast which type of number is.
INSTRUCTIONS = (
    *("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8"),
    *("asimd", "asimdhp", "sve", "sve2", "bf16", "i8mm"),
)
BEGINNINGS = (
    *("HF_", "HUGGINGFACE_", "TRANSFORMERS_", "DATASETS_", "TOKENIZERS_", "ACCELERATE_", "TRL_", "DISTILLKNOB_"),
    *("CUDA_", "NVIDIA_", "NCCL_", "TORCH", "PYTORCH_", "OMP_", "MKL_", "OPENBLAS_", "VLLM_", "RAY_", "FSDP_"),
)
PROCESSES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
SECRET_WORDS = {"TOKEN", "TOKENS", "KEY", "KEYS", "SECRET", "SECRETS", "PASSWORD", "PASS", "AUTH", "CREDENTIALS", "JWT"}
SECRET_TEXT = re.compile(
    r"\b(?:hf|sk|ghp|gho|github_pat|glpat|xox[abp])[_-]\w{8,}|\bAKIA\w{12,}|\beyJ\w{8,}|[A-Za-z0-9+/_-]{40,}"
)
LOGIN = re.compile(r"//[^/\s@]+@")
HIDDEN = "(set, not shown)"
GIB = 2**30


def add_env(commands: Any) -> None:
    """Add the command's parser."""
    commands.add_parser("env", help="print what a report of a bug needs, as Markdown to paste", allow_abbrev=False)


def env(arguments: argparse.Namespace) -> int:
    """Print the machine, the versions and the settings."""
    print(env_text(os.environ))
    return 0


def env_text(environment: Mapping[str, str]) -> str:
    """Return the machine, the versions and the settings of `environment` as Markdown, without secrets."""
    commit = source_commit()
    lines = [
        f"- distillknob: {version_of('distillknob')} ({f'commit {commit}' if commit else 'no checkout'})",
        f"- Python: {platform.python_version()} ({platform.python_implementation()}, {_home(sys.executable)})",
        f"- platform: {platform.platform()}",
        f"- CPU: {_cpu()}",
        f"- memory: {_memory()}",
        f"- accelerators: {_accelerators()}",
        "- packages:",
        *(f"  - {name}: {version_of(name) or 'not installed'}" for name in PACKAGES),
        "- cache folders:",
        *(f"  - {name}: {_folder(path)}" for name, path in _caches(environment).items()),
    ]
    shown = settings_shown(environment)
    lines += ["- settings:" if shown else "- settings: none", *(f"  - {name}={value}" for name, value in shown.items())]
    return "\n".join(lines)


def settings_shown(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment's settings that matter here, by name; those that could be secrets have no value."""
    names = sorted(name for name in environment if name.startswith(BEGINNINGS) or name in PROCESSES)
    return {name: _shown(name, environment[name]) for name in names}


def _shown(name: str, value: str) -> str:
    secret = SECRET_WORDS & set(name.upper().split("_")) and not name.startswith("TOKENIZERS_")
    # A long path is no token: its parts are short.
    if secret or any(SECRET_TEXT.search(part) for part in re.split(r"[/\\:,]", value)):
        return HIDDEN
    return _home(LOGIN.sub("//…@", value))


def _home(text: str) -> str:
    """The text without the name of whoever runs this."""
    home = str(Path.home())
    return text.replace(home, "~") if len(home) > 1 else text


def _cpu() -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    named = {"model name": platform.processor() or platform.machine(), "flags": "", "features": ""}
    information = Path("/proc/cpuinfo")
    for line in information.read_text(encoding="utf-8").splitlines() if information.exists() else ():
        key, _, value = line.partition(":")
        if key.strip().lower() in named:
            named[key.strip().lower()] = value.strip()
    has = {*named["flags"].split(), *named["features"].split()}
    sets = ", ".join(name for name in INSTRUCTIONS if name in has) or "unknown"
    return f"{named['model name']}, {cores} of {os.cpu_count()} cores for this process, instruction sets: {sets}"


def _memory() -> str:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    parts = [f"{total:.1f} GiB"]
    free = re.search(r"MemAvailable:\s+(\d+)", _read("/proc/meminfo"))
    parts += [f"{int(free[1]) / 2**20:.1f} available"] if free else []
    limit = _read("/sys/fs/cgroup/memory.max").strip()
    parts += [f"{int(limit) / GIB:.1f} allowed to this container"] if limit.isdigit() else []
    return ", ".join(parts)


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:  # another system, or a container that hides it
        return ""


def _accelerators() -> str:
    try:
        import torch
    except (ImportError, OSError) as error:  # which may be what the report is about
        return f"unknown, as torch can't be imported ({error})"
    if not torch.cuda.is_available():
        other = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return f"none (torch is built for {_built_for(torch)})" if other is None else str(other)
    names = [
        f"{torch.cuda.get_device_name(i)} with {torch.cuda.get_device_properties(i).total_memory / GIB:.1f} GiB"
        for i in range(torch.cuda.device_count())
    ]
    return f"{', '.join(names)} (torch is built for {_built_for(torch)}; {_driver()})"


def _built_for(torch: Any) -> str:
    cuda, hip = torch.version.cuda, torch.version.hip
    return f"CUDA {cuda}" if cuda else f"ROCm {hip}" if hip else "CPUs"


def _driver() -> str:
    query = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "driver unknown"
    return f"driver {done.stdout.split()[0]}" if done.returncode == 0 and done.stdout.split() else "driver unknown"


def _caches(environment: Mapping[str, str]) -> dict[str, Path]:
    """Where libraries keep what they fetch and build, by their own rules."""
    from huggingface_hub import constants

    user = re.sub(r"\W", "_", Path.home().name)
    return {
        "models and data": Path(constants.HF_HUB_CACHE),
        "prepared data": Path(environment.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME) / "datasets"),
        "compiled kernels": Path(
            environment.get("TORCHINDUCTOR_CACHE_DIR") or Path(tempfile.gettempdir()) / f"torchinductor_{user}"
        ),
    }


def _folder(path: Path) -> str:
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    free = f"{shutil.disk_usage(there).free / GIB:.0f} GiB free"
    return f"{_home(str(path))} ({free}{'' if there == path else '; not there yet'})"
