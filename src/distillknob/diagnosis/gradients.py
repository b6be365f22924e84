"""The student's gradients of one batch under three estimates of the same reverse KL, for the trap `sequence_myopia`.

On the student's own answers, with f_t = log q(y_t) − log p(y_t) held constant, everything a token of the batch:

  token_level    ∇ Σ_t KL(q_t‖p_t): every token of the vocabulary counts
  sampled_token  Σ_t f_t·∇ log q(y_t): the same in expectation over y_t, from the sampled token alone
  sequence       (Σ_t f_t)·∇ Σ_t log q(y_t): REINFORCE on the sequence-level KL, which counts what a token does to the
                 rest of the answer and adds the noise of all other tokens to each

A batch is one prompt's answers. Products within a batch are exact. For those of the means over batches each gradient
is kept as a sketch: it is folded into `SKETCH` numbers with random signs, which keeps inner products in expectation,
with a standard error of at most √(2 / SKETCH), 0.6 %, of the lengths' product. Memory: four times the student's
parameters.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from distillknob.diagnosis.samples import GradientSample
from distillknob.divergences.dense import divergence
from distillknob.errors import BadInputError
from distillknob.models.base import LanguageModel
from distillknob.models.chat import prompt_ids
from distillknob.models.heads import exchanged
from distillknob.models.same_text import exchanged_ends
from distillknob.models.scoring import Batch, Prompt, answer_logits, batch_of, batches
from distillknob.runs.journal import Journal
from distillknob.runtime.processes import merged, my_share
from distillknob.runtime.progress import progress

SKETCH = 1 << 16


def compare_gradients(
    teacher: LanguageModel,
    student: LanguageModel,
    task: str,
    prompts: Sequence[Prompt],
    answers_ids: Sequence[Sequence[Sequence[int]]],
    *,
    batch_tokens: int = 16_384,
    journal: Journal | None = None,
) -> GradientSample:
    """Take the inner products of the three gradients in the student's trainable parameters, a prompt at a time.

    Args: answers_ids: [prompts][answers] of token ids that the student sampled. Prompts whose answers are all empty
      are left out. Every process takes a part of the prompts.
    Raises: BadInputError for a student without trainable parameters.
    """
    parameters = [p for p in student.model.parameters() if p.requires_grad]
    if not parameters:
        raise BadInputError(f"no parameter of {student.model.name_or_path!r} is trainable: there is no gradient")
    journal = (journal or Journal()).of_process()
    by_prompt: dict[int, list[torch.Tensor]] = {}  # products and sketches
    sides = [prompt_ids(side.tokenizer, prompts) for side in (teacher, student)]
    with progress(f"gradients: {task}", len(prompts), unit="prompt") as bar:
        for i in my_share(range(len(answers_ids))):
            answers = [answer for answer in answers_ids[i] if answer]
            if answers:
                compared = journal.take([i])
                if compared is None:
                    gradients = _gradients(
                        teacher, student, parameters, [ids[i] for ids in sides], answers, batch_tokens
                    )
                    compared = [_products(gradients), _sketched(gradients)]
                    journal.keep([i], compared)
                by_prompt[i] = compared
            bar.update(1)
    by_prompt = dict(sorted(merged(by_prompt).items()))
    products, sketches = ([compared[k] for compared in by_prompt.values()] for k in (0, 1))
    mean = torch.stack(sketches).mean(0) if sketches else torch.zeros(3, 1)
    product_BEE = torch.stack(products) if products else torch.zeros(0, 3, 3, dtype=torch.float64)
    return GradientSample(
        task=task,
        prompt_B=torch.tensor(list(by_prompt), dtype=torch.long),
        product_BEE=product_BEE,
        mean_EE=_products(list(mean)),
    )


def _gradients(
    teacher: LanguageModel,
    student: LanguageModel,
    parameters: Sequence[torch.nn.Parameter],
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    batch_tokens: int,
) -> list[torch.Tensor]:
    """The three gradients [P] of one prompt's answers, over the number of their tokens; the prompt as the teacher reads
    it and as the student does."""
    gradients = [torch.zeros(sum(p.numel() for p in parameters), device=student.model.device) for _ in range(3)]
    taught, studied = ([prompt] * len(answers) for prompt in prompts)
    for batch in batches(taught, answers, student.model.device, batch_tokens):
        own = batch if taught == studied else batch_of(batch.rows, studied, answers, student.model.device)
        losses = _losses(teacher, student, batch, own)
        for k, loss in enumerate(losses):
            parts = torch.autograd.grad(loss, parameters, retain_graph=k < 2, materialize_grads=True)
            at = 0
            for gradient in parts:
                gradients[k][at : at + gradient.numel()] += gradient.reshape(-1)
                at += gradient.numel()
    scale = 1 / sum(len(answer) for answer in answers)
    return [gradient.mul_(scale) for gradient in gradients]


def _sketched(vectors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Each vector folded into `SKETCH` numbers, [3, SKETCH] on the CPU; as it is where it is no longer."""
    size = len(vectors[0])
    if size <= SKETCH:
        return torch.stack([vector.cpu() for vector in vectors])
    device = vectors[0].device
    generator = torch.Generator(device=device).manual_seed(0)
    folded = torch.zeros(len(vectors), SKETCH, device=device)
    for start in range(0, size, 64 * SKETCH):
        end = min(start + 64 * SKETCH, size)
        signs = (
            torch.randint(0, 2, (end - start,), generator=generator, device=device, dtype=torch.int8).mul_(2).sub_(1)
        )
        for row, vector in zip(folded, vectors, strict=True):
            piece = vector[start:end] * signs
            row += torch.nn.functional.pad(piece, (0, -len(piece) % SKETCH)).view(-1, SKETCH).sum(0)
    return folded.cpu()


def _losses(teacher: LanguageModel, student: LanguageModel, batch: Batch, studied: Batch) -> tuple[torch.Tensor, ...]:
    """Token-level, sampled-token and sequence loss, each summed over the batch's tokens."""
    with torch.no_grad():
        teacher_BAV = answer_logits(teacher, batch).float()
        ends = exchanged_ends(teacher.tokenizer, student.tokenizer)
        if ends is not None:
            exchanged(teacher_BAV, ends)
    student_BAV = answer_logits(student, studied).float()
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
    return torch.stack([torch.stack([_dot(a, b) for b in gradients]) for a in gradients])


def _dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """In parts: CUDA's dot takes no more than 2³¹ numbers."""
    parts = zip(a.split(1 << 30), b.split(1 << 30), strict=True)
    return torch.stack([torch.dot(x, y).double().cpu() for x, y in parts]).sum()
