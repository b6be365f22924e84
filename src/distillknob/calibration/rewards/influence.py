"""What learning an answer would do to the student's score."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from accelerate.utils import reduce
from transformers import PreTrainedTokenizerBase

from distillknob.calibration.rewards.base import Fixed, Rollout
from distillknob.calibration.rewards.student_copy import student_copy
from distillknob.errors import BadInputError
from distillknob.evaluation.measure import sample_and_grade
from distillknob.models.base import LanguageModel
from distillknob.models.same_text import answers_logprob
from distillknob.models.scoring import Prompt, Scorer
from distillknob.runs.journal import Journal
from distillknob.runtime.processes import my_share, notice
from distillknob.tasks import Example, Task
from distillknob.training.likelihood import add_likelihood_gradients

# Of the central difference, as a share of the weights' norm. On the embedded student a step of 1e-3 is wrong by up to a
# fifth, one of 1e-4 by 0.7 % and this one by 0.1 %, beside the inner product by automatic differentiation.
STEP = 3e-5


class Influence(Fixed):
    """−⟨∇_φ log q_φ(y|x), ĝ⟩ in nats a unit of weights: how much a step of SFT on the answer takes from the student's
    own score. Ours, after antidistillation sampling (arXiv 2504.13146), which moves next tokens by such a difference.

    ĝ is the direction in weight space in which the student's score on its tasks rises fastest, from REINFORCE on its
    own graded answers to problems of the train split. The inner product is a central difference: the answer's
    log-likelihood under the student a small step back along ĝ, less that a step ahead. It asks neither how the policy
    writes nor which way the student is used to. Needs a student that is right now and then.
    """

    quantity = "influence on the student's score, reversed"
    unit = "nats a unit of weights"

    def __init__(
        self,
        target: Scorer,
        tokenizer: PreTrainedTokenizerBase,
        problems: Sequence[tuple[Task, Sequence[Example]]],
        *,
        samples: int = 8,
        max_new_tokens: int | None = None,
        seed: int = 0,
        journal: Journal | None = None,
    ):
        self.tokenizer = tokenizer
        student = student_copy(target, "influence")
        direction = score_gradient(student, problems, samples, max_new_tokens, seed, journal)
        norm = math.sqrt(sum(float(value.square().sum()) for value in direction.values()))
        if norm == 0:
            raise BadInputError(
                f"reward='influence': the student {target.name!r} is either always right or always wrong on each of "
                "the problems that it was asked, so that nothing says what would raise its score: take more problems "
                "(influence_problems), easier tasks, or another reward"
            )
        weights = math.sqrt(sum(float(p.detach().square().sum()) for p in student.model.parameters()))
        self.step = STEP * weights
        self.ahead, self.back = (_moved(student, direction, sign * self.step / norm) for sign in (1, -1))

    def values(
        self, answers: Rollout, policy_BT: torch.Tensor, mask_BT: torch.Tensor, original_BT: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The influence of each answer, reversed, [B]."""
        back_B, ahead_B = (
            answers_logprob(side, answers.prompts, answers.ids, answers.finished, self.tokenizer)
            for side in (self.back, self.ahead)
        )
        return ((back_B - ahead_B) / (2 * self.step)).to(policy_BT)


def score_gradient(
    student: LanguageModel,
    problems: Sequence[tuple[Task, Sequence[Example]]],
    samples: int,
    max_new_tokens: int | None,
    seed: int,
    journal: Journal | None = None,
) -> dict[str, torch.Tensor]:
    """Estimate the gradient of the student's mean score in its weights, by name: the sum over its own answers of
    (score − mean of the problem's others) · ∇ log q(y), over their number. Tasks count alike. Every process takes a
    part of the answers."""
    prompts: list[Prompt] = []
    ids: list[list[int]] = []
    weights: list[float] = []
    for place, (task, examples) in enumerate(problems):
        drawn = sample_and_grade(
            student,
            task,
            examples,
            samples,
            max_new_tokens=max_new_tokens,
            seed=seed,
            journal=(journal or Journal()).part(f"task-{place}"),
            shared=True,
            description=f"the student's own answers: {task.name}",
        )
        answers = len(examples) * samples * len(problems)
        for example, row, scores in zip(examples, drawn.samples, drawn.scores, strict=True):
            for sample, score in zip(row, scores, strict=True):
                others = (sum(scores) - score) / (samples - 1)
                if score != others and sample.token_ids:
                    prompts.append(task.messages(example))
                    ids.append(list(sample.token_ids))
                    weights.append((score - others) / answers)
    notice(f"influence: {len(weights)} of the student's own answers say what raises its score")
    student.model.zero_grad()
    mine = my_share(range(len(weights)))
    add_likelihood_gradients(student, [prompts[i] for i in mine], [ids[i] for i in mine], [weights[i] for i in mine])
    gradient = {}
    for name, parameter in student.model.named_parameters():
        own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        gradient[name] = reduce(own, "sum")
        parameter.grad = None
    return gradient


@torch.no_grad()
def _moved(student: LanguageModel, direction: dict[str, torch.Tensor], length: float) -> LanguageModel:
    """A frozen copy of the student, moved along the direction."""
    model = copy.deepcopy(student.model)
    for name, parameter in model.named_parameters():
        parameter.add_(direction[name], alpha=length)
    model.requires_grad_(False)
    return LanguageModel(model, student.tokenizer)
