"""Where this library keeps what it made once and may make again: outside any repository, shared by all runs.

Left out on purpose: what was fetched from the hub, which the hub's own client keeps (HF_HOME).
"""

from __future__ import annotations

import os
from pathlib import Path

from distillknob.errors import BadInputError

CACHE = "DISTILLKNOB_CACHE"


def cache_folder() -> Path:
    """Return the cache's folder, which may not be there yet: DISTILLKNOB_CACHE, else `distillknob` in XDG_CACHE_HOME or
    in ~/.cache."""
    if own := os.environ.get(CACHE):
        return Path(own).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().absolute() / "distillknob"


def made_in_cache(name: str) -> Path:
    """Return the folder `name` of the cache, made where it wasn't there. Raises BadInputError where it can't be."""
    folder = cache_folder() / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInputError(
            f"can't make the cache's folder {folder} ({error.strerror}): set {CACHE} to a folder that can be written"
        ) from error
    return folder
