"""A sceptical student: what its exit reads, and how far the teacher's distributions get into it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from distilling import Parity, config_of
from distillknob.attacks.base import NotApplicableError
from distillknob.attacks.sceptical import Sceptical
from distillknob.distillation.check import check
from distillknob.distillation.config import DistillConfig
from distillknob.distillation.losses import LOSSES, States, View
from distillknob.errors import BadInputError
from distillknob.inputs.preflight import Preflight
from distillknob.models.exits import exit_at
from distillknob.models.heads import head_of
from distillknob.models.load import load_model
from distillknob.runs.run import load_run
from pairs import Pair
from planted_scene import PlantedScene
from tiny_architectures import ARCHITECTURES, made

IDS = torch.arange(5, 21).view(2, 8)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_exit_has_the_states_between_two_layers(architecture: str, tmp_path: Path) -> None:
    model = load_model(made(architecture, tmp_path / architecture, 1)).model
    with exit_at(model, 1 / 3).read() as states, torch.no_grad():
        whole: Any = model(input_ids=IDS, output_hidden_states=True)
    (read_BTH,) = states
    left: Any = model.base_model
    norm = left.final_layer_norm if architecture == "gpt_neox" else left.norm
    with torch.no_grad():
        torch.testing.assert_close(read_BTH, norm(whole.hidden_states[1]))
    assert not torch.allclose(read_BTH, whole.hidden_states[-1])


@pytest.mark.parametrize("recomputed", [False, True])
def test_what_an_exit_learns_moves_the_layers_below_it_alone(recomputed: bool, tmp_path: Path) -> None:
    model: Any = load_model(made("qwen3", tmp_path / "model", 1)).model.train()
    if recomputed:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    with exit_at(model, 0.5).read() as states:
        model(input_ids=IDS, use_cache=False)
    states[0].square().mul(torch.arange(32)).sum().backward()
    moved = {name for name, weight in model.named_parameters() if weight.grad is not None and bool(weight.grad.any())}
    assert moved == {n for n, _ in model.named_parameters() if ".layers.0." in n or "embed_tokens" in n}


def gradients(teacher_NH: Tensor, tmp_path: Path) -> dict[str, Tensor]:
    """The gradients of the loss on a student of two layers, whose teacher has these states."""
    torch.manual_seed(0)
    model: Any = load_model(made("qwen2", tmp_path, 1)).model
    with exit_at(model, 1 / 3).read() as below:
        hidden_BTH = model.base_model(input_ids=IDS, use_cache=False).last_hidden_state
    student = States(head_of(model), hidden_BTH[:, :-1], below[0][:, :-1])
    frozen = load_model(made("qwen2", tmp_path, 1)).model
    taught = States(head_of(frozen), teacher_NH)
    batch = {"completion_ids": IDS[:, 1:]}
    counted_BC = torch.ones(2, 7, dtype=torch.bool)
    view = View(batch, counted_BC, 14, student=lambda: student, teacher=lambda prompt, model: taught)
    loss = LOSSES["sceptical"](DistillConfig())
    value = loss.value(view)
    torch.testing.assert_close(value, loss.per_token(view).sum() / 14)
    value.backward()
    return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


def test_the_teacher_s_distributions_stop_at_the_exit(tmp_path: Path) -> None:
    first, second = (gradients(torch.randn(2, 7, 32, generator=seeded), tmp_path) for seeded in map(seed, (1, 2)))
    assert first.keys() == second.keys()
    for name, gradient in first.items():
        lower = ".layers.0." in name or "embed_tokens" in name
        assert torch.allclose(gradient, second[name], atol=1e-6) is not lower, name


def seed(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


@pytest.fixture
def scene(tiny_pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PlantedScene:
    monkeypatch.setattr("distillknob.tasks.generated.qa.QA.grade", Parity.grade)
    return PlantedScene(tiny_pair.teacher, tiny_pair.student, tmp_path)


def test_a_deeper_student_learns_from_right_answers_by_the_sceptical_loss(scene: PlantedScene) -> None:
    scene.student_name = deeper(scene.student_name, scene.folder / "deep")
    scene.per_task = 24
    student = Sceptical(n=4).student(scene)
    assert load_run(student.parent).config["divergence"] == "sceptical"
    assert scene.trained and len(scene.trained) < 24
    assert load_model(str(student)).model.config.num_hidden_layers == 3


def deeper(student: str, folder: Path) -> str:
    """The student with its layer three times over."""
    loaded: Any = load_model(student)
    layer = loaded.model.base_model.layers[0]
    config = loaded.model.config
    config.num_hidden_layers, config.layer_types = 3, config.layer_types * 3
    model: Any = type(loaded.model)(config)
    model.load_state_dict(loaded.model.state_dict(), strict=False)
    for copy in model.base_model.layers:
        copy.load_state_dict(layer.state_dict())
    model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    return str(folder)


def test_one_layer_has_no_exit_below_it(scene: PlantedScene, tiny_pair: Pair) -> None:
    with pytest.raises(BadInputError, match="has 1 layer, and an exit has to lie below the last"):
        exit_at(load_model(tiny_pair.student).model, 1 / 3)
    with pytest.raises(BadInputError, match=r"loss sceptical: it reads an exit below .* has 1 layer"):
        check(config_of(tiny_pair, method="gkd", divergence="sceptical"), Preflight())
    with pytest.raises(NotApplicableError, match="has 1 layer"):
        Sceptical().student(scene)


def test_another_vocabulary_has_no_distributions_to_learn(scene: PlantedScene, tiny_other: str) -> None:
    scene.student_name = tiny_other
    with pytest.raises(NotApplicableError, match="another tokenizer than the target"):
        Sceptical().student(scene)
