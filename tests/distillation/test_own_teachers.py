"""Whose weights teach: the student as it was, as it is, or its moving average, end to end."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from distilling import Kept, config_of, keep, without_measures
from distillknob.distillation.config import DistillConfig
from distillknob.distillation.moving_average import AVERAGE, AverageTeacher, MovingAverage, check_average
from distillknob.distillation.stage import distill
from distillknob.divergences.dense import divergence
from distillknob.errors import BadInputError
from distillknob.models.load import load_model
from distillknob.planning.hardware import GPUS, Engine
from distillknob.planning.workload import workload
from interrupted import Stopped, stopped_in, weights
from pairs import Pair


class Taught(Kept):
    """Keeps the teacher's logits with each batch."""

    def _compute_loss(self, unwrapped_student: Any, inputs: dict[str, Any], num_items_in_batch: Any) -> Any:
        values = super()._compute_loss(unwrapped_student, inputs, num_items_in_batch)
        name = "teacher_prompt" if "teacher_prompt_ids" in inputs else "prompt"
        model = self.accelerator.unwrap_model(self.teacher_model)
        trained = model.training
        model.eval()
        Kept.batches[-1] |= {
            "student": logits_of(unwrapped_student, inputs, "prompt"),
            "teacher": logits_of(model, inputs, name),
            "moved": adapter_moved(unwrapped_student),
        }
        model.train(trained)
        return values


def logits_of(model: Any, batch: dict[str, Tensor], prompt: str) -> Tensor:
    ids, mask = (torch.cat([batch[f"{prompt}_{w}"], batch[f"completion_{w}"]], dim=1) for w in ("ids", "mask"))
    with torch.no_grad():
        logits: Tensor = model(input_ids=ids, attention_mask=mask).logits
    return logits[:, -batch["completion_ids"].size(1) - 1 : -1]


def adapter_moved(model: Any) -> float:
    return max((float(p.detach().abs().max()) for n, p in model.named_parameters() if "lora_B" in n), default=0.0)


@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize("kind", ["start", "average", "itself"])
def test_the_student_s_own_weights_teach(
    tiny_pair: Pair, tmp_path: Path, batches: list[dict[str, Any]], kind: str, adapter: bool
) -> None:
    values: dict[str, Any] = {"teacher_weights": kind, "use_peft": adapter, "learning_rate": 5e-2}
    if kind == "average":
        values["options"] = {"average_rate": 0.5}
    settings = config_of(tiny_pair, method="gkd", lmbda=1.0, context="reference", **values)
    run = distill(settings, tmp_path / "run", trainer_class=Taught)
    start = load_model(tiny_pair.student).model
    ours, theirs = [], []
    for batch in batches:
        here = batch["completion_mask"].bool()
        value = divergence(batch["student"][here], batch["teacher"][here], "jsd").mean()
        assert batch["loss"] == pytest.approx(float(value), rel=1e-3) and batch["loss"] > 1e-5
        base = logits_of(start, batch, "teacher_prompt")[here]
        theirs.append(float((batch["teacher"][here] - base).abs().max()))
        ours.append(float((batch["student"][here] - logits_of(start, batch, "prompt")[here]).abs().max()))
    assert theirs[0] < 1e-4 and ours[0] < 1e-4 and ours[1] > 1e-3  # all begin alike, and the student moves
    assert (theirs[1] < 1e-4) == (kind == "start")
    assert adapter == (batches[1]["moved"] > 0)
    assert run.result["teacher"] == tiny_pair.student
    title = next(line for line in (run.path / "model/README.md").read_text().splitlines() if line.startswith("# "))
    assert title.endswith({"start": "as it was before", "average": "moving average", "itself": "at each step"}[kind])


@pytest.mark.parametrize(
    ("kind", "loss"),
    [
        ("start", "reverse_kl"),
        ("start", "jsd"),
        ("start", "clipped_forward_kl"),
        ("start", "top_k_renormalised"),
        ("average", "reverse_kl"),
    ],
)
def test_without_a_context_the_student_s_own_weights_have_nothing_to_teach(
    tiny_pair: Pair, tmp_path: Path, batches: list[dict[str, Any]], kind: str, loss: str
) -> None:
    """A loss may be 0 and still move a student: its gradient has to be 0, too. Of one step: Adam enlarges rounding."""
    run = keep(
        config_of(tiny_pair, method="opd_rkl", teacher_weights=kind, divergence=loss, max_steps=1), tmp_path / "run"
    )
    assert [batch["loss"] for batch in batches] == [pytest.approx(0.0, abs=2e-7)]
    assert all(row["grad_norm"] < 1e-5 for row in run.metrics() if "grad_norm" in row)


# The moving average


def averaged(moves: MovingAverage, steps: int, student: float = 1.0) -> list[float]:
    """The teacher's one weight, which begins at 0, after each step of a student that stands still."""
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    teacher = AverageTeacher(model, moves)
    torch.nn.init.constant_(model.weight, student)
    values = []
    for step in range(1, steps + 1):
        teacher.on_step_end(None, SimpleNamespace(global_step=step), None)
        values.append(float(teacher.model.weight.detach()))
    return values


def test_the_average_moves_by_its_rate_at_every_n_th_step_alone() -> None:
    every_fifth = averaged(MovingAverage(average_rate=0.005, average_every=5), 25)
    assert every_fifth[-1] == pytest.approx(1 - 0.995**5) and every_fifth[-1] == pytest.approx(0.0247512, abs=1e-6)
    assert every_fifth[:4] == [0.0] * 4
    assert all(every_fifth[n] == every_fifth[n - 1] for n in range(1, 25) if (n + 1) % 5)
    assert averaged(MovingAverage(average_rate=1.0), 1) == [1.0]
    assert averaged(MovingAverage(average_rate=0.0), 3) == [0.0] * 3
    copied = averaged(MovingAverage(average_rate=0.005, average_every=5, average_copy_every=30), 30)
    assert copied[28] < 0.03 and copied[29] == 1.0


@pytest.mark.parametrize("adapter", [False, True])
def test_an_interrupted_average_goes_on_as_an_unbroken_one(tiny_pair: Pair, tmp_path: Path, adapter: bool) -> None:
    def values() -> DistillConfig:
        return config_of(
            tiny_pair,
            method="opd_rkl",
            context="reference",
            teacher_weights="average",
            options={"average_rate": 0.3},
            use_peft=adapter,
            merge_adapter=adapter,
            max_steps=4,
            save_steps=2,
            learning_rate=5e-2,
        )

    unbroken = distill(values(), tmp_path / "unbroken")
    with pytest.raises(Stopped):
        distill(values(), tmp_path / "killed", trainer_class=stopped_in(4))
    assert (tmp_path / "killed" / "checkpoints" / "checkpoint-2" / AVERAGE).is_file()
    resumed = distill(values(), tmp_path / "killed", resume=True)
    a, b = weights(resumed.path), weights(unbroken.path)
    assert all(torch.equal(a[name], b[name]) for name in b)
    assert resumed.metrics()[-1]["step"] == 4 and without_measures(resumed.result) == without_measures(unbroken.result)


def test_a_checkpoint_without_its_average_is_none(tiny_pair: Pair, tmp_path: Path) -> None:
    """A kill between the two files leaves it so: the run goes on before it."""
    teacher = AverageTeacher(torch.nn.Linear(1, 1), MovingAverage())
    with pytest.raises(BadInputError, match=f"has no {AVERAGE}"):
        teacher.restore(tmp_path)


class Zero:
    """DeepSpeed's part of a config."""

    def __init__(self, zero_stage: int, **precision: bool):
        self.zero_stage = zero_stage
        self.deepspeed_config = {name: {"enabled": on} for name, on in precision.items()}


@pytest.mark.parametrize(
    ("plugin", "told"),
    [
        (Zero(3), "with ZeRO-3: the weights are spread"),
        (Zero(2, bf16=True), "DeepSpeed keeps weights in bf16.*lost in rounding"),
        (Zero(1, bf16=False, fp16=True), "DeepSpeed keeps weights in fp16.*lost in rounding"),
        (Zero(2, bf16=False), None),
        (None, None),
    ],
)
def test_an_average_under_deepspeed_needs_whole_weights_in_float32(plugin: Zero | None, told: str | None) -> None:
    """DeepSpeed itself isn't run here."""
    settings = DistillConfig(method="sdft")
    settings.deepspeed_plugin = plugin  # as TRL leaves it
    if told is None:
        check_average(settings)
        return
    with pytest.raises(BadInputError, match=told):
        check_average(settings)


def test_an_average_of_spread_weights_is_refused_with_the_config(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(BadInputError, match="average with FSDP: the weights are spread"):
        DistillConfig(method="sdft")
    assert DistillConfig(method="opsd").method == "opsd"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", torch.bfloat16])
def test_an_average_in_half_precision_is_refused_with_the_config(dtype: Any) -> None:
    values: dict[str, Any] = {"method": "sdft", "model_init_kwargs": {"dtype": dtype}}
    with pytest.raises(BadInputError, match=r"load the student in b?float16.*lost in rounding"):
        DistillConfig(**values)
    assert DistillConfig(**values, use_peft=True).use_peft  # an adapter is float32


def test_an_average_of_a_checkpoint_in_half_precision_is_refused_when_its_type_is_known(
    tiny_pair: Pair, tmp_path: Path
) -> None:
    half = load_model(tiny_pair.student, dtype="bfloat16")
    half.model.save_pretrained(tmp_path / "half")
    half.tokenizer.save_pretrained(tmp_path / "half")
    values: dict[str, Any] = {"teacher_weights": "average", "context": "reference"}
    pair = Pair(tiny_pair.teacher, str(tmp_path / "half"))
    settings = config_of(pair, method="opd_rkl", model_init_kwargs={"dtype": "auto"}, **values)
    with pytest.raises(BadInputError, match=r"is torch.bfloat16.*lost in rounding"):
        distill(settings, tmp_path / "run")


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"teacher_weights": "average", "options": {"average_every": 1.5}}, "give a whole number"),
        ({"teacher_weights": "average", "options": {"average_rate": 1.5}}, "between 0 and 1"),
        ({"teacher_weights": "start", "options": {"average_rate": 0.5}}, "which this method doesn't have"),
        ({"teacher_weights": "mean"}, "teacher_weights='mean'"),
    ],
)
def test_what_makes_no_average_is_refused(values: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInputError, match=told):
        DistillConfig(method="opd_rkl", context="reference", **values)


def test_a_dry_run_counts_a_teacher_s_weights_where_there_are_any() -> None:
    kinds = {"given": True, "start": True, "average": True, "itself": False}
    for kind, own in kinds.items():
        settings = DistillConfig(method="opd_rkl", context="reference", teacher_weights=kind)
        assert [name for name, _ in workload("distill", settings, Engine(GPUS["h100"])).resident] == ["teacher"] * own
