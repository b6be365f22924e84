"""The control of a teacher that was moved as far as the target, but in a direction of no meaning.

What a defended teacher's students lose may be lost to any change of that size. So the undefended teacher's weights are
moved along a random direction until its distributions differ from what they were by the same KL as the target's, and
students learn from that.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from distillknob.attacks.access import Access
from distillknob.attacks.base import Attack, NotApplicableError, OfTarget, Problem, Scene
from distillknob.attacks.weights import check_weights_are_the_target, write_model
from distillknob.distillation.losses.divergence import divergence_of_heads
from distillknob.errors import RunFailedError
from distillknob.evaluation.measure import longest_answer
from distillknob.methods import METHODS
from distillknob.models.base import LanguageModel
from distillknob.models.chat import prompt_ids
from distillknob.models.heads import checked_head
from distillknob.models.load import load_model, load_tokenizer
from distillknob.models.names import SERVED
from distillknob.models.same_text import one_vocabulary
from distillknob.models.sampling import Sampling, generate
from distillknob.models.scoring import Prompt, answer_hidden, batches
from distillknob.runs.files import atomic_write, json_bytes, read_json
from distillknob.runs.journal import Journal

MOVED, RECORD = "moved", "same_kl.json"
TOLERANCE = 0.02  # of the KL, relative
FIRST, MOST = 1e-3, 1e2  # lengths, in norms of the weights: where the search begins, and where it gives up
BATCH_TOKENS = 16_384  # padded tokens of a batch


@dataclass(frozen=True)
class SameKl(Attack):
    """SameKl distils by `method` from the undefended teacher moved at random as far as the target. `problems` is how
    many of the problems the KL is measured on, one answer of the undefended teacher to each."""

    why: ClassVar[str] = "is it the defence that students suffer from, or any change of the teacher of that size?"
    method: str = "gkd"
    problems: int = 100

    @property
    def access(self) -> Access:
        method = METHODS[self.method]
        if method.lmbda:
            return Access("on_policy", queries=1)
        return Access("text" if method.loss == "hard_label" else "logits", queries=1)

    @property
    def of_target(self) -> OfTarget:
        return "weights"

    def student(self, scene: Scene) -> Path:
        folder = scene.folder / "same-kl"
        if not (folder / RECORD).exists():
            original, target = _both(scene)
            answers = own_answers(original, scene.problems[: self.problems], scene.seed, scene.journal.part("same-kl"))
            moved_by_same_kl(original, target, *answers, folder, scene.seed)
        return scene.distill(teacher=str(folder / MOVED), method=self.method)


@dataclass(frozen=True)
class Reached:
    """How far a teacher was moved: the mean KL a token in nats that was asked for and that was reached, the length of
    the step in norms of the weights, and the seed of its direction."""

    kl_of_target: float
    kl: float
    length: float
    seed: int


def own_answers(
    original: LanguageModel, problems: Sequence[Problem], seed: int, journal: Journal | None = None
) -> tuple[list[Prompt], list[list[int]]]:
    """One answer of the model to each problem at temperature 1: the prompts and the answers' tokens."""
    prompts, longest = [problem.messages for problem in problems], max(longest_answer(p.task, None) for p in problems)
    drawn = generate(original, prompts, 1, Sampling(max_new_tokens=longest, seed=seed), journal=journal)
    return drawn.prompts, [row[0].token_ids for row in drawn.completions]


def moved_by_same_kl(
    original: LanguageModel,
    target: LanguageModel,
    prompts: Sequence[Prompt],
    answers_ids: Sequence[Sequence[int]],
    folder: Path,
    seed: int,
) -> Reached:
    """Move a copy of `original` along a random direction until KL(moved ‖ original) is KL(target ‖ original), each a
    mean over the tokens of the same answers of the original, to within 2 %; write it into `folder`/moved, and how far
    it was moved beside it.

    Each tensor's part of the direction is normal noise of the tensor's own norm. The length is found by bisection.
    Raises NotApplicableError where the target's distributions are the original's, and RunFailedError where no length
    gives as large a KL.
    """
    asked = mean_token_kl(target, original, prompts, answers_ids)
    if not asked > 0:
        raise NotApplicableError("the target's distributions are the original's: there is no KL to move another by")
    moved = LanguageModel(copy.deepcopy(original.model), original.tokenizer)

    def kl_at(length: float) -> float:
        _move(moved.model, original.model, length, seed)
        return mean_token_kl(moved, original, prompts, answers_ids)

    low, high = 0.0, FIRST
    while (kl := kl_at(high)) < asked * (1 - TOLERANCE):
        low, high = high, 2 * high
        if high > MOST:
            raise RunFailedError(
                f"no random step of up to {MOST:g} norms of the weights moves the original by {asked:.3g} nats a "
                "token, as far as the target lies from it: leave the control same_kl out for this target"
            )
    length = high
    while not abs(kl / asked - 1) <= TOLERANCE:  # a NaN lies too far out
        low, high = (length, high) if kl < asked else (low, length)
        length = (low + high) / 2
        if not low < length < high:
            raise RunFailedError(f"no random step reaches {asked:.3g} nats a token to within {100 * TOLERANCE:g} %")
        kl = kl_at(length)
    reached = Reached(asked, kl, length, seed)
    write_model(moved, folder / MOVED)
    atomic_write(folder / RECORD, json_bytes(asdict(reached), indent=2) + b"\n")
    return reached


def reached_in(folder: Path) -> Reached:
    """How far the teacher in a folder that `moved_by_same_kl` wrote was moved."""
    return Reached(**read_json(folder / RECORD))


@torch.no_grad()
def mean_token_kl(
    p: LanguageModel, q: LanguageModel, prompts: Sequence[Prompt], answers_ids: Sequence[Sequence[int]]
) -> float:
    """KL(p ‖ q) of the next-token distributions in nats, a mean over all tokens of the answers (token ids of both)."""
    heads = [checked_head(side.model) for side in (p, q)]
    total, count = 0.0, sum(map(len, answers_ids))
    for batch in batches(prompt_ids(q.tokenizer, prompts), answers_ids, q.model.device, BATCH_TOKENS):
        if batch.answer_ids_BA.size(1):
            p_NH, q_NH = answer_hidden(p, batch), answer_hidden(q, batch)
            total += float(divergence_of_heads(heads[1], q_NH, heads[0], p_NH, "forward_kl", num_items=1))
    return total / max(1, count)


@torch.no_grad()
def _move(moved: Any, original: Any, length: float, seed: int) -> None:
    """Put the original's weights and so long a step along the seed's direction into `moved`."""
    pairs = zip(moved.parameters(), original.parameters(), _direction(original, seed), strict=True)
    for weight, start, step in pairs:
        weight.copy_(start.float() + length * step)


def _direction(model: Any, seed: int) -> Iterator[torch.Tensor]:
    """Normal noise for each tensor of weights, of the tensor's norm, float32; the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        noise = torch.randn(weight.shape, generator=generator)
        yield (noise * (float(weight.float().norm()) / float(noise.norm()))).to(weight.device)


def _both(scene: Scene) -> tuple[LanguageModel, LanguageModel]:
    """The undefended teacher and the target. Raises NotApplicableError where they can't be compared."""
    check_weights_are_the_target(scene)
    if scene.original_name.startswith(SERVED):
        raise NotApplicableError(f"{scene.original_name!r} is behind a server, and its weights would have to be moved")
    if scene.original_name == scene.teacher_name:
        raise NotApplicableError("the target is the original: there is no KL to move another teacher by")
    if not one_vocabulary(load_tokenizer(scene.original_name), load_tokenizer(scene.teacher_name)):
        raise NotApplicableError("the target has another tokenizer than the original: their KL a token isn't defined")
    return load_model(scene.original_name), load_model(scene.teacher_name)
