"""What a model in this process would write at chosen places of its own answers: next-token distributions, cut off."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch

from distillknob.fingerprints.radioactivity import Observed, Place, distributions_observed
from distillknob.models.base import LanguageModel
from distillknob.models.chat import prompt_ids
from distillknob.models.heads import checked_head
from distillknob.models.scoring import BATCH_TOKENS, Batch, Prompt, answer_hidden, batches
from distillknob.runs.journal import Journal
from distillknob.runtime.processes import merged, my_share
from distillknob.runtime.progress import progress

# A distribution is kept down to its likeliest tokens: as many as hold this mass, and at most so many. What is cut off
# counts as the share that is green of it under an average key, so that nothing is claimed of it.
_MASS, _MOST = 0.999, 256

Kept = dict[int, tuple[torch.Tensor, torch.Tensor]]  # by the number of a place: tokens and their probabilities


def observed_at(
    language_model: LanguageModel,
    prompts: Sequence[Prompt],
    answers_ids: Sequence[Sequence[int]],
    counted: Sequence[Place],
    tokens: int,
    *,
    journal: Journal,
    shared: bool = False,
    description: str = "distributions",
) -> Observed:
    """The model's next-token distributions at places of answers (ids of its tokenizer) to prompts, over the first
    `tokens` of its vocabulary. What `journal` holds isn't computed again. `shared` says that every process makes this
    same call, and takes a part of the rows."""
    of_row: dict[int, list[int]] = defaultdict(list)
    for number, place in enumerate(counted):
        of_row[place.row].append(number)
    rows = my_share(list(of_row)) if shared else list(of_row)
    prompts_ids = prompt_ids(language_model.tokenizer, [list(prompts[row]) for row in rows])
    answers = [list(answers_ids[row]) for row in rows]
    journal = journal.of_process() if shared else journal
    kept: Kept = {}
    device = language_model.model.device
    with progress(description, len(rows), unit="text") as bar:
        for batch in batches(prompts_ids, answers, device, BATCH_TOKENS):
            wanted = [[counted[number].number for number in of_row[rows[i]]] for i in batch.rows]
            made_of = [[prompts_ids[i], answers[i], own] for i, own in zip(batch.rows, wanted, strict=True)]
            pieces = journal.take([rows[i] for i in batch.rows], made_of)
            if pieces is None:
                pieces = _distributions(language_model, batch, wanted, tokens)
                journal.keep([rows[i] for i in batch.rows], pieces, made_of)
            numbers = [number for i in batch.rows for number in of_row[rows[i]]]
            kept |= dict(zip(numbers, pieces, strict=True))
            bar.update(len(batch.rows))
    if shared:
        kept = merged(kept)
    pairs = [kept[number] for number in range(len(counted))]
    return distributions_observed([place.window for place in counted], [t for t, _ in pairs], [p for _, p in pairs])


@torch.no_grad()
def _distributions(
    language_model: LanguageModel, batch: Batch, wanted: Sequence[Sequence[int]], tokens: int
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The distributions before the `wanted` tokens of each row of a batch, row by row."""
    mask_BA, width = batch.answer_mask_BA.cpu(), batch.answer_ids_BA.size(1)
    wanted_BA = torch.zeros_like(mask_BA)
    for b, own in enumerate(wanted):
        first = width - int(mask_BA[b].sum())
        wanted_BA[b, [first + number for number in own]] = True
    hidden_NH = answer_hidden(language_model, batch)[wanted_BA[mask_BA].to(batch.answer_mask_BA.device)]
    head = checked_head(language_model.model)
    pieces = []
    for block in head.blocks(len(hidden_NH)):
        p_NV = head.logits(hidden_NH[block])[:, :tokens].softmax(-1)
        top = p_NV.topk(min(_MOST, p_NV.size(-1)))
        lengths = 1 + (top.values.cumsum(-1)[:, :-1] < _MASS).sum(-1)
        for ids_K, p_K, length in zip(top.indices.cpu(), top.values.cpu(), lengths.tolist(), strict=True):
            pieces.append((ids_K[:length].clone(), p_K[:length].clone()))
    return pieces
