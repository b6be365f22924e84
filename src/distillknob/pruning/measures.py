"""How much each layer does, and how well a model predicts texts: forward passes over calibration texts.

    influence        1 − cosine similarity of a layer's input and output          ShortGPT, arXiv 2403.03853, Eq. 1
    loss             the rise of the loss when a layer is left out                Shortened LLaMA, 2402.02834
    block            angle between what goes into a block of layers and what comes out, at a text's last token
                                                                The Unreasonable Ineffectiveness, 2403.17887, Eq. 7
    neurons          Σ |activation| of each intermediate neuron of an MLP         Minitron, 2407.14679

Every process makes the same calls, does a part, and gets the whole. Padding enters none of the figures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence

import torch

from distillknob.models.base import LanguageModel
from distillknob.models.families import check_length
from distillknob.models.heads import checked_head
from distillknob.models.layers import decoder_layers, directions, without_layers
from distillknob.models.scoring import BATCH_TOKENS, Batch, answer_hidden, batches, chosen_logprob
from distillknob.models.width import activations
from distillknob.pruning.texts import Texts
from distillknob.runs.journal import Journal
from distillknob.runtime.processes import merged, my_share
from distillknob.runtime.progress import progress

Read = Callable[[Batch], list[torch.Tensor]]  # a tensor a row of the batch


@torch.no_grad()
def token_losses(
    language_model: LanguageModel,
    texts: Texts,
    journal: Journal,
    description: str,
    *,
    left_out: Collection[int] = (),
) -> list[list[float]]:
    """−log p in nats of each token whose loss counts, a list a text, by the model without the layers `left_out`."""
    head = checked_head(language_model.model)

    def read(batch: Batch) -> list[torch.Tensor]:
        hidden_NH, token_N = answer_hidden(language_model, batch), batch.answer_ids_BA[batch.answer_mask_BA]
        blocks = head.blocks(len(token_N))
        loss_N = torch.cat([-chosen_logprob(head.logits(hidden_NH[block]), token_N[block]).cpu() for block in blocks])
        return [piece.clone() for piece in loss_N.split(batch.answer_mask_BA.sum(1).tolist())]

    with without_layers(language_model.model, left_out):
        rows = _over(language_model, texts, read, journal, description)
    return [row.tolist() for row in rows]


@torch.no_grad()
def influences(
    language_model: LanguageModel,
    texts: Texts,
    journal: Journal,
    description: str,
    *,
    left_out: Collection[int] = (),
) -> list[float]:
    """Each layer's block influence, the mean of 1 − cos(input, output) over all tokens of all texts, in the model
    without the layers `left_out` (theirs is 0)."""
    model = language_model.model
    count = len(decoder_layers(model).modules)

    def read(batch: Batch) -> list[torch.Tensor]:
        mask_BT = batch.attention_mask_BT.bool()
        sums_BL = torch.zeros(len(batch.rows), count, dtype=torch.float64)
        row_N = mask_BT.nonzero()[:, 0].cpu()

        def see(layer: int, before_NH: torch.Tensor, after_NH: torch.Tensor) -> None:
            # 1 − cos of two directions is half their squared distance, which is exactly 0 for the same two.
            turned_N = 0.5 * (before_NH - after_NH).square().sum(-1)
            sums_BL[:, layer].index_add_(0, row_N, turned_N.double().cpu())

        with directions(model, mask_BT, see):
            answer_hidden(language_model, batch)
        return list(sums_BL)

    with without_layers(model, left_out):
        rows = _over(language_model, texts, read, journal, description)
    return [float(total) / texts.tokens for total in torch.stack(rows).sum(0)]


@torch.no_grad()
def angles(language_model: LanguageModel, texts: Texts, block: int, journal: Journal, description: str) -> list[float]:
    """The angular distance (arccos of the cosine, over π) between what goes into the `block` layers from each layer on
    and what comes out behind them, at each text's last token, the mean over the texts; a value for each layer from
    which so many follow."""
    model = language_model.model
    count = len(decoder_layers(model).modules)

    def read(batch: Batch) -> list[torch.Tensor]:
        mask_BT = torch.zeros_like(batch.attention_mask_BT, dtype=torch.bool)
        mask_BT[:, -1] = True  # rows are padded on the left
        places: list[torch.Tensor] = []

        def see(layer: int, before_BH: torch.Tensor, after_BH: torch.Tensor) -> None:
            places.extend([before_BH, after_BH] if layer == count - 1 else [before_BH])

        with directions(model, mask_BT, see):
            answer_hidden(language_model, batch)
        cosines = [(one * other).sum(-1) for one, other in zip(places, places[block:], strict=False)]
        angle_BS = torch.stack(cosines, dim=-1).clamp(-1, 1).arccos() / math.pi
        return list(angle_BS.double().cpu())

    rows = _over(language_model, texts, read, journal, description)
    return [float(value) for value in torch.stack(rows).mean(0)]


@torch.no_grad()
def neuron_sums(
    language_model: LanguageModel, texts: Texts, left_out: Collection[int], journal: Journal, description: str
) -> torch.Tensor:
    """Σ |activation| over all tokens of all texts of each intermediate neuron of each layer's MLP, [L, F] in float64,
    in the model without the layers `left_out` (whose rows are 0)."""
    model = language_model.model

    def read(batch: Batch) -> list[torch.Tensor]:
        with activations(model, batch.attention_mask_BT.bool()) as sums_LF:
            answer_hidden(language_model, batch)
        nothing = torch.zeros(0, dtype=torch.float64)  # what all rows add up to stands in the first
        return [sums_LF.cpu(), *[nothing] * (len(batch.rows) - 1)]

    with without_layers(model, left_out):
        rows = _over(language_model, texts, read, journal, description)
    sums_LF: torch.Tensor = torch.stack([row for row in rows if row.numel()]).sum(0)
    return sums_LF


def _over(
    language_model: LanguageModel, texts: Texts, read: Read, journal: Journal, description: str
) -> list[torch.Tensor]:
    """What `read` says of each text, batch by batch of this process's share, then of all."""
    mine: Sequence[int] = my_share(range(len(texts)))
    before, scored = ([side[i] for i in mine] for side in (texts.before, texts.scored))
    check_length(
        language_model.model.config, max((len(b) + len(s) for b, s in zip(before, scored, strict=True)), default=0)
    )
    journal, said = journal.of_process(), dict[int, torch.Tensor]()
    with progress(description, len(mine), unit="text") as bar:
        for batch in batches(before, scored, language_model.model.device, BATCH_TOKENS):
            made_of = [[before[i], scored[i]] for i in batch.rows]
            rows = journal.take(batch.rows, made_of)
            if rows is None:
                rows = read(batch)
                journal.keep(batch.rows, rows, made_of)
            said |= {mine[i]: row for i, row in zip(batch.rows, rows, strict=True)}
            bar.update(len(batch.rows))
    everywhere: Mapping[int, torch.Tensor] = merged(said)
    return [everywhere[i] for i in range(len(texts))]
