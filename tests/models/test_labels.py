"""What a config's `[LABEL=]SPEC` means, and what a model without a label is called."""

from __future__ import annotations

import pytest

from distillknob.models.labels import labelled, model_label


@pytest.mark.parametrize(
    "named, label, spec",
    [
        ("eta-0.5=runs/a/model", "eta-0.5", "runs/a/model"),
        ("zoo:teacher", None, "zoo:teacher"),
        ("defence?option=value", None, "defence?option=value"),
        ("a=b?option=value", "a", "b?option=value"),
        ("folder/x=y", None, "folder/x=y"),
    ],
)
def test_a_label_stands_before_the_first_equals_sign(named: str, label: str | None, spec: str) -> None:
    assert labelled(named) == (label, spec)


@pytest.mark.parametrize(
    "name, label",
    [("runs/harder/model", "harder"), ("zoo:teacher", "zoo-teacher"), ("org/name", "name"), ("model", "model")],
)
def test_a_model_is_called_by_its_run_or_its_own_name(name: str, label: str) -> None:
    assert model_label(name) == label
