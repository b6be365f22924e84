"""Distillation on tiny models: each method's loss against a plain one, where its traces come from, what is refused."""

from __future__ import annotations

import errno
import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from distillknob.cli.main import main
from distillknob.cli.text import result_text
from distillknob.distillation import learning_curve, pair, stage
from distillknob.distillation.learning_curve import curve_problems
from distillknob.distillation.stage import DistillConfig, DistillTrainer, distill
from distillknob.distillation.traces import TraceOptions, make_traces
from distillknob.distillation.trainer import first_tokens
from distillknob.divergences.dense import divergence
from distillknob.errors import BadInputError, RunFailedError
from distillknob.methods import METHODS
from distillknob.models.base import LanguageModel
from distillknob.models.load import load_model
from distillknob.models.sampling import generate
from distillknob.models.scoring import answer_ids, sequence_logprob
from distillknob.runs.model_record import RECORD, teacher_warning
from distillknob.runs.run import Run, discard_unstarted, load_run, verify_manifest
from distillknob.tasks import get_task
from distillknob.tasks.base import GeneratedTask
from distillknob.tasks.generated.qa import QA
from interrupted import Stopped, stopped_in


def config(pair: Any, method: str, **values: Any) -> DistillConfig:
    return DistillConfig(
        **{
            "teacher": pair.teacher,
            "student": pair.student,
            "target": pair.student,
            "tasks": ["qa"],
            "problems": 8,
            "method": method,
            "max_steps": 2,
            "per_device_train_batch_size": 4,
            "learning_rate": 5e-3,
            "lr_scheduler_type": "constant",
            "gradient_checkpointing": False,
            "candidates": 4,
            **values,
        }
    )


class Parity(QA):
    """Questions on which tiny models are right about half of the time: an answer of even length is."""

    def grade(self, completion: str, reference: Any) -> float:
        return float(len(completion) % 2 == 0)


class Hopeless(QA):
    def grade(self, completion: str, reference: Any) -> float:
        return 0.0


@pytest.fixture
def parity(monkeypatch: pytest.MonkeyPatch) -> GeneratedTask:
    monkeypatch.setattr(stage, "graded_tasks", lambda names: [Parity()])
    monkeypatch.setattr(stage, "get_tasks", lambda names: [Parity()])
    return Parity()


def weights(folder: str | Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_file(Path(folder) / "model.safetensors")
    return found


class Recorder(DistillTrainer):
    """Computes each loss a second time, plainly: whole logits of a whole forward."""

    kept: list[dict[str, Any]]

    def _compute_loss(self, unwrapped_student: Any, inputs: dict[str, Any], num_items_in_batch: Any) -> Any:
        found = super()._compute_loss(unwrapped_student, inputs, num_items_in_batch)
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
        mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
        counted = inputs["loss_mask"].bool()
        width = counted.size(1)
        with torch.no_grad():
            student = unwrapped_student(input_ids=ids, attention_mask=mask).logits[:, -width - 1 : -1]
            if not self.loss.asks_teacher:
                plain = cross_entropy(student.transpose(1, 2), inputs["completion_ids"], reduction="none")
            else:
                if "teacher_prompt_ids" in inputs:
                    ids = torch.cat([inputs["teacher_prompt_ids"], inputs["completion_ids"]], dim=1)
                    mask = torch.cat([inputs["teacher_prompt_mask"], inputs["completion_mask"]], dim=1)
                teacher = self.teacher_model(input_ids=ids, attention_mask=mask).logits[:, -width - 1 : -1]
                plain = divergence(student, teacher, self.args.objective.loss, beta=self.args.beta)
        self.kept.append(
            {
                "loss": float(found[0]),
                "plain": float(plain[counted].sum() / num_items_in_batch),
                "items": int(num_items_in_batch),
                "counted": int(counted.sum()),
                "completions": [row[m].tolist() for row, m in zip(inputs["completion_ids"], counted, strict=True)],
                "step": self.state.global_step,
            }
        )
        return found


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    kept: list[dict[str, Any]] = []
    monkeypatch.setattr(Recorder, "kept", kept, raising=False)
    return kept


def record(values: DistillConfig, folder: Path) -> Run:
    return distill(values, folder, trainer_class=Recorder)


# Losses


@pytest.mark.parametrize("method", [name for name in METHODS if not DistillConfig(method=name).loss.crosses_tokenizers])
def test_each_method_trains_by_its_loss(
    tiny_pair: Any, tmp_path: Path, recorded: list[dict[str, Any]], parity: GeneratedTask, method: str
) -> None:
    run = record(config(tiny_pair, method), tmp_path / "run")
    assert len(recorded) == 2
    for batch in recorded:
        assert batch["items"] == batch["counted"] > 0
        assert batch["loss"] == pytest.approx(batch["plain"], rel=2e-4, abs=1e-6)
        assert math.isfinite(batch["loss"]) and batch["loss"] > 0
    result = run.result
    assert {"teacher", "student", "method", "steps", "tokens", "learning_rate", "final_loss", "traces"} <= set(result)
    assert (result["stage"], result["method"], result["steps"]) == ("distill", method, 2)
    assert (result["teacher"], result["student"], result["learning_rate"]) == (*tiny_pair, 5e-3)
    assert result["traces"] == len(run.samples()) >= 1
    assert result["tokens"] > 0
    losses = [row["loss"] for row in run.metrics() if "loss" in row]
    assert result["final_loss"] == pytest.approx(sum(losses) / len(losses))
    model = AutoModelForCausalLM.from_pretrained(run.path / "model")
    assert model.num_parameters() > 0
    before, after = weights(tiny_pair.student), weights(run.path / "model")
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert verify_manifest(run.path) == []


@pytest.mark.parametrize("wider", ["teacher", "student"])
def test_embeddings_padded_to_another_width_are_compared_on_the_shared_part(
    tiny_pair: Any, tmp_path: Path, recorded: list[dict[str, Any]], wider: str
) -> None:
    """Two sizes of a family may share a tokenizer and pad their embeddings to two widths."""
    model, tokenizer = load_model(getattr(tiny_pair, wider))
    model.resize_token_embeddings(2112, mean_resizing=False)
    model.save_pretrained(tmp_path / wider)
    tokenizer.save_pretrained(tmp_path / wider)
    pair = tiny_pair._replace(**{wider: str(tmp_path / wider)})
    record(config(pair, "gkd", lmbda=0.0, traces="gold", max_steps=1), tmp_path / "run")
    (batch,) = recorded
    assert batch["items"] > 10 and batch["loss"] == pytest.approx(batch["plain"], rel=2e-4)


def test_the_teacher_s_own_options_are_used(tiny_pair: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    class Seen(DistillTrainer):
        def train(self, *args: Any, **kwargs: Any) -> Any:
            seen.append(self.teacher_model.config._attn_implementation)
            return super().train(*args, **kwargs)

    asked = []

    def recorded(name: str, *, options: Any = None, **kwargs: Any) -> LanguageModel:
        asked.append(options)
        return load_model(name, options=options, **kwargs)

    monkeypatch.setattr(pair, "load_model", recorded)
    for way in ("eager", "sdpa"):
        given = {"attn_implementation": way}
        values = config(tiny_pair, "gkd", max_steps=1, teacher_model_init_kwargs=given, teacher_model_revision="v2")
        distill(values, tmp_path / way, trainer_class=Seen)
    assert seen == ["eager", "sdpa"]
    assert asked == [{"attn_implementation": way, "revision": "v2"} for way in seen]


def test_the_trainer_loads_a_teacher_by_its_name(tiny_pair: Any, tmp_path: Path, student: LanguageModel) -> None:
    rows = [{"prompt": [{"role": "user", "content": "2 + 2"}], "completion_ids": [5, 6]}] * 4
    values = config(tiny_pair, "gkd", lmbda=0.0, output_dir=str(tmp_path / "run"), max_completion_length=8)
    trainer = DistillTrainer(
        AutoModelForCausalLM.from_pretrained(tiny_pair.student),
        tiny_pair.teacher,
        values,
        train_dataset=Dataset.from_list(rows),
        processing_class=student.tokenizer,
    )
    trainer.train()
    named: Any = trainer.teacher_model
    expected = weights(tiny_pair.teacher)
    held = named.state_dict()
    assert expected and all(torch.equal(held[name].cpu(), weight) for name, weight in expected.items())


def test_sft_learns_the_stored_tokens_and_their_end(
    tiny_pair: Any, tmp_path: Path, recorded: list[dict[str, Any]], student: LanguageModel
) -> None:
    values = config(tiny_pair, "sft_gold", problems=8)
    run = record(values, tmp_path / "run")
    stored = {tuple(row["completion_ids"]) for row in run.samples()}
    assert {row["completion"] for row in run.samples()} == {
        e.gold_solution for e in QA().examples("train", 8, seed=values.seed)
    }
    seen = [tuple(row) for batch in recorded for row in batch["completions"]]
    assert len(seen) == 8 and set(seen) == stored
    assert all(row[-1] == student.tokenizer.eos_token_id for row in seen)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_gkd_s_beta_reaches_the_divergence(
    tiny_pair: Any, tmp_path: Path, recorded: list[dict[str, Any]], beta: float
) -> None:
    record(config(tiny_pair, "gkd", lmbda=0.0, beta=beta, max_steps=1), tmp_path / "run")
    (batch,) = recorded
    assert batch["loss"] == pytest.approx(batch["plain"], rel=2e-4)


def test_gkd_is_the_jensen_shannon_divergence_unless_told_otherwise() -> None:
    """TRL's DistillationConfig has beta 1, at which the divergence is the reverse KL: on-policy distillation."""
    assert DistillConfig(method="gkd").beta == 0.5


def test_accumulated_batches_weigh_every_token_the_same(
    tiny_pair: Any, tmp_path: Path, recorded: list[dict[str, Any]]
) -> None:
    values = config(tiny_pair, "sft", per_device_train_batch_size=2, gradient_accumulation_steps=2, max_steps=1)
    record(values, tmp_path / "run")
    first, second = recorded
    assert first["items"] == second["items"] == first["counted"] + second["counted"]
    for batch in recorded:
        assert batch["loss"] == pytest.approx(batch["plain"], rel=2e-4)


# On- and off-policy


@pytest.mark.parametrize("method", ["gkd", "sft"])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_budget_of_tokens_a_step_is_held_exactly(
    tiny_pair: Any, tmp_path: Path, recorded: list[dict[str, Any]], method: str, accumulation: int
) -> None:
    settings = config(
        tiny_pair, method, tokens_per_step=7, gradient_accumulation_steps=accumulation, problems=20, max_steps=3
    )
    result = record(settings, tmp_path / "run").result
    assert result["tokens"] == 7 * 3
    assert [row["items"] for row in recorded] == [7] * 3 * accumulation
    assert all(row["loss"] == pytest.approx(row["plain"], rel=1e-4) for row in recorded)


def test_the_first_tokens_of_a_mask() -> None:
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]])
    assert first_tokens(mask, 4).tolist() == [[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert first_tokens(mask, 99).equal(mask)


def coin(seed: int, lmbda: float, steps: int) -> list[bool]:
    trainer: Any = SimpleNamespace(args=SimpleNamespace(seed=seed, share_on_policy=lmbda))
    return [DistillTrainer.on_policy(trainer, step) for step in range(steps)]


def test_the_coin_is_drawn_from_seed_and_step() -> None:
    assert coin(0, 0.5, 200) == coin(0, 0.5, 200)
    assert coin(0, 0.5, 200) != coin(1, 0.5, 200)
    for lmbda in (0.25, 0.5, 0.8):
        assert abs(sum(coin(3, lmbda, 3000)) / 3000 - lmbda) < 0.03
    assert not any(coin(0, 0.0, 500)) and all(coin(0, 1.0, 500))


def test_gkd_mixes_stored_and_own_samples_by_the_coin(
    tiny_pair: Any, tmp_path: Path, recorded: list[dict[str, Any]]
) -> None:
    values = config(tiny_pair, "gkd", max_steps=6, problems=24)
    run = record(values, tmp_path / "run")
    wanted = coin(values.seed, 0.5, 6)
    assert len(set(wanted)) == 2
    assert [row["on_policy"] for row in run.metrics() if "on_policy" in row] == [float(own) for own in wanted]
    stored = {tuple(row["completion_ids"]) for row in run.samples()}
    for batch, own in zip(recorded, wanted, strict=True):
        assert all(tuple(row) in stored for row in batch["completions"]) != own


def test_the_student_s_own_samples_end_by_their_eos_or_at_the_limit(
    tiny_pair: Any, tmp_path: Path, recorded: list[dict[str, Any]], student: LanguageModel
) -> None:
    record(config(tiny_pair, "opd_rkl", max_completion_length=10), tmp_path / "run")
    eos = student.tokenizer.eos_token_id
    for row in (row for batch in recorded for row in batch["completions"]):
        assert (row[-1] == eos or len(row) == 10) and row.count(eos) <= 1


# Two tokenizers


def test_divergences_between_two_tokenizers_are_refused_and_sft_is_not(
    tiny_pair: Any, tiny_other: str, tmp_path: Path, recorded: list[dict[str, Any]], other: LanguageModel
) -> None:
    for method in ("gkd", "opd_rkl"):
        with pytest.raises(BadInputError, match=f"{method} compares next-token distributions.*different tokenizers"):
            record(config(tiny_pair, method, student=tiny_other), tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    run = record(config(tiny_pair, "sft", student=tiny_other), tmp_path / "run")
    for row in run.samples():
        assert other.tokenizer.decode(row["completion_ids"], skip_special_tokens=True) == row["completion"]
    assert all(batch["loss"] == pytest.approx(batch["plain"], rel=2e-4) for batch in recorded)
    assert run.result["steps"] == 2


# Traces


Rows = list[dict[str, Any]]


def traces(source: Any, task: Any, student: Any, teacher: Any, target: Any = None, **options: Any) -> Rows:
    return make_traces(source, [task], 12, student, teacher, target, TraceOptions(**{"candidates": 4, **options}))


def test_verified_traces_are_the_first_right_ones(teacher: LanguageModel, student: LanguageModel) -> None:
    task = Parity()
    plain = traces("teacher", task, student, teacher)
    assert len(plain) == 12 and {len(row["completion"]) % 2 for row in plain} == {0, 1}
    verified = traces("teacher_verified", task, student, teacher)
    assert 6 <= len(verified) <= 12
    assert all(len(row["completion"]) % 2 == 0 for row in verified)
    assert all(row["completion_ids"][-1] == teacher.tokenizer.eos_token_id for row in verified)  # right and finished
    prompts = [row["prompt"] for row in plain]
    assert [row["prompt"] for row in verified] == [p for p in prompts if p in [row["prompt"] for row in verified]]


def test_the_best_of_n_is_the_right_one_that_the_target_finds_likeliest(
    teacher: LanguageModel, student: LanguageModel
) -> None:
    from distillknob.models.sampling import Sampling, generate

    task = Parity()
    found = {
        str(row["prompt"]): row["completion"] for row in traces("teacher_best_of_n", task, student, teacher, student)
    }
    examples = task.examples("train", 12, seed=0)
    prompts = [task.messages(example) for example in examples]
    drawn = generate(teacher, prompts, 4, Sampling(max_new_tokens=task.max_new_tokens, seed=0)).completions
    chosen = 0
    for prompt, row in zip(prompts, drawn, strict=True):
        right = [s.text for s in row if s.finished and len(s.text) % 2 == 0]
        if not right:
            assert str(prompt) not in found
            continue
        values = sequence_logprob(student, [prompt] * len(right), right, [True] * len(right))
        assert found[str(prompt)] == right[int(values.argmax())]
        chosen += len(set(right)) > 1
    assert chosen >= 3  # there was a choice


def test_traces_are_told_apart_by_their_source(teacher: LanguageModel, student: LanguageModel) -> None:
    task = QA()
    gold = traces("gold", task, student, None)
    assert [row["completion"] for row in gold] == [e.gold_solution for e in task.examples("train", 12, seed=0)]
    assert [row["completion_ids"] for row in gold] == answer_ids(student, [r["completion"] for r in gold], [True] * 12)
    assert all(row["completion_ids"] == [] for row in traces("none", task, student, None))
    assert traces("teacher", task, student, teacher) == traces("teacher", task, student, teacher)
    assert traces("teacher", task, student, teacher) != traces("teacher", task, student, teacher, seed=1)


@pytest.mark.parametrize("source", ["teacher_verified", "teacher_best_of_n"])
def test_a_teacher_that_is_never_right_is_told(source: str, teacher: LanguageModel, student: LanguageModel) -> None:
    with pytest.raises(BadInputError, match="no right sample on any of 12 problems of 'qa': raise candidates"):
        traces(source, Hopeless(), student, teacher, student)


def test_what_traces_need_is_told(teacher: LanguageModel, student: LanguageModel) -> None:
    with pytest.raises(BadInputError, match="need a teacher"):
        traces("teacher", QA(), student, None)
    with pytest.raises(BadInputError, match="need a target"):
        traces("teacher_best_of_n", Parity(), student, teacher, None)


# The stage


def test_a_learning_curve_has_a_point_at_the_start_at_each_interval_and_at_the_end(
    tiny_pair: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
    tiny_pair: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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


def test_a_small_file_leaves_a_fifth_for_the_learning_curve(tiny_pair: Any, tmp_path: Path) -> None:
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
    tiny_pair: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
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
    tiny_pair: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
    assert resumed.result == unbroken.result


def test_a_loss_that_is_not_finite_is_told_and_the_run_goes_on_later(tiny_pair: Any, tmp_path: Path) -> None:
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
    tiny_pair: Any, tmp_path: Path, error: Exception
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
    tiny_pair: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
        ("sft", {"lmbda": 0.5}, "sft trains on stored traces alone"),
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
def test_settings_that_cannot_work_are_told(tiny_pair: Any, method: str, values: dict[str, Any], what: str) -> None:
    with pytest.raises(BadInputError, match=what):
        config(tiny_pair, method, **values)


def test_the_target_is_read_by_the_method_that_needs_it_alone(tiny_pair: Any) -> None:
    assert config(tiny_pair, "gkd", target="/no/such").models_read == list(tiny_pair)
    assert config(tiny_pair, "sft_best_of_n", target="a-target").models_read == [*tiny_pair, "a-target"]


def test_data_that_do_not_fill_a_step_are_told(tiny_pair: Any, tmp_path: Path, parity: GeneratedTask) -> None:
    """TRL leaves out what doesn't fill a batch: no step, and no word of it."""
    with pytest.raises(BadInputError, match="7 problems to train on, but a step takes 8"):
        distill(config(tiny_pair, "sft_gold", problems=7, gradient_accumulation_steps=2), tmp_path / "few")
    assert not (tmp_path / "few").exists()
    # Some problems have no right sample of the teacher, and one is enough for what is left not to fill the step.
    with pytest.raises(BadInputError, match=r"\d of 8 problems have a trace to train on, but a step takes 8"):
        distill(config(tiny_pair, "sft_verified", candidates=1, per_device_train_batch_size=8), tmp_path / "verified")
    discard_unstarted(tmp_path / "verified")  # as the command line does
    assert not (tmp_path / "verified").exists()


def test_what_the_trainer_refuses_is_bad_input(tiny_pair: Any, tmp_path: Path) -> None:
    class Refuses(DistillTrainer):
        def __init__(self, *args: Any, **kwargs: Any):
            raise ValueError("not like this")

    with pytest.raises(BadInputError, match="not like this"):
        distill(config(tiny_pair, "sft_gold"), tmp_path / "run", trainer_class=Refuses)


def test_mixed_precision_reaches_the_layers(tiny_pair: Any, tmp_path: Path) -> None:
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
def test_what_is_not_there_is_told_before_anything_is_written(tiny_pair: Any, tmp_path: Path, field: str) -> None:
    with pytest.raises(BadInputError, match="no checkpoint folder '/no/such'"):
        distill(config(tiny_pair, "sft_best_of_n", **{field: "/no/such"}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
