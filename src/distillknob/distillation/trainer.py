"""TRL's DistillationTrainer with the losses of `losses`, on stored traces and on the student's own.

TRL brings generation, vLLM, PEFT, and the normaliser over all processes. Here is what the losses are given: the tokens
that they train on, which of them count, and the states of both models for a batch, read when a loss asks for them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor
from transformers.trainer_utils import get_last_checkpoint
from trl import DistillationTrainer  # type: ignore[attr-defined]
from trl.models import prepare_deepspeed  # type: ignore[attr-defined]

from distillknob.distillation.batches import (
    columns_of,
    completions_of,
    first_tokens,
    rows_that_count,
    sequences,
    with_completions,
)
from distillknob.distillation.config import DistillConfig
from distillknob.distillation.loss_weights import LossWeights
from distillknob.distillation.losses import Loss, Rollouts, States, View
from distillknob.distillation.losses.base import PLAIN, PROMPT, TEACHER
from distillknob.distillation.moving_average import AverageTeacher
from distillknob.distillation.private_steps import PrivateSteps
from distillknob.distillation.replay import MixedSources
from distillknob.distillation.several_teachers import ROUTE, averaged, routed
from distillknob.distillation.sources import FRESH, STORED
from distillknob.distillation.teacher_context.base import TEACHER_PROMPT, Written
from distillknob.distillation.token_choice import CHOICES, Choice
from distillknob.errors import BadInputError
from distillknob.models.base import LanguageModel
from distillknob.models.chat import prompt_ids, set_in_templates
from distillknob.models.exits import exit_at
from distillknob.models.heads import head_of
from distillknob.models.load import load_model
from distillknob.training.config import as_dict
from distillknob.training.grading import graded_rollouts
from distillknob.training.reading import read_rows
from distillknob.training.rollouts import PolicyTrainer
from distillknob.training.sampler import EpochSampler

Row = Mapping[str, Any]  # of the data set


class DistillTrainer(MixedSources, LossWeights, PrivateSteps, PolicyTrainer, DistillationTrainer):
    """DistillationTrainer with a loss of distillknob's, on stored traces or the student's own samples.

    Takes what DistillationTrainer takes. `loss` is the config's by default. `teacher_model` may be None where the loss
    doesn't ask it, and `model` itself where the teacher moves with the student; it is read without gradients. Where
    the config's `teacher_weights` are `average`, it is made here, of the student.
    `further_models` are the others that the loss names (`Loss.models`), and of several teachers all but the first, by
    the config's names for them; they are read likewise. The data set has `prompt`, unless every step is on-policy
    `completion_ids` (token ids, the eos included), and the columns that the loss names, and `task` where each task has
    a teacher. Where the teacher sees another prompt it has `teacher_prompt` (messages); a loss may read
    further columns whose names begin so.

    `teacher_processing_class` is the teacher's tokenizer, by default the student's. The two vocabularies may differ in
    width, which TRL's own losses don't allow: with two tokenizers they do, and one tokenizer may stand before
    embeddings padded to two widths (Qwen2.5 7B and 1.5B).
    """

    args: DistillConfig

    def __init__(
        self,
        model: Any,
        teacher_model: Any = None,
        args: DistillConfig | None = None,
        *more: Any,
        loss: Loss | None = None,
        teacher_processing_class: Any = None,
        further_models: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ):
        # The teacher is kept from TRL's constructor, which refuses vocabularies of two widths, and made ready below.
        super().__init__(model, None, args, *more, **kwargs)
        self._make_replay()
        if isinstance(teacher_model, str):
            teacher_model = load_model(teacher_model, options=self.args.teacher_options).model
        moves = teacher_model is not None and teacher_model is model
        averaged = self.args.made_average
        self.average = None if averaged is None else AverageTeacher(self.model, averaged)
        read = teacher_model if self.average is None else self.average.model
        self.teacher_model = self.model if moves else self._prepared(read)
        self.further_models = {
            name: self.teacher_model if one is teacher_model else self._prepared(one)
            for name, one in (further_models or {}).items()
        }
        frozen = [] if read is None or moves else [self.teacher_model]
        self._make_ready(*frozen, *(one for one in self.further_models.values() if one is not self.teacher_model))
        if self.average is not None:
            self.average.check_precision()
            self.add_callback(self.average)
        self.loss = self.args.loss if loss is None else loss
        if self.loss.memory is not None:
            self.add_callback(self.loss.memory)
        if missing := {*self.loss.models, *self.args.several_teachers[1:]} - self.further_models.keys():
            raise BadInputError(f"method {self.args.method!r} reads {', '.join(sorted(missing))}: give further_models")
        if self.loss.asks_teacher and self.teacher_model is None:
            raise BadInputError(f"method {self.args.method!r} needs teacher_model, or the loss of a cache (`stored`)")
        if self.teacher_model is not None:
            self._make_loss_module(self.loss, *map(self.accelerator.unwrap_model, (self.model, self.teacher_model)))
        if self.loss.exit_share is not None:  # what has none is told before the first step
            exit_at(self.accelerator.unwrap_model(self.model), self.loss.exit_share)
        self.choice: Choice | None = CHOICES[self.args.objective.tokens]
        self.weights, self.soft_target = self.args.made_token_weights, self.args.made_soft_target
        self.edit, self.context = self.args.made_edit, self.args.made_context
        self.teacher_processing_class = teacher_processing_class or self._tokenizer
        sides = {"the student": self._tokenizer, "the teacher": self.teacher_processing_class}
        set_in_templates(sides, as_dict(self.args.chat_template_kwargs), needed=False)
        self._stored_ids: list[list[int]] | None = None

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Transformers' `train`; a checkpoint's moving average, and what loss and replay keep, are taken up with it."""
        moves = [one for one in (self.average, self.loss.memory, self.replay) if one is not None]
        if moves and resume_from_checkpoint:
            if resume_from_checkpoint is True:
                resume_from_checkpoint = get_last_checkpoint(str(self.args.output_dir))
            for one in moves:
                one.restore(resume_from_checkpoint)
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def _prepared(self, model: Any) -> Any:
        """A model that is only read, made ready for this process."""
        if model is None:
            return None
        if self.is_deepspeed_enabled:
            return prepare_deepspeed(model, self.accelerator)
        return self.accelerator.prepare_model(model, evaluation_mode=True)

    def _get_train_sampler(self, dataset: Any = None) -> EpochSampler:
        sampler = super()._get_train_sampler(dataset)
        if (group := self.args.objective.num_generations) > 1:  # the samples of a prompt stand side by side
            sampler = EpochSampler.grouped(sampler, group)
        return sampler

    def _generate_single_turn(self, prompt_ids: Any, *args: Any, **kwargs: Any) -> Any:
        if self._stored_ids is not None:
            return self._stored_ids
        if not self.use_vllm:
            return self._rolled_out(prompt_ids)
        with self._as_it_is():
            return super()._generate_single_turn(prompt_ids, *args, **kwargs)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        source, inputs = self._source(inputs)
        on_policy = source == FRESH
        self._stored_ids = None if on_policy else [list(row["completion_ids"]) for row in inputs]
        batch: dict[str, Any] = super()._generate_and_score_completions(
            [{**row, "prompt": row[self.loss.drawn_with]} for row in inputs]
        )
        self._keep_samples(source, inputs, batch)
        if self.loss.drawn_with != PROMPT:
            batch |= self._padded(PROMPT, self._tokenizer, [row["prompt"] for row in inputs])
        rollouts = functools.partial(self._rollouts, inputs, on_policy=on_policy, own=source != STORED)
        if self.args.objective.teacher == "routed":
            batch[ROUTE] = self._routes(inputs)
        if self.edit is not None:
            batch = with_completions(batch, self.edit.edited(rollouts(batch)), self._tokenizer.pad_token_id)
            self.sampled_logprobs = None  # which were of other tokens
        if self.loss.asks_teacher:
            batch |= self._teacher_prompts(inputs, rollouts(batch))
        batch["loss_mask"] = self._counted(batch, rollouts)
        batch |= self.loss.prepare(rollouts(batch))
        weights = [] if self.weights is None else [self.weights.weights(self.loss, rollouts(batch))]
        if "weight" in inputs[0]:
            of_rows = torch.tensor([row["weight"] for row in inputs], device=self.accelerator.device)
            weights.append(of_rows[:, None].expand_as(batch["completion_mask"]))
        if weights:
            batch["weight"] = functools.reduce(torch.mul, weights).float()
        if self.choice is not None:
            batch["loss_mask"] = self._chosen_tokens(self.choice, batch)
        batch["num_items_in_batch"] = self.accelerator.gather(batch["loss_mask"].sum()).sum()
        mode = "train" if self.model is not None and self.model.training else "eval"
        self._metrics[mode]["on_policy"].append(float(on_policy))
        self._metrics[mode]["trained_tokens"].append(batch["num_items_in_batch"].item())
        texts = self.accelerator.gather(batch["loss_mask"].any(1).sum()).sum()  # of which a token counts
        self._metrics[mode]["trained_texts"].append(texts.item())
        return batch

    def _counted(self, batch: Mapping[str, Any], rollouts: Callable[[Mapping[str, Any]], Rollouts]) -> Tensor:
        """The mask [B, C] of the tokens that count, before some of them are chosen: known before the loss is prepared,
        so that what it makes of a step's tokens it makes of these."""
        mask_BC: Tensor = batch["completion_mask"]
        if "shown" in batch:  # for the others there was nothing to show
            mask_BC = mask_BC * batch["shown"][:, None]
        for part in (self.weights, self.soft_target):
            if part is not None and (counts_BC := part.counts(rollouts({**batch, "loss_mask": mask_BC}))) is not None:
                mask_BC = mask_BC * counts_BC
        if self.args.tokens_per_step is None:
            return mask_BC
        return first_tokens(mask_BC, max(1, self.args.tokens_per_step // self.accelerator.num_processes))

    def _teacher_prompts(self, rows: Sequence[Row], rollouts: Rollouts) -> dict[str, Tensor]:
        """The prompts that the teacher sees in its own tokens, as `X_ids` and `X_mask` [B, P'], padded on the left: of
        the data set's columns X for the teacher, of what a late context shows, and of the student's own as `plain`,
        where the teacher's template makes other tokens of them. With a late context `shown` [B] says for which there
        is one."""
        tokenizer = self.teacher_processing_class
        own, plain = self._tokenizer, [row["prompt"] for row in rows]
        seen = {name: [row[name] for row in rows] for name in rows[0] if name.startswith(TEACHER_PROMPT)}
        columns: dict[str, Tensor] = {}
        if self.context is not None and self.context.late:
            rewards = rollouts.graded() if self.context.grades else None
            late = self.context.shown(Written(rows, rollouts.texts, rewards, rollouts.num_generations))
            columns["shown"] = torch.tensor([one is not None for one in late]).to(rollouts.batch["completion_mask"])
            seen[TEACHER_PROMPT] = [plain[b] if one is None else one for b, one in enumerate(late)]
        if tokenizer is not own and prompt_ids(tokenizer, plain) != prompt_ids(own, plain):
            seen[PLAIN] = plain
            seen.setdefault(TEACHER_PROMPT, plain)
        for name, prompts in seen.items():
            columns |= self._padded(name, tokenizer, prompts)
        return columns

    def _padded(self, name: str, tokenizer: Any, prompts: Sequence[Any]) -> dict[str, Tensor]:
        """The prompts (messages) in a tokenizer's tokens, as columns `X_ids` and `X_mask` [B, P] of this name."""
        ids = {"input_ids": prompt_ids(tokenizer, prompts)}
        padded = tokenizer.pad(ids, return_tensors="pt", padding_side="left").to(self.accelerator.device)
        return {f"{name}_ids": padded["input_ids"], f"{name}_mask": padded["attention_mask"]}

    def _routes(self, rows: Sequence[Row]) -> Tensor:
        """Which of the teachers is each row's own, [b]. Raises BadInputError for a row of a task without one."""
        routes, names = self.args.teachers, self.args.several_teachers
        tasks = [row.get("task") for row in rows]
        if unknown := [task for task in tasks if task not in routes]:
            raise BadInputError(f"teachers names none for a row of the task {unknown[0]!r}: it has {', '.join(routes)}")
        return torch.tensor([names.index(routes[str(task)]) for task in tasks], device=self.accelerator.device)

    def _rollouts(self, rows: Sequence[Row], batch: dict[str, Any], *, on_policy: bool, own: bool) -> Rollouts:
        teacher = None
        if self.teacher_model is not None:
            unwrapped = self.accelerator.unwrap_model(self.teacher_model)
            teacher = LanguageModel(unwrapped, self.teacher_processing_class)
        sampled = self.sampled_logprobs if on_policy else None
        return Rollouts(
            rows=rows,
            batch=batch,
            student=LanguageModel(self.accelerator.unwrap_model(self.model), self._tokenizer),
            teacher=teacher,
            ends=self.eos_token_ids,
            measured=lambda of_view: self._measured(of_view, batch),
            graded=lambda: self._graded(rows, batch),
            everywhere=lambda values: torch.cat(gather_object([values.cpu()])).to(values.device),
            on_policy=on_policy,
            own=own,
            num_generations=self.args.objective.num_generations,
            sampled_logprobs=sampled,
            progress=self.state.global_step / max(1, self.state.max_steps),
            epochs=max(1, self.state.num_train_epochs or 1),
        )

    def _graded(self, rows: Sequence[Row], batch: Mapping[str, Any]) -> Tensor:
        """The rewards [b] of the completions by their tasks' graders."""
        ids = completions_of(batch)
        ended = [bool(row) and row[-1] in self.eos_token_ids for row in ids]
        rewards = graded_rollouts(self._tokenizer, rows, ids, ended)
        return torch.tensor(rewards, device=self.accelerator.device)

    def _measured(self, of_view: Callable[[View], Tensor], batch: Mapping[str, Any]) -> Tensor:
        """`of_view` of all rows, in which every token of the completions counts: a micro-batch at a time, without
        gradients or dropout, put together along the first axis."""
        model: Any = self.model
        unwrapped = self.accelerator.unwrap_model(model)
        size = self.args.per_device_train_batch_size

        def of_part(unwrapped_student: Any, part: dict[str, Tensor]) -> Tensor:
            return of_view(self._view(unwrapped_student, part, part["completion_mask"].bool(), 1))

        measured = []
        for start in range(0, len(batch["completion_ids"]), size):
            part = {name: value[start : start + size] for name, value in columns_of(batch).items()}
            with self._as_it_is(), torch.no_grad():
                measured.append(self._forward_redirection(model, unwrapped, of_part, unwrapped, part))
        return torch.cat(measured)

    def _chosen_tokens(self, choice: Choice, batch: Mapping[str, Any]) -> Tensor:
        """The mask [B, C] of the tokens that count: chosen among those of all processes that may."""
        may_BC, here_BC = batch["loss_mask"].bool(), batch["completion_mask"].bool()
        measured_N2 = self._measured(lambda view: choice.measured(self.loss, view), batch)[may_BC[here_BC]].cpu()
        everywhere = gather_object([measured_N2])
        entropy_N, divergence_N = torch.cat(everywhere).unbind(1)
        chosen_N = choice.mask(entropy_N, divergence_N, self.args.tokens_share)
        first = sum(map(len, everywhere[: self.accelerator.process_index]))
        mask_BC = torch.zeros_like(batch["completion_mask"])
        here_N = chosen_N[first : first + len(measured_N2)].to(mask_BC)
        return mask_BC.masked_scatter(may_BC, here_N)

    def _get_last_hidden_state(self, *args: Any, **kwargs: Any) -> Tensor:
        """TRL's, in mixed precision where that is set: Accelerate's autocast lives in the forward of the whole model,
        and this calls the layers below it."""
        with self.accelerator.autocast():
            states: Tensor = super()._get_last_hidden_state(*args, **kwargs)
        return states

    def _view(
        self, unwrapped_student: Any, batch: Mapping[str, Tensor], counted_BC: Tensor, items: int | Tensor
    ) -> View:
        """What the loss sees of a batch."""
        return View(
            batch,
            counted_BC,
            items,
            student=lambda: self._read_student(unwrapped_student, batch),
            teacher=lambda prompt, model: self._read_teacher(batch, prompt, model),
            student_on=lambda completion, prompt: self._read_student(unwrapped_student, batch, completion, prompt),
            module=self.loss_module,
        )

    def _read_student(
        self,
        unwrapped_student: Any,
        batch: Mapping[str, Tensor],
        completion: str = "completion",
        prompt: str = PROMPT,
    ) -> States:
        share = self.loss.exit_share

        def read(ids_BT: Tensor, mask_BT: Tensor, width: int) -> Tensor:
            if share is None:
                return self._get_last_hidden_state(unwrapped_student, ids_BT, mask_BT, width)
            with exit_at(unwrapped_student, share).read() as below:
                last_BCH = self._get_last_hidden_state(unwrapped_student, ids_BT, mask_BT, width)
            return torch.cat([last_BCH, below[0][:, -(width + 1) : -1]], dim=-1)

        hidden_BCH = read_rows(read, *sequences(batch, prompt, completion), alone=self._alone)
        head = head_of(unwrapped_student)  # after the forward pass, with which FSDP brings the head together
        hidden_BCH = hidden_BCH.to(head.weight_VH.dtype)
        if share is None:
            return States(head, hidden_BCH)
        return States(head, *hidden_BCH.chunk(2, dim=-1))

    def _read_teacher(self, batch: Mapping[str, Tensor], prompt: str | None, name: str = TEACHER) -> States:
        several = self.args.several_teachers if name == TEACHER else []
        if not several:
            return self._read_model(batch, prompt, name)

        def read(rows: Mapping[str, Tensor], one: str) -> States:
            return self._read_model(rows, prompt, TEACHER if one == several[0] else one)

        return (routed if self.args.objective.teacher == "routed" else averaged)(read, several, columns_of(batch))

    def _read_model(self, batch: Mapping[str, Tensor], prompt: str | None, name: str) -> States:
        if prompt is None:  # the student's own tokens, where the teacher reads no others
            prompt = TEACHER_PROMPT if f"{TEACHER_PROMPT}_ids" in batch else PROMPT
        elif prompt == PLAIN and f"{PLAIN}_ids" not in batch:
            prompt = PROMPT
        completion = "teacher_completion" if "teacher_completion_ids" in batch else "completion"
        model: Any = self.teacher_model if name == TEACHER else self.further_models[name]
        unwrapped = self.accelerator.unwrap_model(model)

        def read(*batch: Any) -> Tensor:
            # Through the model's own wrapper, so that FSDP and DeepSpeed have its weights in place.
            hidden_BCH: Tensor = self._forward_redirection(
                model, unwrapped, self._get_last_hidden_state, unwrapped, *batch
            )
            return hidden_BCH

        trained = model.training  # where the teacher is the student
        model.eval()
        with torch.no_grad():
            hidden_BCH = read_rows(read, *sequences(batch, prompt, completion), alone=self._alone)
        model.train(trained)
        head = head_of(unwrapped)
        return States(head, hidden_BCH.to(head.weight_VH.dtype))

    @property
    def _alone(self) -> bool:
        """Is this the only process?"""
        return bool(self.accelerator.num_processes == 1)

    def _compute_loss(
        self, unwrapped_student: Any, inputs: dict[str, Any], num_items_in_batch: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Loss summed over what counts and divided by `num_items_in_batch`; the student's entropy summed over the
        tokens (NaN: a loss never holds the whole distribution); their number."""
        batch = rows_that_count(inputs) if self.loss.counts_tokens else inputs
        counted_BC = batch["loss_mask"].bool()
        count = counted_BC.sum()
        items = count.clamp(min=1) if num_items_in_batch is None else num_items_in_batch
        loss = self.loss.value(self._view(unwrapped_student, batch, counted_BC, items))
        return loss, torch.full_like(loss.detach(), torch.nan), count
