"""The student's gradients of one batch under three estimates of the same reverse KL, for the trap `sequence_myopia`.

On the student's own answers, with f_t = log q(y_t) − log p(y_t) held constant, everything a token of the batch:

  token_level    ∇ Σ_t KL(q_t‖p_t): every token of the vocabulary counts
  sampled_token  Σ_t f_t·∇ log q(y_t): the same in expectation over y_t, from the sampled token alone
  sequence       (Σ_t f_t)·∇ Σ_t log q(y_t): REINFORCE on the sequence-level KL, which counts what a token does to the
                 rest of the answer and adds the noise of all other tokens to each

A batch is one prompt's answers. Memory: the gradients' sums over the batches, six times the student's parameters.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from distillknob.divergences import divergence
from distillknob.errors import BadInputError
from distillknob.models import LanguageModel, prompt_ids
from distillknob.progress import progress
from distillknob.scoring import Batch, Prompt, answer_logits, batches
from distillknob.traps.scored import GradientSample


def compare_gradients(
    teacher: LanguageModel,
    student: LanguageModel,
    task: str,
    prompts: Sequence[Prompt],
    answers_ids: Sequence[Sequence[Sequence[int]]],
    *,
    batch_tokens: int = 16_384,
) -> GradientSample:
    """Inner products of the three gradients in the student's trainable parameters, a prompt at a time.

    `answers_ids` [prompts][answers] are token ids that the student sampled. Prompts whose answers are all empty are
    left out. Raises BadInputError for a student without trainable parameters.
    """
    parameters = [p for p in student.model.parameters() if p.requires_grad]
    if not parameters:
        raise BadInputError(f"no parameter of {student.model.name_or_path!r} is trainable: there is no gradient")
    kept, products = [], []
    sums = [torch.zeros(sum(p.numel() for p in parameters), device=student.model.device) for _ in range(3)]
    ids = prompt_ids(teacher.tokenizer, prompts)
    with progress(f"gradients: {task}", len(prompts), unit="prompt") as bar:
        for i, rows in enumerate(answers_ids):
            answers = [answer for answer in rows if answer]
            if answers:
                gradients = [torch.zeros_like(total) for total in sums]
                for batch in batches([ids[i]] * len(answers), answers, student.model.device, batch_tokens):
                    losses = _losses(teacher, student, batch)
                    for k, loss in enumerate(losses):
                        found = torch.autograd.grad(loss, parameters, retain_graph=k < 2, materialize_grads=True)
                        gradients[k] += torch.cat([g.reshape(-1).float() for g in found])
                scale = 1 / sum(len(answer) for answer in answers)
                for gradient, total in zip(gradients, sums, strict=True):
                    total += gradient.mul_(scale)
                kept.append(i)
                products.append(_products(gradients))
            bar.update(1)
    mean = _products([total / max(1, len(kept)) for total in sums])
    found_BE = torch.stack(products) if products else torch.zeros(0, 3, 3, dtype=torch.float64)
    return GradientSample(task=task, prompt_B=torch.tensor(kept, dtype=torch.long), product_BEE=found_BE, mean_EE=mean)


def _losses(teacher: LanguageModel, student: LanguageModel, batch: Batch) -> tuple[torch.Tensor, ...]:
    """Token-level, sampled-token and sequence loss, each summed over the batch's tokens."""
    with torch.no_grad():
        teacher_BAV = answer_logits(teacher, batch).float()
    student_BAV = answer_logits(student, batch).float()
    width = min(teacher_BAV.size(-1), student_BAV.size(-1))
    mask_BA = batch.answer_mask_BA
    chosen = batch.answer_ids_BA[..., None]
    logq_BA = student_BAV[..., :width].log_softmax(-1).gather(-1, chosen)[..., 0]
    logp_BA = teacher_BAV[..., :width].log_softmax(-1).gather(-1, chosen)[..., 0]
    logq_BA, logp_BA = logq_BA.where(mask_BA, 0.0), logp_BA.where(mask_BA, 0.0)
    ratio_BA = (logq_BA - logp_BA).detach()
    token = divergence(student_BAV[mask_BA], teacher_BAV[mask_BA], "reverse_kl").sum()
    return token, (ratio_BA * logq_BA).sum(), (ratio_BA.sum(1, keepdim=True) * logq_BA).sum()


def _products(gradients: Sequence[torch.Tensor]) -> torch.Tensor:
    """All inner products [3, 3] of the three gradients, in float64."""
    return torch.stack([torch.stack([torch.dot(a, b).double().cpu() for b in gradients]) for a in gradients])
