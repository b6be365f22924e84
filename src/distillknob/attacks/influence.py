"""What training on a trace does to the loss on clean solutions, and weights by it.

    v_i = ⟨∇L_clean, ∇nll_i⟩

A step of SFT on trace i changes the student's weights by −∇nll_i, and so the clean loss by −v_i: where v_i > 0 the
trace helps. The reweighting attack of arXiv 2605.22737 gives such traces more weight; the code that was published with
it computes −v_i and gives them less, so that whoever mounts it should try both signs.

Both losses are means over tokens, so that long answers don't count for their length.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from distillknob.models.base import LanguageModel
from distillknob.models.scoring import Prompt, token_logprobs
from distillknob.runs.journal import Journal
from distillknob.training.likelihood import add_likelihood_gradients

STEP = 3e-5  # of the central difference, as a share of the weights' norm (`calibration.rewards.influence` says why)
MOST = 10.0  # deviations beyond which an influence counts no further


def influence(
    student: LanguageModel,
    prompts: Sequence[Prompt],
    answers_ids: Sequence[Sequence[int]],
    clean_prompts: Sequence[Prompt],
    clean_ids: Sequence[Sequence[int]],
    journal: Journal | None = None,
) -> Tensor:
    """The influence v [N] of training on each answer (token ids of the student's tokenizer) on the student's loss on
    clean solutions, in nats² a unit of weights, float32; 0 for an answer without tokens. The student stays as it is.

    The inner product is a central difference: the answers' losses a small step ahead along ∇L_clean, less those a step
    back. `journal` holds what was scored. Raises ValueError where the clean solutions have no tokens.
    """
    tokens = sum(map(len, clean_ids))
    if not tokens:
        raise ValueError("an influence on clean solutions needs some with tokens")
    moved = LanguageModel(copy.deepcopy(student.model).float().requires_grad_(True), student.tokenizer)
    moved.model.zero_grad()
    add_likelihood_gradients(moved, clean_prompts, clean_ids, [-1 / tokens] * len(clean_ids))
    parameters = list(moved.model.parameters())
    direction = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    norm = math.sqrt(sum(float(part.square().sum()) for part in direction))
    if norm == 0:  # solutions that the student is sure of: nothing could lower their loss
        return torch.zeros(len(answers_ids))
    step = STEP * math.sqrt(sum(float(p.detach().square().sum()) for p in parameters))
    losses_2N, journal = [], journal or Journal()
    for side, length in (("ahead", step), ("back", -2 * step)):
        with torch.no_grad():
            for parameter, part in zip(parameters, direction, strict=True):
                parameter.add_(part, alpha=length / norm)
        logprobs = token_logprobs(
            moved, prompts, answers_ids, journal=journal.part(side), description=f"influence, a step {side}"
        )
        losses_2N.append(torch.tensor([-float(row.double().sum()) / max(1, len(row)) for row in logprobs]))
    return (losses_2N[0] - losses_2N[1]) * (norm / (2 * step))


def weights_by(influence_N: Tensor, sign: int, beta: float) -> Tensor:
    """Weights [N] with the mean 1, ∝ exp(sign · β · v / deviation), whose exponents are bounded at ±10 β; all 1 where
    no two traces differ. `sign` +1 prefers what helps, −1 what harms."""
    deviation = influence_N.double().std(unbiased=False)
    if not float(deviation) > 0:
        return torch.ones(len(influence_N))
    exponents_N = sign * beta * (influence_N.double() / deviation).clamp(-MOST, MOST)
    return (exponents_N.softmax(0) * len(influence_N)).float()
