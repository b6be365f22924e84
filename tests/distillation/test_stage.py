"""The stage: the learning curve, warnings, what is told before any work, and what of a stopped run is kept."""

from __future__ import annotations

import errno
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from distilling import config, weights, without_measures
from distillknob.cli.main import main
from distillknob.cli.text import result_text
from distillknob.distillation import learning_curve
from distillknob.distillation.config import DistillConfig
from distillknob.distillation.learning_curve import curve_problems
from distillknob.distillation.stage import distill
from distillknob.distillation.trainer import DistillTrainer
from distillknob.errors import BadInputError, RunFailedError
from distillknob.models.sampling import generate
from distillknob.runs.model_record import RECORD, teacher_warning
from distillknob.runs.run import discard_unstarted, load_run
from distillknob.tasks import get_task
from distillknob.tasks.base import GeneratedTask
from interrupted import Stopped, stopped_in
from pairs import Pair


def test_a_learning_curve_has_a_point_at_the_start_at_each_interval_and_at_the_end(
    tiny_pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each point is of the student as it is sampled from elsewhere: in evaluation mode, and the same in every run."""
    seen: list[bool] = []

    class Watched(DistillTrainer):
        def train(self, *args: Any, **kwargs: Any) -> Any:
            model: Any = self.model
            model.register_forward_pre_hook(
                lambda module, given: None if torch.is_grad_enabled() else seen.append(module.training)
            )
            return super().train(*args, **kwargs)

    monkeypatch.setattr(learning_curve, "CURVE_PROBLEMS", 5)
    values = config(tiny_pair, "sft_gold", max_steps=3, curve_steps=2, problems=12, max_completion_length=8)
    run = distill(values, tmp_path / "run", trainer_class=Watched)
    points = {row["step"]: row["eval/qa"] for row in run.metrics() if "eval/qa" in row}
    assert list(points) == [0, 2, 3] and all(0 <= score <= 1 for score in points.values())
    assert seen and not any(seen)


def test_the_command_s_learning_curve_is_on_problems_that_are_not_trained_on(
    tiny_pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(learning_curve, "CURVE_PROBLEMS", 5)
    words = (
        f"distill --teacher {tiny_pair.teacher} --student {tiny_pair.student} --method sft_gold --problems 12".split()
    )
    words += f"--max-steps 2 --curve-steps 2 --learning-rate 1e-3 --output {tmp_path / 'run'}".split()
    words += "--per-device-train-batch-size 4 --max-completion-length 8 --no-gradient-checkpointing".split()

    def recorded(model: Any, prompts: Any, *args: Any, **kwargs: Any) -> Any:
        seen.extend(prompt[-1]["content"] for prompt in prompts)
        return generate(model, prompts, *args, **kwargs)

    monkeypatch.setattr("distillknob.evaluation.measure.generate", recorded)
    assert main(words) == 0
    run = load_run(tmp_path / "run")
    assert [row["step"] for row in run.metrics() if "eval/math" in row] == [0, 2]
    trained = {row["prompt"][-1]["content"] for row in run.samples()}
    assert len(trained) == 12 and len(set(seen)) == 5 and not trained & set(seen)


def test_a_small_file_leaves_a_fifth_for_the_learning_curve(tiny_pair: Pair, tmp_path: Path) -> None:
    """Set from Python, without anything else: the problems are fewer than those asked for."""
    rows = [{"prompt": f"What is {i} + 1?", "reference": str(i + 1)} for i in range(40)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = f"jsonl:{tmp_path / 'sums.jsonl'}"
    values = config(tiny_pair, "sft", tasks=[task], problems=1000, curve_steps=1, max_completion_length=8)
    run = distill(values, tmp_path / "run")
    everything = get_task(task).examples("train", 1000)
    held = run.result["curve"]["problems"][task]
    assert held == len(everything) // 5 > 0 and run.result["traces"] == len(everything) - held
    divided = curve_problems(values)
    assert not {row["prompt"][-1]["content"] for row in run.samples()} & {e.prompt for e in divided.held_out[task]}
    assert [row["step"] for row in run.metrics() if f"eval/{task}" in row] == [0, 1, 2]
    with pytest.raises(BadInputError, match="has 3 train problems: at least 5 are needed to hold some back"):
        curve_problems(config(tiny_pair, "sft", tasks=[few(tmp_path)], curve_steps=1))


def few(folder: Path) -> str:
    """A task with three train problems."""
    rows = [{"prompt": f"What is {i} + 1?", "reference": str(i + 1)} for i in range(40)]
    path = folder / "few.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    trained = {example.prompt for example in get_task(f"jsonl:{path}").examples("train", 3)}
    others = {example.prompt for example in get_task(f"jsonl:{path}").examples("test", 3)}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows if row["prompt"] in trained | others))
    return f"jsonl:{path}"


@pytest.mark.parametrize(
    ("record", "told"),
    [
        ({"kept_step": 0, "turned": {"verdict": "not at all", "same": True, "reason": "kept"}}, "is the original"),
        ({"kept_step": 9, "turned": {"verdict": "can't tell", "reason": "holds 0"}}, "can't be told (holds 0)"),
        ({"kept_step": 9, "turned": {"verdict": "the wrong way", "reason": "it rose"}}, "the wrong way (it rose)"),
        ({"kept_step": 9, "turned": {"verdict": "turned", "reason": "it fell"}}, None),
        ({"kept_step": 9}, None),
        (None, None),
    ],
)
def test_a_teacher_s_folder_says_whether_to_warn(
    tmp_path: Path, record: dict[str, Any] | None, told: str | None
) -> None:
    if record is not None:
        made = {"stage": "calibrate", "eta": 0.25, **record}
        (tmp_path / "model").mkdir()
        (tmp_path / "result.json").write_text(json.dumps(made))  # of a run from before there was a record
        from_result = teacher_warning(str(tmp_path / "model"))
        (tmp_path / "model" / RECORD).write_text(json.dumps(made))
        assert teacher_warning(str(tmp_path / "model")) == from_result
    warning = teacher_warning(str(tmp_path / "model"))
    assert warning is None if told is None else told in str(warning)


def test_a_student_of_the_original_is_told_on_stderr_in_the_result_and_in_its_card(
    tiny_pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = shutil.copytree(tiny_pair.teacher, tmp_path / "model")
    record = {"stage": "calibrate", "eta": 0.25, "kept_step": 0}
    (teacher / RECORD).write_text(json.dumps(record))
    run = distill(config(tiny_pair, "sft", teacher=str(teacher)), tmp_path / "run")
    warning = run.result["warning"]
    assert "is the original: its calibration kept step 0 (η = +0.25)" in warning
    assert (
        f"warning: {warning}" in capsys.readouterr().err and warning[1:] in (run.path / "model/README.md").read_text()
    )
    assert run.result["teacher_record"] == record and "! teacher" in result_text(run)


def test_a_killed_run_resumes_to_the_weights_of_an_unbroken_one(
    tiny_pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def values() -> DistillConfig:
        return config(tiny_pair, "gkd", max_steps=4, problems=16, save_steps=2, curve_steps=2, max_completion_length=8)

    monkeypatch.setattr(learning_curve, "CURVE_PROBLEMS", 5)
    unbroken = distill(values(), tmp_path / "unbroken")
    with pytest.raises(Stopped):
        distill(values(), tmp_path / "killed", trainer_class=stopped_in(3))
    assert not load_run(tmp_path / "killed").complete
    resumed = distill(values(), tmp_path / "killed", resume=True)
    a, b = weights(resumed.path / "model"), weights(unbroken.path / "model")
    assert all(torch.equal(a[name], b[name]) for name in b)
    for row in resumed.metrics(), unbroken.metrics():
        assert [r["step"] for r in row if "loss" in r] == [1, 2, 3, 4]
        assert [r["step"] for r in row if "eval/qa" in r] == [0, 2, 4]
    assert without_measures(resumed.result) == without_measures(unbroken.result)
    assert all(run.result["step_seconds"] > 0 for run in (resumed, unbroken))


def test_a_loss_that_is_not_finite_is_told_and_the_run_goes_on_later(tiny_pair: Pair, tmp_path: Path) -> None:
    def values() -> DistillConfig:
        return config(tiny_pair, "gkd", max_steps=4, problems=16, save_steps=1)

    class Broken(DistillTrainer):
        def _compute_loss(self, unwrapped_student: Any, inputs: dict[str, Any], num_items_in_batch: Any) -> Any:
            loss, *others = super()._compute_loss(unwrapped_student, inputs, num_items_in_batch)
            return (loss * math.nan if self.state.global_step == 2 else loss, *others)

    unbroken = distill(values(), tmp_path / "unbroken")
    with pytest.raises(RunFailedError, match=r"not finite at step 3: the checkpoints before it are kept"):
        distill(values(), tmp_path / "broken", trainer_class=Broken)
    kept = sorted((tmp_path / "broken" / "checkpoints").glob("checkpoint-*"))
    assert [path.name for path in kept] == ["checkpoint-1", "checkpoint-2"]
    assert all(torch.isfinite(value).all() for value in weights(kept[-1]).values())
    resumed = distill(values(), tmp_path / "broken", resume=True)
    a, b = weights(resumed.path / "model"), weights(unbroken.path / "model")
    assert all(torch.equal(a[name], b[name]) for name in b)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail at inline_container.cc:672] . PytorchStreamWriter failed writing file data/5"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        OSError(errno.ENOSPC, "No space left on device"),
    ],
    ids=["torch", "safetensors", "system"],
)
def test_a_disk_that_fills_up_during_a_checkpoint_is_told_and_the_run_goes_on_later(
    tiny_pair: Pair, tmp_path: Path, error: Exception
) -> None:
    values = {"max_steps": 4, "problems": 16, "save_steps": 2}
    unbroken = distill(config(tiny_pair, "sft_gold", **values), tmp_path / "unbroken")

    def full(self: Any, *args: Any, **kwargs: Any) -> None:
        if self.state.global_step == 4:
            raise error
        whole(self, *args, **kwargs)

    whole = DistillTrainer._save_optimizer_and_scheduler
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DistillTrainer, "_save_optimizer_and_scheduler", full)
        with pytest.raises(RunFailedError, match=r"no space left to write .*free space on that disk.*--resume"):
            distill(config(tiny_pair, "sft_gold", **values), tmp_path / "full")
    resumed = distill(config(tiny_pair, "sft_gold", **values), tmp_path / "full", resume=True)
    a, b = weights(resumed.path / "model"), weights(unbroken.path / "model")
    assert all(torch.equal(a[name], b[name]) for name in b)


def test_a_run_killed_before_its_first_checkpoint_starts_over(
    tiny_pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learning_curve, "CURVE_PROBLEMS", 5)
    values = {"curve_steps": 5, "max_completion_length": 8}
    with pytest.raises(Stopped):
        distill(config(tiny_pair, "sft_gold", **values), tmp_path / "run", trainer_class=stopped_in(2))
    run = distill(config(tiny_pair, "sft_gold", **values), tmp_path / "run", resume=True)
    assert [row["step"] for row in run.metrics() if "loss" in row] == [1, 2]
    assert [row["step"] for row in run.metrics() if "eval/qa" in row] == [0, 2]


@pytest.mark.parametrize(
    ("method", "values", "what"),
    [
        ("gdk", {}, r"method='gdk', did you mean 'gkd'\? known are sft"),
        ("gkd", {"lmbda": 1.5}, "lmbda=1.5: a share of steps"),
        ("gkd", {"lmbda": math.nan}, "lmbda=nan"),
        ("sft", {"lmbda": 0.5}, "hard_label learns from stored traces alone"),
        ("opd_rkl", {"lmbda": 0.5}, "lmbda=0.5"),
        ("gkd", {"tasks": []}, "tasks is empty"),
        ("gkd", {"problems": 0}, "problems=0"),
        ("sft_verified", {"candidates": 0}, "candidates=0"),
        ("gkd", {"tokens_per_step": 0}, "tokens_per_step=0: must be at least 1"),
        ("gkd", {"cache": "c", "lmbda": 0.0, "temperature": 2.0}, r"temperature=2\.0: a cache holds"),
        ("gkd", {"eval_strategy": "steps"}, "eval_strategy='steps': there is no evaluation set here"),
        ("gkd", {"trust_remote_code": True}, "trust_remote_code=True: models that bring code of their own"),
        ("gkd", {"teacher_model_name_or_path": "x"}, "teacher_model_name_or_path='x': use teacher"),
    ],
)
def test_settings_that_cannot_work_are_told(tiny_pair: Pair, method: str, values: dict[str, Any], what: str) -> None:
    with pytest.raises(BadInputError, match=what):
        config(tiny_pair, method, **values)


def test_the_target_is_read_by_the_method_that_needs_it_alone(tiny_pair: Pair) -> None:
    assert config(tiny_pair, "gkd", target="/no/such").models_read == list(tiny_pair)
    for method in ("sft_best_of_n", "sft_best_of_n_sure"):
        assert config(tiny_pair, method, target="a-target").models_read == [*tiny_pair, "a-target"]


def test_data_that_do_not_fill_a_step_are_told(tiny_pair: Pair, tmp_path: Path, parity: GeneratedTask) -> None:
    """TRL leaves out what doesn't fill a batch: no step, and no word of it."""
    with pytest.raises(BadInputError, match="7 problems to train on, but a step takes 8"):
        distill(config(tiny_pair, "sft_gold", problems=7, gradient_accumulation_steps=2), tmp_path / "few")
    assert not (tmp_path / "few").exists()
    # Some problems have no right sample of the teacher, and one is enough for what is left not to fill the step.
    with pytest.raises(BadInputError, match=r"\d of 8 problems have a trace to train on, but a step takes 8"):
        distill(config(tiny_pair, "sft_verified", candidates=1, per_device_train_batch_size=8), tmp_path / "verified")
    discard_unstarted(tmp_path / "verified")  # as the command line does
    assert not (tmp_path / "verified").exists()


def test_a_step_takes_as_many_problems_as_its_texts_have_groups(tiny_pair: Pair, tmp_path: Path) -> None:
    values: dict[str, Any] = {"num_generations": 4, "per_device_train_batch_size": 8, "max_completion_length": 4}
    with pytest.raises(BadInputError, match="1 problems to train on, but a step takes 2"):
        distill(config(tiny_pair, "opd_rkl", problems=1, **values), tmp_path / "few")
    run = distill(config(tiny_pair, "opd_rkl", problems=3, **values), tmp_path / "run")
    assert run.result["steps"] == 2 and [row["trained_texts"] for row in run.metrics() if "loss" in row] == [8, 8]


def test_what_the_trainer_refuses_is_bad_input(tiny_pair: Pair, tmp_path: Path) -> None:
    class Refuses(DistillTrainer):
        def __init__(self, *args: Any, **kwargs: Any):
            raise ValueError("not like this")

    with pytest.raises(BadInputError, match="not like this"):
        distill(config(tiny_pair, "sft_gold"), tmp_path / "run", trainer_class=Refuses)


def test_mixed_precision_reaches_the_layers(tiny_pair: Pair, tmp_path: Path) -> None:
    """Accelerate's autocast lives in the whole model's forward, which the loss doesn't call."""
    seen = set()

    class Watching(DistillTrainer):
        def train(self, *args: Any, **kwargs: Any) -> Any:
            model: Any = self.model
            for layer in (model.model.layers[0], self.teacher_model.model.layers[0]):
                layer.self_attn.q_proj.register_forward_hook(lambda module, given, made: seen.add(made.dtype))
            return super().train(*args, **kwargs)

    values = config(tiny_pair, "gkd", traces="gold", lmbda=0.0, bf16=True, use_cpu=True, max_steps=1)
    run = distill(values, tmp_path / "run", trainer_class=Watching)
    assert seen == {torch.bfloat16} and math.isfinite(run.result["final_loss"])
    assert {weight.dtype for weight in weights(run.path / "model").values()} == {torch.float32}


@pytest.mark.parametrize("field", ["teacher", "student", "target"])
def test_what_is_not_there_is_told_before_anything_is_written(tiny_pair: Pair, tmp_path: Path, field: str) -> None:
    with pytest.raises(BadInputError, match="no checkpoint folder '/no/such'"):
        distill(config(tiny_pair, "sft_best_of_n", **{field: "/no/such"}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
