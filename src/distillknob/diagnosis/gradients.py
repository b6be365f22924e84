"""The student's gradients of one batch under three estimates of the same reverse KL, for the trap `sequence_myopia`.

On the student's own answers, with f_t = log q(y_t) − log p(y_t) held constant, everything a token of the batch:

  token_level    ∇ Σ_t KL(q_t‖p_t): every token of the vocabulary counts
  sampled_token  Σ_t f_t·∇ log q(y_t): the same in expectation over y_t, from the sampled token alone
  sequence       (Σ_t f_t)·∇ Σ_t log q(y_t): REINFORCE on the sequence-level KL, which counts what a token does to the
                 rest of the answer and adds the noise of all other tokens to each

A batch is one prompt's answers. Gradients of a small student are kept whole, those of a larger one as `sketches`.
Memory: one parameter's gradient at a time, a block of both models' logits, the inputs of the student's layers and the
insides of one of them, whatever the batch's length.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from distillknob.diagnosis.pair_scores import pair_heads
from distillknob.diagnosis.samples import GRADIENTS, GradientSample
from distillknob.diagnosis.sketches import EXACT, GradientSums, products
from distillknob.divergences.dense import divergence
from distillknob.errors import BadInputError
from distillknob.models.base import LanguageModel
from distillknob.models.chat import prompt_ids
from distillknob.models.heads import Head
from distillknob.models.recomputing import recomputed
from distillknob.models.scoring import Batch, Prompt, answer_hidden, batch_of, batches, chosen_logprob
from distillknob.runs.journal import Journal
from distillknob.runtime.processes import merged, my_share, process_index
from distillknob.runtime.progress import progress


def compare_gradients(
    teacher: LanguageModel,
    student: LanguageModel,
    task: str,
    prompts: Sequence[Prompt],
    answers_ids: Sequence[Sequence[Sequence[int]]],
    *,
    batch_tokens: int = 16_384,
    exact: int = EXACT,
    journal: Journal | None = None,
) -> GradientSample:
    """Take the inner products of the three gradients in the student's trainable parameters, a prompt at a time.

    Args: answers_ids: [prompts][answers] of token ids that the student sampled. Prompts whose answers are all empty
      are left out. Every process takes a part of the prompts. exact: up to how many trainable parameters the products
      are exact; above it they are those of sketches.
    Raises: BadInputError for a student without trainable parameters, and a model whose logits aren't its head times
      its last hidden states.
    """
    parameters = {name: p for name, p in student.model.named_parameters() if p.requires_grad}
    if not parameters:
        raise BadInputError(f"no parameter of {student.model.name_or_path!r} is trainable: there is no gradient")
    journal = (journal or Journal()).of_process()
    by_prompt: dict[int, Tensor] = {}
    total_EK = GradientSums(parameters, len(GRADIENTS), exact).values.cpu().double()
    sides = [prompt_ids(side.tokenizer, prompts) for side in (teacher, student)]
    with progress(f"gradients: {task}", len(prompts), unit="prompt") as bar:
        for i in my_share(range(len(answers_ids))):
            answers = [answer for answer in answers_ids[i] if answer]
            if answers:
                compared = journal.take([i], total_EK.size(1))
                if compared is None:
                    sums = GradientSums(parameters, len(GRADIENTS), exact)
                    _add_gradients(sums, teacher, student, [ids[i] for ids in sides], answers, batch_tokens)
                    compared = [products(list(sums.values)), sums.values.cpu()]
                    journal.keep([i], compared, total_EK.size(1))
                by_prompt[i], values_EK = compared
                total_EK += values_EK
            bar.update(1)
    by_prompt = dict(sorted(merged(by_prompt).items()))
    totals = merged({process_index(): total_EK})
    mean_EK = torch.stack([totals[i] for i in sorted(totals)]).sum(0) / max(1, len(by_prompt))
    none = torch.zeros(0, len(GRADIENTS), len(GRADIENTS), dtype=torch.float64)
    return GradientSample(
        task=task,
        prompt_B=torch.tensor(list(by_prompt), dtype=torch.long),
        product_BEE=torch.stack(list(by_prompt.values())) if by_prompt else none,
        mean_EE=products(list(mean_EK)),
    )


def _add_gradients(
    sums: GradientSums,
    teacher: LanguageModel,
    student: LanguageModel,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    batch_tokens: int,
) -> None:
    """The three gradients of one prompt's answers, over the number of their tokens; the prompt as the teacher reads it
    and as the student does."""
    taught, studied = ([prompt] * len(answers) for prompt in prompts)
    heads = pair_heads(teacher, student)
    tokens = sum(len(answer) for answer in answers)
    for batch in batches(taught, answers, student.model.device, batch_tokens):
        own = batch if taught == studied else batch_of(batch.rows, studied, answers, student.model.device)
        with torch.no_grad():
            teacher_NH = answer_hidden(teacher, batch)
        with torch.enable_grad(), recomputed(student.model):
            student_NH = answer_hidden(student, own)
            losses = _losses(heads, teacher_NH, student_NH, batch)
            for place, loss in enumerate(losses):
                with sums.collecting(place):
                    (loss / tokens).backward(retain_graph=place < len(losses) - 1)


def _losses(heads: tuple[Head, Head], teacher_NH: Tensor, student_NH: Tensor, batch: Batch) -> tuple[Tensor, ...]:
    """Token-level, sampled-token and sequence loss, each summed over the batch's tokens, a block of logits at a
    time."""
    taught, studied = heads
    width = min(len(head.weight_VH) for head in heads)
    mask_BA = batch.answer_mask_BA
    token_N = batch.answer_ids_BA[mask_BA]
    row_N = torch.arange(len(mask_BA), device=mask_BA.device)[:, None].expand_as(mask_BA)[mask_BA]

    def summed(of_block: Any, *rows: Tensor) -> Tensor:
        parts = [
            checkpoint(of_block, *(row[block] for row in rows), use_reentrant=False, preserve_rng_state=False)
            for block in studied.blocks(len(token_N))
        ]
        return torch.stack(parts).sum()

    def logprob(head: Head, hidden_NH: Tensor, token_N: Tensor) -> Tensor:
        return chosen_logprob(head.logits(hidden_NH)[:, :width], token_N)

    def token_level(student_NH: Tensor, teacher_NH: Tensor) -> Tensor:
        with torch.no_grad():
            teacher_NV = taught.logits(teacher_NH)
        return divergence(studied.logits(student_NH), teacher_NV, "reverse_kl").sum()

    def sampled(student_NH: Tensor, token_N: Tensor, weight_N: Tensor) -> Tensor:
        return (weight_N * logprob(studied, student_NH, token_N)).sum()

    with torch.no_grad():
        ratios = [
            logprob(studied, student_NH[block], token_N[block]) - logprob(taught, teacher_NH[block], token_N[block])
            for block in studied.blocks(len(token_N))
        ]
    ratio_N = torch.cat(ratios)
    ratio_B = ratio_N.new_zeros(len(mask_BA)).index_add_(0, row_N, ratio_N)
    return (
        summed(token_level, student_NH, teacher_NH),
        summed(sampled, student_NH, token_N, ratio_N),
        summed(sampled, student_NH, token_N, ratio_B[row_N]),
    )
