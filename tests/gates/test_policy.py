"""A policy is read strictly: what can't be meant is refused by its line, with the remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from distillknob.attacks.suite import read_suite
from distillknob.config.shipped import find_policy
from distillknob.errors import BadInputError
from distillknob.gates.policy import Policy, read_policy

GOOD: dict[str, Any] = {
    "suite": "standard-v1",
    "tier": {"interface": "text", "queries": 128, "labels": True},
    "largest_recovered": 0.25,
    "smallest_utility": -0.015,
    "attacks": ["traces"],
}


def read(tmp_path: Path, **changes: Any) -> Policy:
    content = {key: value for key, value in {**GOOD, **changes}.items() if value is not ...}
    (tmp_path / "policy.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return read_policy(tmp_path / "policy.yaml")


def test_a_policy_says_its_limits_and_the_rest_has_defaults(tmp_path: Path) -> None:
    policy = read(tmp_path, external=["others.json"])
    assert (policy.largest_recovered, policy.smallest_utility, policy.seeds, policy.attackers) == (0.25, -0.015, 3, 1)
    assert str(policy.tier) == "text · 128× queries · labels"
    assert policy.external == [str(tmp_path / "others.json")]


def test_the_shipped_policies_can_be_read_by_their_names() -> None:
    assert read_policy(find_policy("text-tier")).largest_recovered == 0.25
    with pytest.raises(BadInputError, match=r"no policy text-teir.*did you mean 'text-tier'"):
        find_policy("text-teir")


@pytest.mark.parametrize("name", ["first-look", "text-tier"])
def test_a_shipped_policy_asks_for_what_its_suite_has_at_the_tier(name: str) -> None:
    policy = read_policy(find_policy(name))
    suite = read_suite(policy.suite)
    assert policy.tier in suite.tiers.values()
    for attack in policy.attacks:
        assert suite.arms[attack].access.within(policy.tier), attack


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"largest_recoverd": 0.2}, "line 10: .*largest_recoverd, did you mean 'largest_recovered'"),
        ({"tier": {"interface": "text", "quries": 8}}, "line 4: .*tier.quries, did you mean 'queries'"),
        ({"tier": {"interface": "txt", "queries": 8}}, "line 2: interface='txt', did you mean 'text'"),
        ({"tier": {"interface": "text"}}, "needs tier.queries"),
        ({"tier": {"queries": 8}}, "needs tier.interface"),
        ({"tier": {"interface": "none", "queries": 8}}, "never sees the teacher"),
        ({"tier": {"interface": "text", "queries": -1}}, "queries from 0 on"),
        ({"tier": {"interface": "text", "queries": "many"}}, "tier.queries is 'many', but must be a number"),
        ({"tier": {"interface": "text", "queries": 8, "labels": "maybe"}}, "tier.labels is 'maybe'"),
        ({"tier": "text"}, "tier is 'text': it must hold"),
        ({"tier": ...}, "needs tier"),
        ({"suite": ...}, "needs suite"),
        ({"attacks": ...}, "needs attacks"),
        ({"attacks": []}, "name at least one attack"),
        ({"attacks": ["traces", "traces"]}, "each attack once"),
        ({"attacks": "traces"}, "attacks is 'traces', but must be a list"),
        ({"largest_recovered": ...}, "needs largest_recovered"),
        ({"largest_recovered": 25}, "line 6: largest_recovered=25: .*25 % is 0.25"),
        ({"largest_recovered": float("nan")}, "finite number"),
        ({"largest_recovered": True}, "largest_recovered is true"),
        ({"smallest_utility": 1.5}, "a loss of 1.5 points is -0.015"),
        ({"smallest_utility": -1.5}, "between -1 and 0"),
        ({"seeds": 0}, "seeds=0: must be at least 1"),
        ({"seeds": 2.5}, "seeds is 2.5, but must be a whole number"),
        ({"attackers": 0}, "attackers=0"),
        ({"age_days": 0}, "age_days=0"),
        ({"suite_sha256": "abc"}, "64 hexadecimal digits"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        read(tmp_path, **changes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the policy .* is empty"),
        ("- a\n", "the policy .* must hold"),
        ("suite: a\nsuite: b\n", "line 2: the key 'suite' occurs twice"),
        ("suite: [\n", "mend the YAML"),
    ],
)
def test_a_file_that_is_no_policy(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "policy.yaml").write_text(text)
    with pytest.raises(BadInputError, match=message):
        read_policy(tmp_path / "policy.yaml")
