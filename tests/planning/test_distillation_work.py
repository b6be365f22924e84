"""What the dry run counts of a distillation's steps is what a training does: who reads each text, and how often."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from distilling import Kept, Rewarded, config
from distillknob.distillation.config import DistillConfig
from distillknob.distillation.stage import distill
from distillknob.planning.hardware import GPUS, Engine
from distillknob.planning.memory import Footprint, footprint
from distillknob.planning.phases import Workload
from distillknob.planning.workload import workload
from pairs import Pair

ONE = Engine(GPUS["h100"])


class Reading(Rewarded):
    """Counts the texts that models read beside the student's writing: with gradients, and without."""

    read: Counter[str]

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        models = [self.model, self.teacher_model, *self.further_models.values()]
        for model in {id(one): one for one in models if one is not None}.values():
            model.base_model.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if kwargs.get("use_cache") is False:
            Reading.read["with" if torch.is_grad_enabled() else "without"] += len(kwargs["input_ids"])


@pytest.mark.parametrize(
    ("method", "values"),
    [
        ("gkd", {"lmbda": 0.0}),
        ("tip", {}),
        ("opd_pg", {"tokens": "entropy"}),
        ("entrocraft", {"num_generations": 4}),
        ("tsd_kd", {}),
        ("edge_body", {"lmbda": 0.0}),
        ("shred", {"traces": "gold"}),
        ("avsd", {}),
        ("delta_kd", {}),
        ("delta_kd", {"teacher_weights": "given"}),
        ("pi_distill", {}),
        ("pi_distill", {"options": {"alpha": 0.0}}),
        ("pi_distill_on_policy", {}),
        ("averaged_teachers", {}),
    ],
)
def test_each_reading_of_a_step_is_counted(
    tiny_pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, values: dict[str, Any]
) -> None:
    monkeypatch.setattr(Kept, "batches", [], raising=False)
    monkeypatch.setattr(Reading, "read", Counter(), raising=False)
    several = {"teachers": {"a": tiny_pair.teacher, "b": tiny_pair.student}} if method == "averaged_teachers" else {}
    settings = config(tiny_pair, method, tasks=["math"], max_steps=1, max_completion_length=8, **several, **values)
    phases = workload("distill", settings, ONE).phases
    distill(settings, tmp_path / "run", trainer_class=Reading)
    assert Reading.read["with"] == sum(one.rows for one in phases if one.kind == "train")
    assert Reading.read["without"] == sum(one.rows for one in phases if one.kind == "score")


def test_an_epoch_has_a_group_of_samples_for_each_problem() -> None:
    values: dict[str, Any] = {"num_train_epochs": 2, "problems": 64, "per_device_train_batch_size": 8}
    alone, groups = (
        workload("distill", DistillConfig(method="opd_rkl", num_generations=size, **values), ONE) for size in (1, 4)
    )
    assert [one.rows for one in alone.phases if one.kind == "train"] == [128]
    assert [one.rows for one in groups.phases if one.kind == "train"] == [4 * 128]


def test_a_student_that_is_read_as_it_was_is_held_once() -> None:
    for kind, held in (("start", ["teacher"]), ("given", ["teacher", "student at the start"])):
        settings = DistillConfig(method="delta_kd", teacher_weights=kind)
        assert [name for name, _ in workload("distill", settings, ONE).resident] == held


def of_training(method: str) -> tuple[Workload, Footprint]:
    """What a method would do, and the memory of its training alone."""
    work = workload("distill", DistillConfig(method=method, max_steps=4), ONE)
    training = dataclasses.replace(work, phases=[one for one in work.phases if one.kind == "train"])
    return work, footprint(training, ONE)


def test_weights_that_are_trained_along_and_clipped_gradients_take_memory() -> None:
    (work, plain), (_, projected), (_, private) = map(of_training, ("gkd", "projection", "dp_opd"))
    (_, teacher), student = work.resident[0], work.trained
    assert student is not None
    along = student.model.hidden * teacher.hidden  # one matrix without a bias
    assert projected.resident["the loss's own weights"] == 16 * along
    answers = projected.phase["projected states"] / (4 * 4 * teacher.hidden)
    assert answers == next(one.at_once * one.answer for one in work.phases if one.kind == "train")
    assert private.resident["clipped gradients"] == 2 * private.resident["gradients"]
    assert not {"the loss's own weights", "clipped gradients"} & plain.resident.keys()
    assert "projected states" not in plain.phase
