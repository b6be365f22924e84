"""A student from a teacher: SFT on traces, GKD, on-policy reverse KL, all on TRL's DistillationTrainer.

A method is a loss (hard labels, or a divergence of the core) on traces from somewhere (a data set, the teacher, the
student itself, or a mixture by λ). The trainer brings generation, vLLM, PEFT, the global normaliser; we replace its
loss by the divergence core, and let it train on stored traces.

Left out on purpose: a loop of our own, and losses between different vocabularies (issue 5 adds them).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from datasets import Dataset
from transformers import TrainerCallback, TrainerControl, TrainerState
from trl import DistillationConfig, DistillationTrainer  # type: ignore[attr-defined]

from distillknob.adapters import AdapterOptions, bare, merged
from distillknob.errors import BadInputError, check_at_least_one
from distillknob.fused import fused_divergence
from distillknob.heads import head_of
from distillknob.models import LanguageModel, load_model, resolve
from distillknob.runs import Run, runs_behind
from distillknob.tasks import get_task
from distillknob.traces import Source, TraceOptions, make_traces
from distillknob.training import (
    EpochSampler,
    FiniteLoss,
    RunLogger,
    StageProgress,
    add_callbacks,
    checkpoint_errors,
    last_checkpoint,
    on_this_machine,
    plain_config,
    save_model,
)
from distillknob.traps.finding import Finding
from distillknob.traps.teacher_hacking import teacher_hacking

MethodName = Literal["sft", "sft_verified", "sft_gold", "sft_best_of_n", "gkd", "opd_rkl"]


@dataclass(frozen=True)
class Method:
    """`loss`: "hard_label" or a divergence's kind; `traces`: where off-policy traces come from; `lmbda`: the share of
    steps on the student's own samples (GKD's λ)."""

    loss: str
    traces: Source
    lmbda: float

    @property
    def needs_teacher_distribution(self) -> bool:
        return self.loss != "hard_label"


METHODS: dict[str, Method] = {
    "sft": Method("hard_label", "teacher", 0.0),
    "sft_verified": Method("hard_label", "teacher_verified", 0.0),
    "sft_gold": Method("hard_label", "gold", 0.0),
    "sft_best_of_n": Method("hard_label", "teacher_best_of_n", 0.0),
    "gkd": Method("jsd", "teacher", 0.5),  # Agarwal et al. 2306.13649, with the teacher's samples as the data set
    "opd_rkl": Method("reverse_kl", "none", 1.0),
}


@dataclass
class DistillConfig(AdapterOptions, DistillationConfig):
    """Config of `distill`: DistillationConfig and what a recipe needs. BadInputError for values that can't work."""

    teacher: str = field(default="zoo:teacher", metadata={"help": "Model to learn from: folder, hub id or zoo:NAME."})
    student: str = field(default="zoo:student", metadata={"help": "Model to train: folder, hub id or zoo:NAME."})
    target: str = field(
        default="zoo:student", metadata={"help": "Model whose likelihood chooses the best of n (sft_best_of_n alone)."}
    )
    tasks: list[str] = field(default_factory=lambda: ["math"], metadata={"help": "Tasks whose problems are used."})
    problems: int = field(default=2000, metadata={"help": "Problems a task, from its train split."})
    method: MethodName = field(default="gkd", metadata={"help": "How the student learns."})
    lmbda: float | None = field(
        default=None, metadata={"help": "Share of steps on the student's own samples. Default: the method's."}
    )
    beta: float = field(
        default=0.5,
        metadata={"help": "β of gkd's divergence: 0 forward KL, 0.5 Jensen-Shannon, 1 reverse KL (TRL's default)."},
    )
    candidates: int = field(default=8, metadata={"help": "Teacher samples a problem for sft_verified, sft_best_of_n."})
    tokens_per_step: int | None = field(
        default=None,
        metadata={
            "help": "Completion tokens that a step's loss counts, the rest of its batch is left out: students of "
            "different teachers then train on the same tokens. Default: all of them."
        },
    )
    curve_steps: int = field(
        default=0, metadata={"help": "Evaluate every so many steps for a learning curve; 0: never."}
    )
    max_completion_length: int | None = field(default=None, metadata={"help": "Default: the tasks' own longest."})

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise BadInputError(f"method={self.method!r}: known are {', '.join(METHODS)}")
        if not 0 <= self.share_on_policy <= 1:
            raise BadInputError(f"lmbda={self.lmbda}: a share of steps, between 0 and 1")
        if self.share_on_policy and not METHODS[self.method].needs_teacher_distribution:
            raise BadInputError(f"lmbda={self.lmbda}: {self.method} trains on stored traces alone, so lmbda must be 0")
        if self.share_on_policy < 1 and METHODS[self.method].traces == "none":
            raise BadInputError(
                f"lmbda={self.lmbda}: {self.method} trains on the student's own samples alone, so lmbda must be 1 "
                "(gkd mixes them with the teacher's)"
            )
        if not self.tasks:
            raise BadInputError("tasks is empty: name at least one, e.g. math")
        check_at_least_one(self, "problems", "candidates", "tokens_per_step")
        on_this_machine(self)
        super().__post_init__()

    @property
    def needs_target(self) -> bool:
        """Does the method choose traces by the target's likelihood?"""
        return METHODS[self.method].traces == "teacher_best_of_n"

    @property
    def models_read(self) -> list[str]:
        """The models that the stage reads; those that are runs' models are its inputs."""
        return [self.teacher, self.student, *([self.target] if self.needs_target else [])]

    @property
    def share_on_policy(self) -> float:
        """λ: the share of steps on the student's own samples."""
        return METHODS[self.method].lmbda if self.lmbda is None else self.lmbda


class DistillTrainer(DistillationTrainer):
    """DistillationTrainer with the loss of `args.method` and stored traces.

    Takes what DistillationTrainer takes; `teacher_model` may be None for hard-label methods. The dataset has `prompt`
    and, unless every step is on-policy, `completion_ids` (token ids, the eos included).
    """

    args: DistillConfig

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.method = METHODS[self.args.method]
        if self.method.needs_teacher_distribution and self.teacher_model is None:
            raise BadInputError(f"method {self.args.method!r} needs teacher_model")
        self._stored_ids: list[list[int]] | None = None

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        columns: Any = self._signature_columns
        if "completion_ids" not in columns:
            columns.append("completion_ids")

    def _get_train_sampler(self, dataset: Any = None) -> EpochSampler:
        return EpochSampler.of(super()._get_train_sampler(dataset))

    def on_policy(self, step: int) -> bool:
        """Does this step train on the student's own samples? Drawn from seed and step: the same on every process, and
        after a resume."""
        return random.Random(f"{self.args.seed}/{step}").random() < self.args.share_on_policy

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        on_policy = self.on_policy(self.state.global_step)
        self._stored_ids = None if on_policy else [list(row["completion_ids"]) for row in inputs]
        mode = "train" if self.model is not None and self.model.training else "eval"
        self._metrics[mode]["on_policy"].append(float(on_policy))
        batch: dict[str, Any] = super()._generate_and_score_completions(inputs)
        if self.args.tokens_per_step is not None:
            here = max(1, self.args.tokens_per_step // self.accelerator.num_processes)
            batch["completion_mask"] = first_tokens(batch["completion_mask"], here)
            batch["num_items_in_batch"] = self.accelerator.gather(batch["completion_mask"].sum()).sum()
        self._metrics[mode]["trained_tokens"].append(batch["num_items_in_batch"].item())
        return batch

    def _generate_single_turn(self, prompt_ids: Any, *args: Any, **kwargs: Any) -> Any:
        return (
            super()._generate_single_turn(prompt_ids, *args, **kwargs) if self._stored_ids is None else self._stored_ids
        )

    def _compute_loss(
        self, unwrapped_student: Any, inputs: dict[str, Any], num_items_in_batch: Any
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Loss summed over the completions' tokens and divided by `num_items_in_batch`; the student's entropy summed
        over them (NaN where the loss never holds the distribution); their number."""
        ids_BT = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
        mask_BT = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
        counted_BC = inputs["completion_mask"].bool()
        width, count = counted_BC.size(1), counted_BC.sum()
        items = count.clamp(min=1) if num_items_in_batch is None else num_items_in_batch
        student = head_of(unwrapped_student)
        student_BCH = self._get_last_hidden_state(unwrapped_student, ids_BT, mask_BT, width)
        if not self.method.needs_teacher_distribution:
            loss = student.cross_entropy(student_BCH[counted_BC], inputs["completion_ids"][counted_BC]) / items
            return loss, torch.full_like(loss.detach(), torch.nan), count

        self.teacher_model.eval()
        unwrapped_teacher = self.accelerator.unwrap_model(self.teacher_model)
        with torch.no_grad():
            # Through the teacher's own wrapper, so that FSDP and DeepSpeed have its weights in place.
            teacher_BCH = self._forward_redirection(
                self.teacher_model,
                unwrapped_teacher,
                self._get_last_hidden_state,
                unwrapped_teacher,
                ids_BT,
                mask_BT,
                width,
            )
        teacher = head_of(unwrapped_teacher)
        loss = fused_divergence(
            student_BCH,
            student.weight_VH,
            teacher_BCH,
            teacher.weight_VH,
            self.method.loss,
            mask=counted_BC,
            beta=self.beta,
            temperature=self.temperature,
            student_bias=student.bias_V,
            teacher_bias=teacher.bias_V,
            student_softcap=student.softcap,
            teacher_softcap=teacher.softcap,
            student_logit_scale=student.scale,
            teacher_logit_scale=teacher.scale,
            num_items=items,
        )
        return loss, torch.full_like(loss.detach(), torch.nan), count


def first_tokens(mask_BC: torch.Tensor, budget: int) -> torch.Tensor:
    """The mask [B, C] with its first `budget` tokens alone, counted row by row."""
    return mask_BC * (mask_BC.flatten().cumsum(0) <= budget).view_as(mask_BC)


class LearningCurve(TrainerCallback):
    """Calls `evaluate(model, step)` every so many steps, at the start and at the end, and logs what it returns."""

    def __init__(
        self, run: Run, student: LanguageModel, steps: int, evaluate: Callable[[LanguageModel], Mapping[str, float]]
    ):
        self.run, self.student, self.steps, self.evaluate = run, student, steps, evaluate

    def _point(self, step: int) -> None:
        self.student.model.eval()
        self.run.log(step=step, **{f"eval/{task}": value for task, value in self.evaluate(self.student).items()})
        self.student.model.train()

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step == 0:
            self._point(0)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step % self.steps == 0 or state.global_step == state.max_steps:
            self._point(state.global_step)


def distill(
    config: DistillConfig,
    output: str | Path,
    *,
    resume: bool = False,
    evaluate: Callable[[LanguageModel], Mapping[str, float]] | None = None,
) -> Run:
    """Distil `config.student` from `config.teacher` and return the run; its `model/` is the trained student.

    `evaluate` gives scores by task for the learning curve (`config.curve_steps`). Raises BadInputError before any work
    for input that can't be used.
    """
    method = METHODS[config.method]
    tasks = [get_task(name) for name in config.tasks]
    inputs = runs_behind(config.models_read)
    for name in config.models_read:
        resolve(name)
    student = load_model(config.student)
    teacher = load_model(config.teacher) if config.method != "sft_gold" else None
    if (
        teacher is not None
        and method.needs_teacher_distribution
        and teacher.tokenizer.get_vocab() != student.tokenizer.get_vocab()
    ):
        raise BadInputError(
            f"{config.method} compares next-token distributions, but {config.teacher!r} and {config.student!r} have "
            "different tokenizers: use an sft method, or a student with the teacher's tokenizer"
        )
    run = Run.open(output, "distill", plain_config(config), inputs=inputs, resume=resume)
    if run.complete:
        return run
    config.max_completion_length = config.max_completion_length or max(task.max_new_tokens for task in tasks)
    config.output_dir = str(run.path / "checkpoints")
    config.logging_steps = 1
    config.logging_nan_inf_filter = False  # FiniteLoss has to see a NaN loss

    options = TraceOptions(config.candidates, config.max_completion_length, config.seed)
    traces = run.samples()
    if not traces:
        target = load_model(config.target) if config.needs_target else None
        source: Source = method.traces if config.share_on_policy < 1.0 else "none"
        traces = make_traces(source, tasks, config.problems, student, teacher, target, options)
        run.write_samples(traces)
    dataset = Dataset.from_list([{"prompt": r["prompt"], "completion_ids": r["completion_ids"]} for r in traces])
    trainer = DistillTrainer(
        model=student.model,
        teacher_model=teacher.model if teacher is not None and method.needs_teacher_distribution else None,
        args=config,
        train_dataset=dataset.shuffle(seed=config.seed),
        processing_class=student.tokenizer,
        peft_config=config.peft_config,
    )
    callbacks: list[TrainerCallback] = [
        RunLogger(run, {}),
        StageProgress(f"distill {config.method}", {"loss": "loss"}),
        FiniteLoss(run),
    ]
    trained = trainer.accelerator.unwrap_model(trainer.model)
    policy = LanguageModel(bare(trained), student.tokenizer)
    if evaluate is not None and config.curve_steps:
        callbacks.append(LearningCurve(run, policy, config.curve_steps, evaluate))
    add_callbacks(trainer, *callbacks)
    checkpoint = last_checkpoint(Path(config.output_dir)) if resume else None
    # Without a checkpoint the training starts over, and so does its log.
    run.drop_metrics_after(-1 if checkpoint is None else int(Path(checkpoint).name.split("-")[1]))
    with checkpoint_errors(Path(config.output_dir)):
        trainer.train(resume_from_checkpoint=checkpoint)

    policy.model.eval()
    metrics = run.metrics()
    losses = [row["loss"] for row in metrics if row.get("loss") is not None]
    trained = LanguageModel(merged(trained) if config.merge_adapter else trained, student.tokenizer)
    save_model(trained, run.path / "model", _card(config))
    run.finish(
        {
            "stage": "distill",
            "teacher": config.teacher,
            "student": config.student,
            "method": config.method,
            "steps": trainer.state.global_step,
            "tokens": int(sum(row.get("trained_tokens", 0) for row in metrics)),
            "learning_rate": config.learning_rate,
            "final_loss": sum(losses[-10:]) / max(1, len(losses[-10:])),
            "traces": len(traces),
            "findings": [asdict(_hacking(metrics, config))],
        }
    )
    return run


def _hacking(metrics: list[dict[str, Any]], config: DistillConfig) -> Finding:
    """Does the training loss keep to its power law?"""
    steps = [row for row in metrics if row.get("loss") is not None]
    return teacher_hacking(
        [row["step"] for row in steps],
        [row["loss"] for row in steps],
        [row.get("on_policy") or 0.0 for row in steps],
        warmup=config.get_warmup_steps(config.max_steps),
    )


def _card(config: DistillConfig) -> str:
    return (
        f"---\nbase_model: {config.student}\ntags: [distillknob, distilled-student]\n---\n"
        f"# {config.student}, distilled from {config.teacher}\n\n"
        f"Made by distillknob with method `{config.method}` on {', '.join(config.tasks)} "
        f"({config.max_steps} steps of {config.per_device_train_batch_size * config.gradient_accumulation_steps}, "
        f"learning rate {config.learning_rate:g}, seed {config.seed}).\n"
    )
