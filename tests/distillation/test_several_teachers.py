"""Several teachers: each task's own, or the mean of all; which is which, and what makes no sense."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, tensor

from distilling import config, keep
from distillknob.distillation.config import DistillConfig
from distillknob.distillation.losses.base import States
from distillknob.distillation.several_teachers import averaged, routed
from distillknob.distillation.stage import distill
from distillknob.divergences.dense import divergence
from distillknob.errors import BadInputError
from distillknob.models.heads import Head
from distillknob.models.load import load_model
from distillknob.planning.hardware import GPUS, Engine
from distillknob.planning.workload import workload
from pairs import Pair


def read(batch: Mapping[str, Tensor], name: str) -> States:
    """A teacher that gives the probabilities of its name everywhere; the two have states of two widths."""
    probabilities = {"one": [0.8, 0.2], "two": [0.4, 0.6]}[name]
    width = {"one": 2, "two": 3}[name]
    weight = torch.zeros(2, width)
    weight[:, 0] = tensor(probabilities).log()
    states = torch.zeros(len(batch["completion_ids"]), 1, width)
    states[..., 0] = 1
    return States(Head(weight, None, 1.0, None), states)


def probabilities(states: States) -> list[list[float]]:
    """Of the first token of each row, as the joined head makes them."""
    return [[round(p, 5) for p in row] for row in states.head.logits(states.hidden_BCH[:, 0]).softmax(-1).tolist()]


def batch_of(route: list[int]) -> dict[str, Tensor]:
    return {"completion_ids": torch.zeros(len(route), 1, dtype=torch.long), "route": tensor(route)}


def test_each_row_is_read_by_its_own_teacher() -> None:
    rows = probabilities(routed(read, ["one", "two"], batch_of([1, 0, 1])))
    assert rows == [[0.4, 0.6], [0.8, 0.2], [0.4, 0.6]]
    assert probabilities(routed(read, ["one", "two"], batch_of([0, 0]))) == [[0.8, 0.2]] * 2
    assert probabilities(routed(read, ["two", "one"], batch_of([0, 1, 0]))) == rows  # permuted with their tags


def test_a_teacher_s_log_ratio_is_that_of_the_row_s_own() -> None:
    """log p of −0.2 and −1 beside a student's −0.5 are advantages of 0.3 and −0.5, by route."""

    def spoken(batch: Mapping[str, Tensor], name: str) -> States:
        likely = math.exp({"one": -0.2, "two": -1.0}[name])
        weight = tensor([[likely], [1 - likely]]).log()
        return States(Head(weight, None, 1.0, None), torch.ones(len(batch["completion_ids"]), 1, 1))

    states = routed(spoken, ["one", "two"], batch_of([0, 1]))
    logprob = states.head.logits(states.hidden_BCH[:, 0]).log_softmax(-1)[:, 0]
    assert (logprob - -0.5).tolist() == pytest.approx([0.3, -0.5], abs=1e-6)


def test_the_mean_is_one_of_probabilities() -> None:
    assert probabilities(averaged(read, ["one", "two"], batch_of([0, 0]))) == [[0.6, 0.4]] * 2
    assert probabilities(averaged(read, ["two", "one"], batch_of([0]))) == [[0.6, 0.4]]
    assert probabilities(averaged(read, ["one"], batch_of([0]))) == [[0.8, 0.2]]


def plain_logits(folder: str, batch: dict[str, Any]) -> Tensor:
    ids, mask = (torch.cat([batch[f"prompt_{x}"], batch[f"completion_{x}"]], dim=1) for x in ("ids", "mask"))
    with torch.no_grad():
        logits: Tensor = load_model(folder).model(input_ids=ids, attention_mask=mask).logits
    return logits[:, -batch["completion_ids"].size(1) - 1 : -1]


def test_a_training_takes_each_task_s_own_teacher(
    tiny_pair: Pair, tmp_path: Path, batches: list[dict[str, Any]]
) -> None:
    """The student's own checkpoint teaches one of the tasks, so that there is nothing to learn in it at first."""
    teachers = {"math": tiny_pair.teacher, "qa": tiny_pair.student}
    values = {"tasks": ["math", "qa"], "max_steps": 1, "per_device_train_batch_size": 8, "max_completion_length": 12}
    settings = config(tiny_pair, "mopd", teachers=teachers, **values)
    run = keep(settings, tmp_path / "run")
    (batch,) = batches
    names = settings.several_teachers
    here, ids = batch["completion_mask"].bool(), batch["completion_ids"][..., None]
    for number, name in enumerate(names):
        rows = batch["route"] == number
        assert rows.any()
        theirs, ours = (plain_logits(one, batch).log_softmax(-1).gather(-1, ids) for one in (name, tiny_pair.student))
        mask = here & rows[:, None]
        assert torch.allclose(batch["advantage"][mask], (theirs - ours)[..., 0][mask], atol=1e-4)
        assert (batch["advantage"][mask].abs().max() > 1e-3) == (name == tiny_pair.teacher)
    assert run.result["teacher"] == ", ".join(names)
    assert {*names} <= {*settings.models_read} == {name for name, _ in settings.revisions_read}


def test_a_dry_run_counts_every_teacher() -> None:
    routed_config = DistillConfig(method="mopd", tasks=["math", "qa"], teachers=TWO)
    for settings, share in (
        (routed_config, 0.5),
        (DistillConfig(method="averaged_teachers", tasks=["math", "qa"], teachers=TWO), 1.0),
    ):
        work = workload("distill", settings, Engine(GPUS["h100"]))
        read = [phase.rows for phase in work.phases if phase.what == "teacher"]
        trained = next(phase.rows for phase in work.phases if phase.what == "training")
        assert read == [share * trained] * 2 and [what for what, _ in work.resident].count("teacher") == 2


def test_permuting_teachers_with_their_tasks_changes_nothing(tiny_pair: Pair, tmp_path: Path) -> None:
    values = {"tasks": ["math", "qa"], "max_completion_length": 8, "problems": 6}
    both = [("math", tiny_pair.teacher), ("qa", tiny_pair.student)]
    logs = []
    for place, teachers in enumerate((dict(both), dict(reversed(both)))):
        run = distill(config(tiny_pair, "mopd", teachers=teachers, **values), tmp_path / str(place))
        logs.append([row["loss"] for row in run.metrics() if "loss" in row])
    assert logs[0] == logs[1] and logs[0]


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl"])
def test_a_training_takes_the_mean_of_all_teachers(
    tiny_pair: Pair, tmp_path: Path, batches: list[dict[str, Any]], kind: str
) -> None:
    teachers = {"large": tiny_pair.teacher, "small": tiny_pair.student}
    keep(config(tiny_pair, "averaged_teachers", teachers=teachers, divergence=kind, max_steps=1), tmp_path / "run")
    (batch,) = batches
    here = batch["completion_mask"].bool()
    theirs, ours = (plain_logits(name, batch)[here] for name in tiny_pair)
    mean = (theirs.softmax(-1) + ours.softmax(-1)) / 2
    value = divergence(ours, mean.log(), kind).sum() / batch["items"]
    assert batch["loss"] == pytest.approx(float(value), rel=1e-3) and batch["loss"] > 0


ONE, TWO = {"math": "zoo:teacher"}, {"math": "zoo:teacher", "qa": "zoo:student"}


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"method": "mopd"}, "set both, or neither"),
        ({"method": "gkd", "teachers": ONE}, "set both, or neither"),
        ({"method": "mopd", "teachers": {"maths": "zoo:teacher"}}, "did you mean 'math'"),
        ({"method": "mopd", "teachers": ONE, "tasks": ["math", "qa"]}, "names none for qa"),
        ({"method": "averaged_teachers", "teachers": ONE}, "at least two models"),
        ({"method": "averaged_teachers", "teachers": TWO, "divergence": "sceptical"}, "one model's own states"),
        ({"method": "averaged_teachers", "teachers": TWO, "lmbda": 0.5, "traces": "teacher"}, "are one teacher's"),
        ({"method": "mopd", "teachers": ONE, "first": "sft"}, "would learn from one teacher"),
        ({"method": "mopd", "teachers": ONE, "teacher_model_revision": "v1"}, "one model's"),
    ],
)
def test_what_makes_no_sense_is_refused(values: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInputError, match=told):
        DistillConfig(**values)


def test_a_teacher_of_another_tokenizer_is_refused_before_any_work(
    tiny_pair: Pair, tiny_other: str, tmp_path: Path
) -> None:
    for teachers in ({"a": tiny_pair.teacher, "b": tiny_other}, {"a": tiny_other, "b": tiny_pair.teacher}):
        with pytest.raises(BadInputError, match="different tokenizers"):
            distill(config(tiny_pair, "averaged_teachers", teachers=teachers), tmp_path / "run")
    missing = {"a": tiny_pair.teacher, "b": str(tmp_path / "nowhere")}
    with pytest.raises(BadInputError, match="nowhere"):
        distill(config(tiny_pair, "averaged_teachers", teachers=missing), tmp_path / "run")
    assert not (tmp_path / "run").exists()
