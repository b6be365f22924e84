"""What rows and folders call a model that a config names by a path, a hub id or `zoo:NAME`, with `LABEL=` before it
where the user says it himself."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

_LABELLED = re.compile(r"(?P<label>[\w+.,-]+)=(?P<spec>[^=?].*)", re.DOTALL)


class Labelled(NamedTuple):
    """A name as a config gives it: `[LABEL=]SPEC`."""

    label: str | None
    spec: str


def labelled(named: str) -> Labelled:
    """Return label and spec of `[LABEL=]SPEC`. What begins with `NAME?option=value` has no label."""
    parts = _LABELLED.fullmatch(named)
    return Labelled(parts["label"], parts["spec"]) if parts else Labelled(None, named)


def model_label(name: str) -> str:
    """Return what folders and rows call a model: of a run's `model` the run's name, else its own."""
    path = Path(name.replace(":", "-"))
    return plain_name(path.parent.name if path.name == "model" and path.parent.name else path.name)


def plain_name(text: str) -> str:
    """Return the text as a folder may be called, on any system."""
    return re.sub(r"[^\w+.,-]+", "-", text).strip("-") or "target"
