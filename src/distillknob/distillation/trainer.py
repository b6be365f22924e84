"""TRL's DistillationTrainer with the divergence core for its loss, on stored traces and the student's own.

The trainer brings generation, vLLM, PEFT, and the normaliser over all processes; here are the four parts of a method:
the divergence, where the traces come from, which of their tokens count, and what the teacher sees.
"""

from __future__ import annotations

import random
from typing import Any

import torch
from accelerate.utils import gather_object
from torch.utils.checkpoint import checkpoint
from trl import DistillationTrainer  # type: ignore[attr-defined]
from trl.models import prepare_deepspeed  # type: ignore[attr-defined]

from distillknob.distillation.config import DistillConfig
from distillknob.distillation.losses.cross_tokenizer import (
    CROSS,
    Aligned,
    aligned,
    by_span,
    padded,
    span_loss,
    span_starts,
    token_logprob,
    uld_loss,
)
from distillknob.distillation.teacher_cache import TeacherCache
from distillknob.distillation.token_choice import CHOICES
from distillknob.divergences.fused import fused_divergence
from distillknob.divergences.top_k import divergence_from_topk
from distillknob.errors import BadInputError
from distillknob.models.base import LanguageModel
from distillknob.models.chat import prompt_ids, set_in_templates
from distillknob.models.heads import Head, head_of
from distillknob.models.load import load_model
from distillknob.models.same_text import spelled
from distillknob.training.config import as_dict
from distillknob.training.rollouts import PolicyTrainer


class DistillTrainer(PolicyTrainer, DistillationTrainer):
    """DistillationTrainer with the loss of `args.method` and stored traces.

    Takes what DistillationTrainer takes; `teacher_model` may be None for hard-label methods and with a `cache`. The
    dataset has `prompt` and, unless every step is on-policy, `completion_ids` (token ids, the eos included); for a
    context that isn't plain `teacher_prompt` (messages), with a cache `trace` (its number there). Losses between two
    tokenizers (`cross_tokenizer`) need `teacher_processing_class`, the teacher's tokenizer. The two vocabularies may
    differ in width, which TRL's own losses don't allow: with two tokenizers they do, and one tokenizer may stand before
    embeddings padded to two widths (Qwen2.5 7B and 1.5B).
    """

    args: DistillConfig

    def __init__(
        self,
        model: Any,
        teacher_model: Any = None,
        args: DistillConfig | None = None,
        *more: Any,
        cache: TeacherCache | None = None,
        teacher_processing_class: Any = None,
        **kwargs: Any,
    ):
        # The teacher is kept from TRL's constructor, which refuses vocabularies of two widths, and made ready below.
        super().__init__(model, None, args, *more, **kwargs)
        if isinstance(teacher_model, str):
            options = {**as_dict(self.args.teacher_model_init_kwargs)}
            if self.args.teacher_model_revision is not None:
                options.setdefault("revision", self.args.teacher_model_revision)
            teacher_model = load_model(teacher_model, options=options).model
        if teacher_model is not None and self.is_deepspeed_enabled:
            self.teacher_model = prepare_deepspeed(teacher_model, self.accelerator)
        elif teacher_model is not None:
            self.teacher_model = self.accelerator.prepare_model(teacher_model, evaluation_mode=True)
        self._make_ready(*([self.teacher_model] if teacher_model is not None else []))
        self.method, self.cache = self.args.objective, cache
        self.teacher_processing_class = teacher_processing_class or self._tokenizer
        sides = {"the student": self._tokenizer, "the teacher": self.teacher_processing_class}
        set_in_templates(sides, as_dict(self.args.chat_template_kwargs), needed=False)
        self._aligned: list[Aligned] = []
        if self.method.needs_teacher_distribution and self.teacher_model is None and cache is None:
            raise BadInputError(f"method {self.args.method!r} needs teacher_model, or a cache of it")
        self._stored_ids: list[list[int]] | None = None

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        columns: Any = self._signature_columns
        columns += [name for name in ("completion_ids", "teacher_prompt", "trace") if name not in columns]

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
        batch["loss_mask"] = batch["completion_mask"]
        seen = "prompt" if self.method.context == "plain" else "teacher_prompt"
        prompts = [row[seen] for row in inputs]
        if self.method.loss in CROSS or seen == "teacher_prompt" or self._reads_otherwise(prompts):
            batch |= self._teacher_prompts(prompts)
        if self.method.loss in CROSS:
            batch |= self._teacher_completions()
        if self.cache is not None:
            batch |= padded_rows(list(self.cache.rows([row["trace"] for row in inputs])), batch["completion_ids"])
        if self.args.tokens_per_step is not None:
            here = max(1, self.args.tokens_per_step // self.accelerator.num_processes)
            batch["loss_mask"] = first_tokens(batch["loss_mask"], here)
        elif self.method.tokens != "all":
            batch["loss_mask"] = self._chosen_tokens(batch)
        batch["num_items_in_batch"] = self.accelerator.gather(batch["loss_mask"].sum()).sum()
        self._metrics[mode]["trained_tokens"].append(batch["num_items_in_batch"].item())
        return batch

    def _generate_single_turn(self, prompt_ids: Any, *args: Any, **kwargs: Any) -> Any:
        found = self._stored_ids
        if found is None:
            found = super()._generate_single_turn(prompt_ids, *args, **kwargs)
        if self.method.loss not in CROSS:
            return found
        # The student's own spelling of the text, in which its spans are known; a sample may have had another.
        finished = [bool(ids) and ids[-1] in self.eos_token_ids for ids in found]
        self._aligned = aligned(
            LanguageModel(self.accelerator.unwrap_model(self.model), self._tokenizer),
            LanguageModel(self.accelerator.unwrap_model(self.teacher_model), self.teacher_processing_class),
            spelled(self._tokenizer, found, finished),
            finished,
        )
        return [row.student_ids for row in self._aligned]

    def _reads_otherwise(self, prompts: list[Any]) -> bool:
        """Does the teacher's own chat template make other tokens of these prompts than the student's?"""
        student, teacher = self._tokenizer, self.teacher_processing_class
        reads = self.method.needs_teacher_distribution and self.cache is None and teacher is not student
        return reads and prompt_ids(teacher, prompts) != prompt_ids(student, prompts)

    def _teacher_prompts(self, prompts: list[Any]) -> dict[str, torch.Tensor]:
        """`teacher_prompt_ids` and `teacher_prompt_mask` [B, P'], by the teacher's tokenizer, padded on the left."""
        tokenizer = self.teacher_processing_class
        found = tokenizer.pad(
            {"input_ids": prompt_ids(tokenizer, prompts)}, return_tensors="pt", padding_side="left"
        ).to(self.accelerator.device)
        return {"teacher_prompt_ids": found["input_ids"], "teacher_prompt_mask": found["attention_mask"]}

    def _teacher_completions(self) -> dict[str, torch.Tensor]:
        """The texts in the teacher's tokens [B, C'] with their mask, and both sides' spans (−1: padding)."""
        device, rows = self.accelerator.device, self._aligned
        return {
            "teacher_completion_ids": padded([row.teacher_ids for row in rows], 0, device),
            "teacher_completion_mask": padded([[1] * len(row.teacher_ids) for row in rows], 0, device),
            "teacher_span": padded([row.teacher_span for row in rows], -1, device),
            "student_span": padded([row.student_span for row in rows], -1, device),
        }

    def _chosen_tokens(self, batch: dict[str, Any]) -> torch.Tensor:
        """The mask [B, C] of the tokens that count: chosen among those of all processes."""
        choice = CHOICES[self.method.tokens]
        assert choice is not None
        model: Any = self.model
        unwrapped = self.accelerator.unwrap_model(model)
        size, found = self.args.per_device_train_batch_size, []
        for start in range(0, len(batch["completion_ids"]), size):
            part = {
                name: value[start : start + size]
                for name, value in batch.items()
                if isinstance(value, torch.Tensor) and value.ndim
            }
            with torch.no_grad():
                found.append(self._forward_redirection(model, unwrapped, self._measured, unwrapped, part))
        measured_2N = torch.cat(found, dim=1).cpu()
        everywhere = gather_object([measured_2N])
        entropy_N, divergence_N = torch.cat(everywhere, dim=1).unbind(0)
        chosen_N = choice(entropy_N, divergence_N, self.args.tokens_share)
        first = sum(other.size(1) for other in everywhere[: self.accelerator.process_index])
        mask_BC = torch.zeros_like(batch["completion_mask"])
        here_N = chosen_N[first : first + measured_2N.size(1)].to(mask_BC)
        return mask_BC.masked_scatter(batch["completion_mask"].bool(), here_N)

    def _measured(self, unwrapped_student: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """The student's entropy and its divergence from the teacher at every token of the completions, [2, N]."""
        mask_BC = inputs["completion_mask"].bool()
        student, hidden_BCH = self._student(unwrapped_student, inputs)
        hidden_NH = hidden_BCH[mask_BC]
        entropy = [
            torch.distributions.Categorical(logits=student.logits(hidden_NH[block])).entropy()
            for block in student.blocks(len(hidden_NH))
        ]
        entropy_N = torch.cat(entropy) if entropy else hidden_NH.new_zeros(0)
        if self.method.tokens == "entropy":
            return torch.stack([entropy_N, torch.zeros_like(entropy_N)])
        return torch.stack([entropy_N, self._divergence(student, hidden_NH, inputs, mask_BC, reduction="none")])

    def _get_last_hidden_state(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """TRL's, in mixed precision where that is set: Accelerate's autocast lives in the forward of the whole model,
        and this calls the layers below it."""
        with self.accelerator.autocast():
            found: torch.Tensor = super()._get_last_hidden_state(*args, **kwargs)
        return found

    def _student(self, unwrapped_student: Any, inputs: dict[str, Any]) -> tuple[Head, torch.Tensor]:
        """The student's head, and its last hidden states [B, C, H] from which the completions' tokens are predicted."""
        ids_BT = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
        mask_BT = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
        width = inputs["completion_ids"].size(1)
        hidden_BCH = self._get_last_hidden_state(unwrapped_student, ids_BT, mask_BT, width)
        student = head_of(unwrapped_student)  # after the forward pass, with which FSDP brings the head together
        return student, hidden_BCH.to(student.weight_VH.dtype)

    def _divergence(
        self, student: Head, hidden_NH: torch.Tensor, inputs: dict[str, Any], rows_BC: torch.Tensor, **options: Any
    ) -> torch.Tensor:
        """The method's divergence to the teacher over the tokens of the mask, reduced as `options` say."""
        kinds: dict[str, Any] = {"beta": self.beta, "temperature": self.temperature, "alpha": self.args.skew}
        if self.cache is not None:
            ids, logprobs, tail = (inputs[name][rows_BC] for name in ("cached_ids", "cached_logprobs", "cached_tail"))
            kinds |= {"kind": self.method.loss, "width": self.cache.width}
            return stored_divergence(student, hidden_NH, ids, logprobs, tail, **kinds, **options)
        plain = "teacher_prompt_ids" not in inputs
        seen, known = ("prompt_ids", "prompt_mask") if plain else ("teacher_prompt_ids", "teacher_prompt_mask")
        teacher, teacher_BCH = self._teacher(
            torch.cat([inputs[seen], inputs["completion_ids"]], dim=1),
            torch.cat([inputs[known], inputs["completion_mask"]], dim=1),
            rows_BC.size(1),
        )
        return fused_divergence(
            hidden_NH,
            student.weight_VH,
            teacher_BCH[rows_BC],
            teacher.weight_VH,
            self.method.loss,
            student_bias=student.bias_V,
            teacher_bias=teacher.bias_V,
            student_softcap=student.softcap,
            teacher_softcap=teacher.softcap,
            student_logit_scale=student.scale,
            teacher_logit_scale=teacher.scale,
            **kinds,
            **options,
        )

    def _teacher(self, ids_BT: torch.Tensor, mask_BT: torch.Tensor, width: int) -> tuple[Head, torch.Tensor]:
        """The teacher's head, and its last hidden states [B, width, H] before each of the last tokens."""
        self.teacher_model.eval()
        unwrapped = self.accelerator.unwrap_model(self.teacher_model)
        with torch.no_grad():
            # Through the teacher's own wrapper, so that FSDP and DeepSpeed have its weights in place.
            hidden_BCH: torch.Tensor = self._forward_redirection(
                self.teacher_model, unwrapped, self._get_last_hidden_state, unwrapped, ids_BT, mask_BT, width
            )
        teacher = head_of(unwrapped)
        return teacher, hidden_BCH.to(teacher.weight_VH.dtype)

    def _cross_loss(self, unwrapped_student: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """The loss between two tokenizers, summed over the spans of all texts."""
        student, student_BCH = self._student(unwrapped_student, inputs)
        teacher, teacher_BCH = self._teacher(
            torch.cat([inputs["teacher_prompt_ids"], inputs["teacher_completion_ids"]], dim=1),
            torch.cat([inputs["teacher_prompt_mask"], inputs["teacher_completion_mask"]], dim=1),
            inputs["teacher_completion_ids"].size(1),
        )
        ours_BC, theirs_BC = inputs["student_span"], inputs["teacher_span"]
        if self.method.loss == "uld":
            return uld_loss(student, student_BCH[span_starts(ours_BC)], teacher, teacher_BCH[span_starts(theirs_BC)])
        spans = int(max(ours_BC.max(), theirs_BC.max())) + 1 if ours_BC.numel() else 0
        with torch.no_grad():
            taught_BC = token_logprob(teacher, teacher_BCH, inputs["teacher_completion_ids"], theirs_BC)
        studied_BC = token_logprob(student, student_BCH, inputs["completion_ids"], ours_BC)
        return span_loss(by_span(studied_BC, ours_BC, spans), by_span(taught_BC, theirs_BC, spans))

    def _compute_loss(
        self, unwrapped_student: Any, inputs: dict[str, Any], num_items_in_batch: Any
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Loss summed over the tokens that count and divided by `num_items_in_batch`; the student's entropy summed
        over them (NaN where the loss never holds the distribution); their number."""
        counted_BC = inputs["loss_mask"].bool()
        count = counted_BC.sum()
        items = count.clamp(min=1) if num_items_in_batch is None else num_items_in_batch
        if self.method.loss in CROSS:
            loss = self._cross_loss(unwrapped_student, inputs) / items
            return loss, torch.full_like(loss.detach(), torch.nan), count
        student, hidden_BCH = self._student(unwrapped_student, inputs)
        hidden_NH = hidden_BCH[counted_BC]
        if self.method.needs_teacher_distribution:
            loss = self._divergence(student, hidden_NH, inputs, counted_BC, num_items=items)
        else:
            loss = student.cross_entropy(hidden_NH, inputs["completion_ids"][counted_BC]) / items
        return loss, torch.full_like(loss.detach(), torch.nan), count


def stored_divergence(
    student: Head,
    hidden_NH: torch.Tensor,
    ids_NK: torch.Tensor,
    logprobs_NK: torch.Tensor,
    tail_N: torch.Tensor,
    *,
    kind: str,
    width: int | None = None,
    num_items: Any = 1,
    reduction: str = "sum",
    **options: Any,
) -> torch.Tensor:
    """`divergence_from_topk` of the student's logits of the first `width` tokens (all by default) over N rows: their
    sum over `num_items`, or with reduction "none" each, [N]. A block's logits are formed again for its gradient, so
    that a block's are held at a time."""

    def of_block(hidden: torch.Tensor, block: slice) -> torch.Tensor:
        logits = student.logits(hidden)[:, :width]
        return divergence_from_topk(logits, ids_NK[block], logprobs_NK[block], tail_N[block], kind, **options)

    found = [
        checkpoint(of_block, hidden_NH[block], block, use_reentrant=False) for block in student.blocks(len(hidden_NH))
    ]
    value_N = torch.cat(found) if found else hidden_NH.sum(1)
    return value_N if reduction == "none" else value_N.sum() / num_items


def padded_rows(rows: list[tuple[torch.Tensor, ...]], completion_ids_BC: torch.Tensor) -> dict[str, torch.Tensor]:
    """A cache's rows as `cached_ids` [B, C, K], `cached_logprobs` [B, C, K] and `cached_tail` [B, C]."""
    lead = completion_ids_BC.shape
    size = rows[0][0].size(1)
    found = {
        "cached_ids": torch.arange(size).expand(*lead, size).clone(),  # padding needs ids that differ
        "cached_logprobs": torch.zeros(*lead, size),
        "cached_tail": torch.zeros(lead),
    }
    for r, row in enumerate(rows):
        for target, value in zip(found.values(), row, strict=True):
            target[r, : len(value)] = value
    return {name: value.to(completion_ids_BC.device) for name, value in found.items()}


def first_tokens(mask_BC: torch.Tensor, budget: int) -> torch.Tensor:
    """The mask [B, C] with its first `budget` tokens alone, counted row by row."""
    return mask_BC * (mask_BC.flatten().cumsum(0) <= budget).view_as(mask_BC)
