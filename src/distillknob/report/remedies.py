"""This module turns the remedy of a finding into commands to copy, for the page and for the terminal alike."""

from __future__ import annotations

import re
from collections.abc import Callable

from distillknob.methods import METHODS
from distillknob.report.drawing.markup import rows
from distillknob.report.opening.pair import about, pair_of
from distillknob.report.read import Source
from distillknob.report.rows import where
from distillknob.verdicts.findings import OF_REWARD


def remedy_commands(source: Source, remedy: str) -> list[str]:
    """Return the commands that carry a remedy out, the cheapest first; none where it names no setting of a command.

    The settings are the `field=value` of its text, the first of each; but rewards, of which each η may have its own.
    Each command writes into a directory of its own, so that two remedies can be tried beside each other.
    """
    commands = [
        make(source, value)
        for pattern, make in _SETTINGS
        for value in (pattern.findall(remedy) if make is _rewarded else pattern.findall(remedy)[:1])
    ]
    return [command for command in commands if command is not None]


def _longer(source: Source, value: str) -> str:
    return about(source, "diagnose", name="longer", max_new_tokens=value)


def _by_method(source: Source, value: str) -> str | None:
    method = METHODS.get(value)
    if method is None or (_two_tokenizers(source) and method.loss != "hard_label"):
        return None
    return about(source, "distill", name=value, method=value)


def _calibrated(source: Source, value: str) -> str:
    return about(source, "calibrate", name=f"eta{value}", student=None, target=pair_of(source).student, eta=value)


def _rewarded(source: Source, value: str) -> str:
    eta, reward = value.split(OF_REWARD)
    return about(
        source,
        "calibrate",
        name=f"eta{eta}-{reward}",
        student=None,
        target=pair_of(source).student,
        eta=eta,
        reward=reward,
    )


def _mixed(source: Source, value: str) -> str | None:
    if _two_tokenizers(source):
        return None
    return about(source, "distill", name=f"lmbda{value}", method="gkd", lmbda=value)


def _two_tokenizers(source: Source) -> bool:
    """Were the answers of this pair compared by spans? A divergence at every token is then refused."""
    return source.diagnose is not None and bool(where(rows(source.diagnose.result.get("pilot")), level="span"))


def _cached(source: Source, value: str) -> str:
    return about(source, "cache", student=None, top_k=value)


_NUMBER = r"-?\d+(?:\.\d+)?"
_SETTINGS: tuple[tuple[re.Pattern[str], Callable[[Source, str], str | None]], ...] = tuple(
    (re.compile(rf"\b{name}=({value})"), make)
    for name, value, make in (
        ("max_new_tokens", r"\d+", _longer),
        ("method", r"\w+", _by_method),
        ("eta", rf"{_NUMBER}(?!\d|\.\d|{OF_REWARD})", _calibrated),
        ("eta", rf"{_NUMBER}{OF_REWARD}\w+", _rewarded),
        ("lmbda", _NUMBER, _mixed),
        ("top_k", r"\d+", _cached),
    )
)
