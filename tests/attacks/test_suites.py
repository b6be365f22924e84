"""Suites that ship are frozen, and a suite of one's own is checked before any work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from distillknob.attacks.choice import ATTACKS
from distillknob.attacks.suite import read_suite, suite_names
from distillknob.errors import BadInputError

# A change of a suite is a new version under a new name: add a line, change none.
FROZEN = {
    "quick-v1": "efcb4f5a7696b21c33e978f7d6b27f44fd4b9f141db41b403293d7fc36c8945b",
    "standard-v1": "2aa8d18f513e3bb0b2b1ae80fe47da306d5c9de9e844bfac641fdefcc968d36b",
}


def values(**changes: Any) -> dict[str, Any]:
    return {
        "name": "mine",
        "about": "for a test",
        "problems": 8,
        "validation": {"problems": 4, "samples": 1},
        "test": {"problems": 4, "samples": 1},
        "utility": {"problems": 4, "samples": 1},
        "seed": 0,
        "worst": {"attacks": 0, "seeds": []},
        "words": {"protects": 0.25, "broken": 0.75},
        "tiers": {"text": {"interface": "text", "queries": 8, "labels": True}},
        "controls": {"untrained": {"kind": "untrained"}},
        "attacks": {"traces-1": {"kind": "traces", "n": 1}},
        "across": [],
        "planted_attacks": {},
        "planted": {},
        **changes,
    }


def written(folder: Path, **changes: Any) -> str:
    path = folder / "suite.yaml"
    path.write_text(yaml.safe_dump(values(**changes)))
    return str(path)


@pytest.mark.parametrize("name", suite_names())
def test_a_suite_that_ships_is_the_one_that_was_frozen(name: str) -> None:
    suite = read_suite(name)
    assert suite.name == name
    assert suite.sha256 == FROZEN[name]


@pytest.mark.parametrize("name", suite_names())
def test_every_arm_lies_within_a_tier_or_is_a_control(name: str) -> None:
    suite = read_suite(name)
    for arm in suite.arms.values():
        assert arm.control or any(arm.access.within(tier) for tier in suite.tiers.values()), arm.name
        assert type(arm.attack).why


def test_the_standard_suite_mounts_every_kind_of_attack() -> None:
    assert {arm.kind for arm in read_suite("standard-v1").arms.values()} == set(ATTACKS)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"attacks": {"x": {"kind": "trace"}}}, "did you mean 'traces'"),
        ({"attacks": {"x": {"kind": "traces", "m": 3}}}, "x sets 'm'"),
        ({"attacks": {"x": {"kind": "traces", "n": "many"}}}, "x: n is 'many'"),
        ({"attacks": {"x": "traces"}}, "x"),
        ({"controls": {}}, "no control leaves the teacher alone"),
        ({"across": ["y"]}, "across names y"),
        ({"tiers": {"t": {"interface": "smoke"}}}, "the tier t"),
        ({"test": {"problems": 1, "samples": 1}}, "test: problems=1"),
        ({"planted": {"p": {"defence": "spam", "attack": "none", "reference": "traces-1", "recovers": "all"}}}, "none"),
        ({"surprise": 1}, "no key 'surprise'"),
        ({"problems": "many"}, "problems is 'many'"),
        ({"worst": {"attacks": 1, "seeds": [True]}}, "a seed of worst is True"),
    ],
)
def test_what_no_suite_can_have_is_refused_by_its_name(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        read_suite(written(tmp_path, **changes))


def test_a_suite_that_lacks_a_key_and_one_that_is_not_there_are_refused(tmp_path: Path) -> None:
    short = values()
    del short["words"]
    (tmp_path / "short.yaml").write_text(yaml.safe_dump(short))
    with pytest.raises(BadInputError, match="lacks words"):
        read_suite(str(tmp_path / "short.yaml"))
    with pytest.raises(BadInputError, match="did you mean 'quick-v1'"):
        read_suite("quick-v2")


def test_the_digest_follows_every_setting(tmp_path: Path) -> None:
    first = read_suite(written(tmp_path)).sha256
    assert read_suite(written(tmp_path, problems=9)).sha256 != first
