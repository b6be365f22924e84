"""This module holds the version of `result.json`, what every result begins with, and the words that its rows share.

docs/reference/results.md tells units and meanings. Results of older versions lack the keys that are `NotRequired` in
the types of this room. A figure that is undefined is `null` in the file (JSON has no NaN). A page about a run that may
be damaged or unfinished reads the same keys leniently.

Left out on purpose: a check of every value while reading. The manifest proves that a file is as it was written, and
the tests hold what is written against the types.
"""

# No `from __future__ import annotations`: with it TypedDict can't tell the keys that are NotRequired.

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

from distillknob.errors import BadInputError

SCHEMA = 2  # of what this version writes; results from before there was a number have none

Bounds = Sequence[float | None]  # [low, high] of a 95 % interval, clustered by prompt
Verdict = Literal["turned", "can't tell", "the wrong way", "not at all"]
Severity = Literal["none", "low", "medium", "high"]
Room = Literal["none", "little", "some", "much", "unclear"]


class Result(TypedDict):
    """Every stage's result begins with these keys. `schema` is added where the file is written (`with_schema`)."""

    schema: NotRequired[int]
    stage: str
    notes: NotRequired[list[str]]


def with_schema(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return a result as the file holds it: with the version of its schema."""
    return {"schema": SCHEMA, **result}


def check_schema(result: Mapping[str, Any], file: Path) -> None:
    """Raise BadInputError where the result in `file` was written by a newer version, whose schema this one can't
    read."""
    version = result.get("schema", 0)
    if not isinstance(version, int) or version > SCHEMA:
        raise BadInputError(
            f"{file} has the schema {version!r}, and this distillknob knows those up to {SCHEMA}: a newer one wrote "
            "it, update distillknob to read it"
        )
