"""LoRA in both stages: what is trained, what is saved, and that both forms of the result are one model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from distillknob.calibration.config import CalibrationConfig
from distillknob.calibration.held_out import task_scores
from distillknob.calibration.stage import calibrate
from distillknob.distillation.config import DistillConfig
from distillknob.distillation.stage import distill
from distillknob.errors import BadInputError
from distillknob.models.load import load_model
from distillknob.models.scoring import sequence_logprob
from distillknob.tasks import get_task
from interrupted import Stopped, stopped_in
from pairs import Pair

LORA: dict[str, Any] = {"use_peft": True, "lora_r": 4, "lora_alpha": 8}


def calibration(pair: Pair, **values: Any) -> CalibrationConfig:
    return CalibrationConfig(
        **{
            "teacher": pair.teacher,
            "target": pair.student,
            "eta": 0.5,
            "reward": "sequence",
            "gate": False,
            "max_steps": 3,
            "learning_rate": 1e-2,
            "num_generations": 2,
            "per_device_train_batch_size": 8,
            "gradient_checkpointing": False,
            "problems": 12,
            "guard_problems": 5,
            "guard_samples": 1,
            "max_completion_length": 8,
            "guard": False,
            **LORA,
            **values,
        }
    )


def distillation(pair: Pair, **values: Any) -> DistillConfig:
    return DistillConfig(
        **{
            "teacher": pair.teacher,
            "student": pair.student,
            "method": "gkd",
            "lmbda": 0.0,
            "max_steps": 3,
            "learning_rate": 1e-2,
            "per_device_train_batch_size": 4,
            "gradient_checkpointing": False,
            "problems": 12,
            "max_completion_length": 8,
            **LORA,
            **values,
        }
    )


def likelihoods(name: str) -> torch.Tensor:
    task = get_task("math")
    examples = task.examples("test", 6)
    prompts, texts = [task.messages(e) for e in examples], [e.gold_solution for e in examples]
    return sequence_logprob(load_model(name), prompts, texts, [True] * 6)


@pytest.mark.parametrize("stage", ["calibrate", "distill"])
def test_the_adapter_and_the_merged_model_are_one(tiny_pair: Pair, tmp_path: Path, stage: str) -> None:
    def trained(folder: Path, **values: Any) -> Path:
        if stage == "calibrate":
            return calibrate(calibration(tiny_pair, **values), folder).path / "model"
        return distill(distillation(tiny_pair, **values), folder).path / "model"

    adapter, merged = trained(tmp_path / "adapter"), trained(tmp_path / "merged", merge_adapter=True)
    assert (adapter / "adapter_config.json").exists() and not (adapter / "model.safetensors").exists()
    assert (merged / "model.safetensors").exists() and not (merged / "adapter_config.json").exists()
    assert (adapter / "adapter_model.safetensors").stat().st_size < (merged / "model.safetensors").stat().st_size / 3
    base = tiny_pair.teacher if stage == "calibrate" else tiny_pair.student
    found, expected, before = likelihoods(str(adapter)), likelihoods(str(merged)), likelihoods(base)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-4)
    assert (found - before).abs().max() > 0.01
    kept, old = load_model(str(merged)).model.generation_config, load_model(base).model.generation_config
    assert kept.to_dict() == old.to_dict()  # sampling laid nothing down in the model that is saved


def test_an_adapter_is_not_rounded_away_in_a_short_type(
    tiny_pair: Pair, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Merged into bfloat16 weights, changes of a thousandth are all lost."""
    base = tmp_path / "base"
    original = load_model(tiny_pair.teacher, dtype="bfloat16")
    original.model.save_pretrained(base)
    original.tokenizer.save_pretrained(base)
    values = {"learning_rate": 1e-4, "max_steps": 2, "model_init_kwargs": {"dtype": "bfloat16"}, "bf16": False}
    run = calibrate(calibration(tiny_pair, teacher=str(base), **values), tmp_path / "run")
    assert "will be ignored" not in caplog.text  # what TRL says of model_init_kwargs, which were read here
    adapted = load_model(str(run.path / "model"), dtype="bfloat16")
    alive = [p for name, p in adapted.model.named_parameters() if "lora_B" in name]
    assert alive and all(bool((p != 0).any()) for p in alive)
    assert all(p.requires_grad for p in adapted.model.parameters())
    assert load_model(str(run.path / "model"), dtype="float32").model.state_dict().keys() == (
        original.model.state_dict().keys()
    )
    prompts, texts = [[{"role": "user", "content": "What is 11-22?"}]], ["11-22 = -11"]
    assert float(sequence_logprob(adapted, prompts, texts, [True])) < 0
    # Saved whole, it is saved in a type that has room for what was learnt.
    merged = calibrate(calibration(tiny_pair, teacher=str(base), merge_adapter=True, **values), tmp_path / "merged")
    whole = load_model(str(merged.path / "model"), dtype="auto").model
    assert whole.dtype == torch.float32
    kept = original.model.state_dict()
    assert any(not torch.equal(weight, kept[name].float()) for name, weight in whole.state_dict().items())


def test_an_adapter_s_adapter_and_its_anchor_are_refused(tiny_pair: Pair, tmp_path: Path) -> None:
    model = str(distill(distillation(tiny_pair), tmp_path / "first").path / "model")
    second = distillation(tiny_pair, student=model)
    with pytest.raises(BadInputError, match="is a LoRA adapter, and a second adapter on it would know its base"):
        distill(second, tmp_path / "second")
    plain = {"use_peft": False, "merge_adapter": False}
    with pytest.raises(BadInputError, match="is a LoRA adapter, and the anchor would know its base"):
        calibrate(calibration(tiny_pair, teacher=model, **plain), tmp_path / "third")
    assert not (tmp_path / "second").exists() and not (tmp_path / "third").exists()
    # Trained whole, it goes on from the adapter.
    further = distill(distillation(tiny_pair, student=model, learning_rate=0.0, **plain), tmp_path / "fourth")
    torch.testing.assert_close(likelihoods(str(further.path / "model")), likelihoods(model), atol=1e-3, rtol=1e-4)


def test_the_anchor_is_the_model_with_its_adapter_off(tiny_pair: Pair, tmp_path: Path) -> None:
    run = calibrate(calibration(tiny_pair, max_steps=4), tmp_path / "run")
    kl = [row["anchor_kl"] for row in run.metrics() if row.get("anchor_kl") is not None]
    assert kl[0] == pytest.approx(0.0, abs=1e-5) and kl[-1] > kl[0]


@pytest.mark.parametrize("merge", [False, True])
def test_an_adapter_that_does_not_hold_gives_the_original_back(tiny_pair: Pair, tmp_path: Path, merge: bool) -> None:
    def lost(model: Any, task: Any, examples: Any, config: Any, what: str, *rest: Any, **own: Any) -> Any:
        value = 1.0 if what == "before" else 0.0
        one = task_scores(model, task, examples, config, what, *rest, **own)
        return replace(one, scores=[[value for _ in row] for row in one.scores])

    config = calibration(tiny_pair, merge_adapter=merge, guard=True, guard_steps=1, utility_tolerance=0.9)
    run = calibrate(config, tmp_path / "run", measure=lost)
    assert run.result["kept_step"] == 0 and len(run.result["events"]) >= 1
    model = str(run.path / "model")
    assert (Path(model) / "adapter_config.json").exists() is not merge
    assert torch.equal(likelihoods(model), likelihoods(tiny_pair.teacher))


def test_a_stopped_training_goes_on_with_its_adapter(tiny_pair: Pair, tmp_path: Path) -> None:
    values = {"max_steps": 6, "save_steps": 2}
    whole = distill(distillation(tiny_pair, **values), tmp_path / "whole")
    with pytest.raises(Stopped):
        distill(distillation(tiny_pair, **values), tmp_path / "run", trainer_class=stopped_in(4))
    resumed = distill(distillation(tiny_pair, **values), tmp_path / "run", resume=True)
    torch.testing.assert_close(
        likelihoods(str(resumed.path / "model")), likelihoods(str(whole.path / "model")), atol=1e-4, rtol=1e-5
    )


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"lora_r": 0}, "lora_r=0"),
        ({"lora_dropout": 1.0}, "lora_dropout=1.0"),
        ({"lora_target_modules": []}, "all-linear"),
        ({"use_peft": False, "merge_adapter": True}, "needs use_peft"),
    ],
)
def test_bad_adapter_options_are_told(tiny_pair: Pair, values: dict[str, Any], told: str) -> None:
    for make in (calibration, distillation):
        with pytest.raises(BadInputError, match=told):
            make(tiny_pair, **values)


def adapter(base: Any, folder: Path) -> Path:
    """A LoRA adapter of a model, saved as PEFT saves it."""
    from peft import LoraConfig, get_peft_model

    get_peft_model(base.model, LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"])).save_pretrained(
        str(folder)
    )
    base.tokenizer.save_pretrained(folder)
    return folder


def name_base(folder: Path, base: str) -> None:
    values = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**values, "base_model_name_or_path": base}))


def test_an_adapter_that_lacks_weights_is_told(tiny_pair: Pair, tmp_path: Path) -> None:
    """PEFT warns, and leaves the base model as it was."""
    folder = adapter(load_model(tiny_pair.teacher), tmp_path / "adapter")
    name_base(folder, tiny_pair.teacher)
    load_model(str(folder))
    weights = load_file(folder / "adapter_model.safetensors")
    spelled = {name.replace("base_model.model", "model"): weight for name, weight in weights.items()}
    save_file(spelled, folder / "adapter_model.safetensors", {"format": "pt"})
    with pytest.raises(BadInputError, match=r"doesn't fill its places in .*missing adapter keys"):
        load_model(str(folder))


def test_an_adapter_of_a_model_of_another_size_is_told(tiny_pair: Pair, tmp_path: Path) -> None:
    folder = adapter(load_model(tiny_pair.teacher), tmp_path / "adapter")
    name_base(folder, tiny_pair.student)
    with pytest.raises(
        BadInputError, match=r"doesn't fit its base model .*student' \(size mismatch for .*: set base_mo"
    ):
        load_model(str(folder))
