"""How a model in this process scores answers: hidden states of a batch, and the logits of a block of them at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from distillknob.models.chat import prompt_ids
from distillknob.models.families import check_length
from distillknob.models.heads import Head, checked_head
from distillknob.models.scoring import Batch, ScoreRequest, answer_hidden, batches, chosen_logprob, padded_ids
from distillknob.models.shared_prefix import (
    GroupedBatch,
    grouped_batches,
    grouped_hidden,
    keeps_a_cache,
    worthwhile,
)
from distillknob.runtime.progress import progress

if TYPE_CHECKING:
    from transformers import LogitsProcessor

    from distillknob.models.loaded.base import Loaded


@torch.no_grad()
def score(language_model: Loaded, request: ScoreRequest, edit: LogitsProcessor | None) -> list[torch.Tensor]:
    """`Scorer.score` by forward passes, which read a prompt once where its answers are worth it."""
    model, answers_ids = language_model.model, request.answers_ids
    prompts_ids = prompt_ids(language_model.tokenizer, request.prompts)
    logprobs: list[torch.Tensor] = [torch.zeros(0)] * len(answers_ids)
    if not any(answers_ids):
        return logprobs
    head = checked_head(model)
    check_length(model.config, max(len(p) + len(a) for p, a in zip(prompts_ids, answers_ids, strict=True)))
    # An edit reads what stands before a token, which a group's rows don't hold in one piece.
    grouped = edit is None and worthwhile(prompts_ids, answers_ids) and keeps_a_cache(language_model.model)
    batched: Any = grouped_batches if grouped else batches
    with progress(request.description, len(answers_ids), unit="text") as bar:
        for batch in batched(prompts_ids, answers_ids, model.device, request.batch_tokens):
            made_of = [[prompts_ids[i], answers_ids[i]] for i in batch.rows]
            if not any(answer for _, answer in made_of):
                continue
            pieces = request.journal.take(batch.rows, made_of)
            if pieces is None:
                if edit is None:
                    token_N = _logprobs(language_model, head, batch)
                else:
                    token_N = _edited_logprobs(language_model, head, batch, edit)
                pieces = token_N.split([len(answer) for _, answer in made_of])
                request.journal.keep(batch.rows, [piece.clone() for piece in pieces], made_of)
            for i, piece in zip(batch.rows, pieces, strict=True):
                logprobs[i] = piece.float()
            bar.update(len(batch.rows))
    return logprobs


def _logprobs(language_model: Loaded, head: Head, batch: Batch | GroupedBatch) -> torch.Tensor:
    """The log-probability of each token of a batch's answers, row by row, [N] on the CPU."""
    if isinstance(batch, GroupedBatch):
        token_N = batch.answer_ids_RA[batch.answer_mask_RA]
        hidden_NH = grouped_hidden(language_model, batch)
    else:
        token_N = batch.answer_ids_BA[batch.answer_mask_BA]
        hidden_NH = answer_hidden(language_model, batch)
    return torch.cat(
        [chosen_logprob(head.logits(hidden_NH[block]), token_N[block]).cpu() for block in head.blocks(len(token_N))]
    )


def _edited_logprobs(language_model: Loaded, head: Head, batch: Batch, edit: LogitsProcessor) -> torch.Tensor:
    """`_logprobs` under edited logits."""
    token_N = batch.answer_ids_BA[batch.answer_mask_BA]
    logprob_N = torch.zeros(len(token_N))
    for place_R, logits_RV in edited_logits(language_model, head, batch, edit):
        logprob_N[place_R.cpu()] = chosen_logprob(logits_RV, token_N[place_R]).float().cpu()
    return logprob_N


def edited_logits(
    language_model: Loaded, head: Head, batch: Batch, edit: LogitsProcessor
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The edited next-token logits [R, V] at the tokens of a batch's answers, and the places [R] of these tokens among
    all N, row by row: the tokens that stand at one place of all rows at a time, and a block of those."""
    mask_BA = batch.answer_mask_BA
    ids_BT, hidden_NH = padded_ids(language_model, batch), answer_hidden(language_model, batch)
    place_BA = torch.zeros_like(mask_BA, dtype=torch.long)
    place_BA[mask_BA] = torch.arange(len(hidden_NH), device=mask_BA.device)
    before = ids_BT.size(1) - mask_BA.size(1)
    for a in range(mask_BA.size(1)):
        rows = mask_BA[:, a].nonzero()[:, 0]
        for block in head.blocks(len(rows)):
            place_R = place_BA[rows[block], a]
            yield place_R, edit(ids_BT[rows[block], : before + a], head.logits(hidden_NH[place_R]))
