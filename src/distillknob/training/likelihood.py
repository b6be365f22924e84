"""The gradient of answers' log-likelihood in a model's weights, beside any training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.utils.checkpoint import checkpoint

from distillknob.models.base import LanguageModel
from distillknob.models.chat import prompt_ids
from distillknob.models.heads import Head, head_of
from distillknob.models.recomputing import recomputed
from distillknob.models.scoring import Prompt, answer_hidden, batches, chosen_logprob

BATCH_TOKENS = 16_384  # padded tokens of a pass with gradients


def add_likelihood_gradients(
    student: LanguageModel,
    prompts: Sequence[Prompt],
    answers_ids: Sequence[Sequence[int]],
    weights: Sequence[float],
) -> None:
    """Add the gradient of Σ_i weight_i · log q(y_i|x_i) to the student's gradients; a block of logits exists at a
    time, and layers keep their inputs alone."""
    rows = [i for i, ids in enumerate(answers_ids) if len(ids)]
    ids = [list(answers_ids[i]) for i in rows]
    weight_B = torch.tensor([weights[i] for i in rows], device=student.model.device)
    head = head_of(student.model)
    prompts_ids = prompt_ids(student.tokenizer, [prompts[i] for i in rows])
    for batch in batches(prompts_ids, ids, student.model.device, BATCH_TOKENS):
        mask_BA = batch.answer_mask_BA
        token_N = batch.answer_ids_BA[mask_BA]
        weight_N = weight_B[batch.rows][:, None].expand_as(mask_BA)[mask_BA]
        with torch.enable_grad(), recomputed(student.model):
            hidden_NH = answer_hidden(student, batch)
            parts = [
                checkpoint(_weighted, head, hidden_NH[block], token_N[block], weight_N[block], use_reentrant=False)
                for block in head.blocks(len(token_N))
            ]
            torch.stack(parts).sum().backward()


def _weighted(head: Head, hidden_NH: torch.Tensor, token_N: torch.Tensor, weight_N: torch.Tensor) -> torch.Tensor:
    return (weight_N * chosen_logprob(head.logits(hidden_NH), token_N)).sum()
