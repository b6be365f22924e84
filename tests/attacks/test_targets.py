"""Teachers under attack are named by a model or a defence, each under a label of its own."""

from __future__ import annotations

import pytest

from distillknob.attacks.access import Access
from distillknob.attacks.target import targets_of
from distillknob.errors import BadInputError


def test_a_model_is_called_by_its_run_and_a_defence_by_its_spec() -> None:
    named = ["runs/eta+0.5/model", "answers_only", "hot=temperature?tau=1.5&model=runs/b/model", "org/Name-8B"]
    targets = targets_of("zoo:teacher", named)
    assert [target.label for target in targets] == ["original", "eta+0.5", "answers_only", "hot", "Name-8B"]
    assert [target.model for target in targets] == [
        "zoo:teacher",
        "runs/eta+0.5/model",
        "zoo:teacher",
        "runs/b/model",
        "org/Name-8B",
    ]
    assert targets[0].original and targets[0].defence is None and targets[3].defence is not None


@pytest.mark.parametrize("named", [["a/x/model", "b/x/model"], ["original=a"], ["answers_only", "answers_only"]])
def test_two_targets_of_one_label_are_refused_with_the_remedy(named: list[str]) -> None:
    with pytest.raises(BadInputError, match="LABEL="):
        targets_of("zoo:teacher", named)


def test_an_option_that_a_defence_has_not_is_refused() -> None:
    with pytest.raises(BadInputError, match="gama"):
        targets_of("zoo:teacher", ["product_of_experts?gama=0.5"])


@pytest.mark.parametrize(
    "needs, tier, within",
    [
        (Access("text", queries=8), Access("text", queries=8), True),
        (Access("text", queries=9), Access("text", queries=8), False),
        (Access("text", queries=1), Access("answers", queries=8), False),
        (Access("answers", queries=1), Access("prefill", queries=8), True),
        (Access("text", labels=True), Access("text"), False),
        (Access("text", clean=0.5), Access("text", clean=0.25, labels=True), False),
        (Access("none"), Access("answers"), True),
    ],
)
def test_an_attack_lies_within_a_tier_that_allows_all_it_needs(needs: Access, tier: Access, within: bool) -> None:
    assert needs.within(tier) is within


def test_an_unknown_interface_is_refused() -> None:
    with pytest.raises(BadInputError, match="did you mean 'logits'"):
        Access("logit")
