"""What tests of a diagnosis ask of its findings, and the configs and tables that several of them use."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from distillknob.calibration.config import CalibrationConfig
from distillknob.config.fields import checked, fields_of
from distillknob.diagnosis.config import DiagnoseConfig
from distillknob.distillation.cache.config import CacheConfig
from distillknob.distillation.config import DistillConfig
from pairs import Pair

MILD = 0.15  # standard deviation of the logits of a student that differs without structure


Diagnose = Callable[..., dict[str, Any]]


def fired(finding: Mapping[str, Any], *severities: str) -> bool:
    """Told with one of the severities, a value inside of its interval, and a remedy that can be carried out."""
    assert finding["applicable"] and finding["n"] > 1
    low, high = finding["interval"]
    assert low <= finding["value"] <= high
    assert recipe_lines(finding["remedy"]), finding["remedy"]
    return finding["severity"] in severities


def silent(finding: Mapping[str, Any]) -> bool:
    return bool(finding["applicable"]) and finding["severity"] == "none"


def covers(finding: Mapping[str, Any], truth: float) -> bool:
    return bool(finding["interval"][0] <= truth <= finding["interval"][1])


def recipe_lines(remedy: str) -> list[tuple[str, str]]:
    """The `field=value` of a remedy and the fields alone in brackets, each checked against the stages' configs."""
    stages = [fields_of(cls) for cls in (DiagnoseConfig, DistillConfig, CalibrationConfig, CacheConfig)]
    named = [(field, value) for field, value in re.findall(r"\b([a-z_]+)=([\w.-]*\w)", remedy)]
    named += [(field, "") for field in re.findall(r"\(([a-z_]+)\)", remedy)]
    for field, value in named:
        having = [fields for fields in stages if field in fields]
        assert having, f"no stage has a field {field!r}"
        if value:
            hint = having[0][field][1]
            number = float(value) if re.fullmatch(r"-?[\d.]+", value) else value
            checked(having[0][field], int(number) if hint is int else number)
    return named


def pairs(step: int, share: float = 0.5) -> dict[str, float]:
    """A step of an answer that is one of two words."""
    return {f"a{step}": share, f"b{step}": 1 - share}


def right(words: list[str]) -> bool:
    return "right" in words


def written(words: list[str]) -> str:
    return words[0]


def config(pair: Pair, **values: Any) -> DiagnoseConfig:
    return DiagnoseConfig(
        **{
            "teacher": pair.teacher,
            "student": pair.student,
            "tasks": ["math", "instruct"],
            "problems": 6,
            "samples": 2,
            "candidates": 3,
            **values,
        }
    )
