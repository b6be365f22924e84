"""A suite names defences by one line each; what isn't known is refused with the nearest that is."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

import distillknob.defences
from distillknob.defences.answers_only import AnswersOnly
from distillknob.defences.choice import DEFENCES, MODEL, is_defence, models_read, parse
from distillknob.defences.product_of_experts import ProductOfExperts
from distillknob.defences.rewritten import Rewritten
from distillknob.errors import BadInputError


def test_a_spec_is_a_defence_with_its_options_and_the_weights_behind_it() -> None:
    assert parse("answers_only") == (AnswersOnly(), None)
    assert parse("product_of_experts?gamma=0.4&proxy=org/small") == (ProductOfExperts(0.4, "org/small"), None)
    assert parse("product_of_experts?gamma=1&model=/runs/a=b").model == "/runs/a=b"
    assert parse("rewritten?prompt={problem} %26 {answer}").defence == Rewritten(prompt="{problem} & {answer}")


def test_only_the_name_says_whether_a_spec_is_a_defence() -> None:
    assert is_defence("answers_only") and is_defence("temperature?nonsense")
    assert not is_defence("zoo:teacher") and not is_defence("temperatures") and not is_defence("/runs/temperature?x=1")


@pytest.mark.parametrize(
    "spec, message",
    [
        ("temprature?tau=2", r"no defence named 'temprature', did you mean 'temperature'\? Known: product_of_experts"),
        ("temperature?tua=2", r"has 'tua=2', did you mean 'tau'\? temperature takes tau=…, model=…"),
        ("temperature?tau=hot", "tau is 'hot', but must be a number"),
        ("temperature?tau=nan", "tau is 'nan': give a finite number"),
        ("temperature?tau=", "has 'tau=': it needs a value"),
        ("temperature?tau", "has 'tau': it needs a value"),
        ("temperature?tau=1&tau=2", "sets tau twice"),
        ("temperature?tau=0", "tau=0.0: a temperature above 0"),
        ("answers_only?gamma=1", "answers_only takes model=…"),
    ],
)
def test_what_is_not_known_is_refused(spec: str, message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        parse(spec)


def test_the_models_that_a_defence_reads_are_known_beforehand() -> None:
    assert models_read(parse("product_of_experts?proxy=org/small").defence) == ["org/small"]
    assert models_read(parse("rewritten?rewriter=org/large").defence) == ["org/large"]
    assert models_read(parse("temperature").defence) == []


def test_every_defence_says_what_it_does_and_with_which_options() -> None:
    for name, cls in DEFENCES.items():
        assert cls.about.endswith(".") and "arXiv" in cls.about, name
        for field in dataclasses.fields(cls):
            assert field.metadata.get("help") and field.name != MODEL, (name, field.name)


def test_every_file_with_a_wrapping_has_a_row() -> None:
    (folder,) = map(Path, distillknob.defences.__path__)
    files = {path.stem for path in folder.glob("*.py") if "(Wrapping)" in path.read_text(encoding="utf-8")}
    assert files == set(DEFENCES)
