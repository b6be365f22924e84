"""What attacks on a target's weights share: whether these are the target, what a distillation from them took, and how
weights that an attack has changed are written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from distillknob.attacks.base import NotApplicableError, Scene
from distillknob.models.base import LanguageModel
from distillknob.models.load import load_model
from distillknob.models.names import SERVED
from distillknob.runs.files import atomic_directory
from distillknob.runs.run import load_run
from distillknob.runtime.template_date import undated


def check_weights_are_the_target(scene: Scene) -> None:
    """Raise NotApplicableError where the target's weights aren't there to be read, or aren't what answers."""
    if scene.teacher_name.startswith(SERVED):
        raise NotApplicableError(
            f"{scene.teacher_name!r} is behind a server, and this attack reads the target's weights: attack a folder "
            "or hub id, or use an attack on text"
        )
    if scene.acts_when_sampled:
        raise NotApplicableError(
            "the defence acts when the target is sampled from, and this attack reads the weights behind it, which are "
            "undefended: use top_k, which sees the defended distribution, or an attack on text"
        )


def count_texts(scene: Scene, student: Path) -> None:
    """Count what the distillation run around a student's `model/` took from the target.

    An answer is a trace that the target wrote, or a text of the student's own that it scored: one of those of which the
    loss counted a token. Their tokens are those of whole traces, and those of the student's that the loss counted.
    """
    run = load_run(student.parent)
    written = [len(row["completion_ids"]) for row in run.samples() if row["completion_ids"]]
    scored = [row for row in run.metrics() if row.get("on_policy")]
    texts = sum(int(row["trained_texts"]) for row in scored)
    scene.count(len(written) + texts, sum(written) + sum(int(row["trained_tokens"]) for row in scored))


def changed_weights(scene: Scene, name: str, change: Callable[[Any], None]) -> str:
    """Write the target's weights as `change` leaves them (a model of transformers, in float32 and in place) into the
    scene's folder `name`, which is returned, and which loads like any model. Weights that were written before the cell
    was stopped are not made again. Raises NotApplicableError as `check_weights_are_the_target`."""
    check_weights_are_the_target(scene)
    folder = scene.folder / name
    if not folder.exists():
        loaded = load_model(scene.teacher_name, dtype="float32", whole=True)
        change(loaded.model)
        write_model(loaded, folder)
    return str(folder)


def write_model(model: LanguageModel, folder: Path) -> None:
    """Write a model and its tokenizer into `folder`, all of it or nothing."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic_directory(folder) as partial:
        model.model.save_pretrained(partial)
        with undated(model.tokenizer):
            model.tokenizer.save_pretrained(partial)


def matrices(model: Any) -> Iterator[Tensor]:
    """Yield the weight matrices of a model's layers, [R, C] views that may be changed in place: each expert's its own,
    embeddings, head and norms left out."""
    outside = {id(module.weight) for module in (model.get_input_embeddings(), model.get_output_embeddings())}
    for parameter in model.parameters():
        if parameter.ndim >= 2 and id(parameter) not in outside:
            yield from parameter.data.reshape(-1, *parameter.shape[-2:])
